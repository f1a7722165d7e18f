"""INT4: what rounding to 4 bits in blocks may cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkpoints import ALL_LAYOUTS
from exporting import Exported
from rfprm_export.parity.probes import PROBES
from rfprm_export.quantize.integers import BLOCK, SMALLEST, quantise_blocks, zero_of


def restored(values: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    nibbles = np.stack([values & 15, values >> 4], -1).reshape(*scales.shape, BLOCK).astype(np.float32)
    return ((nibbles - zero_of(4)) * scales[..., None]).reshape(len(values), -1)[:, :columns]


@given(arrays(np.float32, (3, 70), elements=st.floats(-100, 100, width=32)))
def test_rounding_is_no_worse_than_by_the_largest_value(rows: np.ndarray) -> None:
    values, scales = quantise_blocks(rows, 4)
    assert (values.shape, scales.shape, scales.dtype) == ((3, 3, BLOCK // 2), (3, 3), np.float32)
    filled = np.pad(rows, ((0, 0), (0, 26))).reshape(3, 3, BLOCK)
    ends = np.take_along_axis(filled, np.abs(filled).argmax(-1)[..., None], -1)
    steps = np.where(np.abs(ends) > SMALLEST, ends / -zero_of(4), 1)
    plain = (np.clip(np.rint(filled / steps), -8, 7) * steps - filled) ** 2
    found = (restored(values, scales, 96).reshape(3, 3, BLOCK) - filled) ** 2
    assert (found.sum(-1) <= plain.sum(-1) * 1.001 + 1e-6).all()


def least_error(block: np.ndarray) -> float:
    """Of 32 values by the best of the scales that are tried: 0.8 to 1.05 of the one that maps the value of largest
    magnitude to -8, each fitted to what it rounds to."""
    end = block[np.abs(block).argmax()] / -8
    errors = []
    for part in (0.8, 0.85, 0.9, 0.95, 1.0, 1.05):
        values = np.clip(np.rint(block / (end * part)), -8, 7)
        fitted = values @ block / (values @ values)
        errors.append(float(((block - fitted * values) ** 2).sum()))
    return min(errors)


@given(st.integers(0, 999), st.integers(1, 70))
def test_no_scale_that_is_tried_leaves_less(seed: int, columns: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((3, columns)).astype(np.float32)
    values, scales = quantise_blocks(rows, 4)
    blocks = scales.shape[1]
    filled = np.pad(rows.astype(np.float64), ((0, 0), (0, blocks * BLOCK - columns))).reshape(-1, BLOCK)
    found = ((restored(values, scales, blocks * BLOCK).reshape(-1, BLOCK) - filled) ** 2).sum(-1)
    assert blocks == -(-columns // BLOCK)
    assert (found <= np.array([least_error(block) for block in filled]) * 1.001 + 1e-9).all()


def test_zeros_stay_zeros() -> None:
    rows = np.zeros((2, 40), np.float32)
    rows[0, 39] = 7e-31  # as small as no scale can be
    values, scales = quantise_blocks(rows, 4)
    assert (restored(values, scales, 40) == 0).all()
    assert (scales > 1e-30).all()


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_rewards_are_in_the_neighbourhood_of_pytorchs(exported: Callable[[str], Exported], recipe: str) -> None:
    """Random weights, the worst of inputs: what matters is that nothing is packed in a wrong order."""
    made = exported(recipe)
    expected = np.concatenate(made.reference.step_rewards(PROBES))
    found = np.concatenate([score.step_rewards for score in made.variant("int4").score_many(PROBES)])
    assert 1e-3 < np.abs(found - expected).mean() < 0.15
    assert np.corrcoef(found, expected)[0, 1] > 0.6
