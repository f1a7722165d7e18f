"""Bias correction: the mean error goes, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exporting import Exported
from rfprm_export.parity.bias_correction import logit_shift, variant_rewards
from rfprm_export.parity.texts import calibration_texts
from rfprm_export.write.calibrated import calibrate
from rfprm_lite.bundle.open import check_files
from rfprm_lite.bundle.recipe import Head
from rfprm_lite.device import DeviceSpec
from rfprm_lite.text.encoding import Encoder

Get = Callable[[str], Exported]
HEAD = Head("linear", "sigmoid", (1.0,))
CPU = DeviceSpec("cpu")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-4, 4)), st.floats(-0.3, 0.3))
def test_a_shift_of_all_logits_is_found(logits: np.ndarray, shift: float) -> None:
    assert logit_shift(HEAD, sigmoid(logits), sigmoid(logits - shift)) == pytest.approx(shift, rel=0.2, abs=1e-4)


def test_rewards_that_no_shift_could_change_say_nothing() -> None:
    expected, found = np.float32([0.2, 0.9, 0.5]), np.float32([0, 1, 1])
    assert logit_shift(HEAD, expected, found) == 0
    assert logit_shift(HEAD, np.append(expected, np.float32(0.5)), np.append(found, np.float32(0.4))) > 0.3


@pytest.mark.parametrize("recipe", ["reasonflux-prm-7b", "reasonflux-prm-1.5b"])
@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_what_calibration_saw_is_off_to_both_sides_alike(exported: Get, recipe: str, variant: str) -> None:
    made = exported(recipe)
    bundle = made.opened(variant)
    check_files(bundle, contents=True)
    encoder = Encoder.from_file(bundle.tokenizer, bundle.manifest.recipe, bundle.manifest.max_tokens)
    (shifted,) = [said for said in bundle.variant.made_by if said.startswith("the head's bias shifted by ")]
    shift = float(shifted.split()[5].rstrip(","))
    texts = calibration_texts(encoder, made.reference.checkpoint.architecture, 8)  # as the bundle was made
    calibration = calibrate(made.reference, texts, [], ranges=False)
    assert texts.description in bundle.variant.made_by
    found = variant_rewards(bundle, texts.sequences, by_layer=False, device=CPU)
    assert (
        abs(logit_shift(bundle.manifest.recipe.head, np.concatenate(calibration.rewards), np.concatenate(found)))
        < 0.1 * abs(shift) + 1e-3
    )
    for own, other in zip(found, variant_rewards(bundle, texts.sequences, by_layer=True, device=CPU), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)
