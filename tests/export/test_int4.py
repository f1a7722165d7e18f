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
from rfprm_export.quantize.integers import BLOCK, SMALLEST, ZERO, quantise_blocks


def restored(values: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    nibbles = np.stack([values & 15, values >> 4], -1).reshape(*scales.shape, BLOCK).astype(np.float32)
    return ((nibbles - ZERO) * scales[..., None]).reshape(len(values), -1)[:, :columns]


@given(arrays(np.float32, (3, 70), elements=st.floats(-100, 100, width=32)))
def test_rounding_is_no_worse_than_by_the_largest_value(rows: np.ndarray) -> None:
    values, scales = quantise_blocks(rows)
    assert (values.shape, scales.shape, scales.dtype) == ((3, 3, BLOCK // 2), (3, 3), np.float32)
    filled = np.pad(rows, ((0, 0), (0, 26))).reshape(3, 3, BLOCK)
    ends = np.take_along_axis(filled, np.abs(filled).argmax(-1)[..., None], -1)
    steps = np.where(np.abs(ends) > SMALLEST, ends / -ZERO, 1)
    plain = (np.clip(np.rint(filled / steps), -8, 7) * steps - filled) ** 2
    found = (restored(values, scales, 96).reshape(3, 3, BLOCK) - filled) ** 2
    assert (found.sum(-1) <= plain.sum(-1) * 1.001 + 1e-6).all()


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_rewards_are_in_the_neighbourhood_of_pytorchs(exported: Callable[[str], Exported], recipe: str) -> None:
    """Random weights, the worst of inputs: what matters is that nothing is packed in a wrong order."""
    made = exported(recipe)
    expected = np.concatenate(made.reference.step_rewards(PROBES))
    found = np.concatenate([score.step_rewards for score in made.variant("int4").score_many(PROBES)])
    assert 1e-3 < np.abs(found - expected).mean() < 0.15
    assert np.corrcoef(found, expected)[0, 1] > 0.6
