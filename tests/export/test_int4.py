"""Weights in blocks: what rounding to 4 bits, or 8, may cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import DTypeLike
from onnx_ir import DataType

from checkpoints import ALL_LAYOUTS
from exporting import Exported
from rfprm_export.errors import RangeError
from rfprm_export.parity.probes import PROBES
from rfprm_export.quantize.integers import BLOCK, SMALLEST, quantise_blocks, zero_of


def restored(values: np.ndarray, scales: np.ndarray, columns: int, bits: int = 4) -> np.ndarray:
    unsigned = np.stack([values & 15, values >> 4], -1) if bits == 4 else values
    centred = unsigned.reshape(*scales.shape, BLOCK).astype(np.float32) - zero_of(bits)
    return (centred * scales[..., None]).reshape(len(values), -1)[:, :columns]


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


@given(arrays(np.float32, (3, 70), elements=st.floats(-100, 100, width=32)))
def test_8_bits_are_within_half_a_step(rows: np.ndarray) -> None:
    """Of a block's largest magnitude / 128, the ends of the range included."""
    values, scales = quantise_blocks(rows, 8)
    assert (values.shape, scales.shape) == ((3, 3, BLOCK), (3, 3))
    filled = np.pad(rows, ((0, 0), (0, 26))).reshape(3, 3, BLOCK)
    steps = np.maximum(np.abs(filled).max(-1, keepdims=True) / 128, SMALLEST)
    found = np.abs(restored(values, scales, 96, bits=8).reshape(3, 3, BLOCK) - filled)
    assert (np.sqrt((found**2).mean(-1, keepdims=True)) <= 0.51 * steps).all()


@pytest.mark.parametrize("kept", [np.float16, DataType.BFLOAT16.numpy()])
def test_values_are_rounded_by_the_scales_that_are_kept(kept: DTypeLike) -> None:
    """Scales of 16 bits are off by up to a part in 256; the error is smaller if values know."""
    rows = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    values, scales = quantise_blocks(rows, 8, kept=kept)
    assert (scales == scales.astype(kept).astype(np.float32)).all()
    exact_values, exact = quantise_blocks(rows, 8)
    unaware = exact.astype(kept).astype(np.float32)
    errors = [
        float(((restored(v, s, 64, bits=8) - rows) ** 2).mean()) for v, s in ((values, scales), (exact_values, unaware))
    ]
    assert errors[0] <= errors[1]


def test_a_scale_that_float16_can_not_hold_is_refused() -> None:
    with pytest.raises(RangeError, match="a scale of 625000 is too large for float16"):
        quantise_blocks(np.full((1, 32), 5e6, np.float32), 4, kept=np.float16)
    values, scales = quantise_blocks(np.full((1, 32), 1e-9, np.float32), 4, kept=np.float16)  # too small: zeros
    assert (restored(values, scales, 32) == 0).all()


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
