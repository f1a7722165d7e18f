"""Parity: each number is what its name says, by another way from the same rewards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from exporting import Exported
from rfprm_export.parity import stages
from rfprm_export.parity.measure import measure
from rfprm_export.parity.probes import PROBES, pools
from rfprm_export.parity.texts import ParityTexts
from rfprm_lite.evaluate import agreement
from rfprm_lite.text.encoding import Encoder


@pytest.mark.parametrize("by_layer", [True, False])
def test_its_numbers_follow_from_the_rewards(exported: Callable[[str], Exported], by_layer: bool) -> None:
    """Against expected rewards that have nothing to do with the variant's, so that no two numbers agree by chance."""
    made = exported("reasonflux-prm-7b")
    bundle = made.opened("fp32")
    encoder = Encoder.from_file(bundle.tokenizer, bundle.manifest.recipe, bundle.manifest.max_tokens)
    texts = ParityTexts([*pools()[0], *PROBES], [slice(0, 3), slice(3, 8)])
    rewards = stages.step_rewards(bundle, encoder, texts.traces)
    draw = np.random.default_rng(0)
    expected = [draw.uniform(0, 1, len(steps)).astype(np.float32) for steps in rewards]

    parity = measure(bundle, encoder, texts, expected, by_layer=by_layer)

    differences = np.sort(np.abs(np.concatenate(rewards) - np.concatenate(expected)))
    assert parity.mean_abs_difference == pytest.approx(differences.mean(), abs=1e-5)
    assert parity.max_abs_difference == pytest.approx(differences[-1], abs=1e-5)
    assert differences[int(0.97 * len(differences))] < parity.p99_abs_difference <= differences[-1] + 1e-5
    assert parity.num_rewards == len(differences)
    totals = [np.array([steps.astype(float).mean() + steps[-1] for steps in way]) for way in (expected, rewards)]
    taus, same = [], []
    for pool in texts.pools:
        reference, variant = (total[pool] for total in totals)
        signs = [
            np.sign(reference[i] - reference[j]) * np.sign(variant[i] - variant[j])
            for i, j in combinations(range(len(reference)), 2)
        ]
        taus.append(np.mean(signs))
        same.append(reference[np.argmax(variant)] > reference.max() - agreement.NEAR_TIE)
    assert parity.tau == pytest.approx(np.mean(taus))
    assert parity.same_choice == pytest.approx(np.mean(same))
    assert np.mean(taus) < 0.9
    assert np.mean(same) < 1
