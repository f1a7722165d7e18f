"""Weights as integers with scales: 8 bits a row, or 4 or 8 bits a block of 32. Pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rfprm_export.errors import RangeError
from rfprm_export.quantize.round import Range, Round, round_to_nearest

LARGEST = 127
"""The largest magnitude of a signed 8-bit value; -128 is not used."""
BYTES = Range(-LARGEST, LARGEST)
"""For what is looked up."""
LARGEST_PAIR = 128
"""The largest sum of two neighbouring weights whose products with u8 values fit 16 bits. x86 processors without VNNI
add them so, and saturate. With weights of one sign 255 a + 255 b is the most, and 255 * 128 = 32,640 fits. With weights
of different signs the larger product alone is the most, and |a + b| <= 127 holds anyhow."""
PAIRED = Range(-LARGEST, LARGEST, LARGEST_PAIR)
"""For what u8 activations are multiplied with."""
SMALLEST = np.float32(1e-30)
"""A row of weights without a larger value becomes zeros: its scale would leave the range in which float32 is exact."""
BLOCK = 32
"""Neighbouring columns that share a scale."""
SHRINKINGS = np.arange(0.8, 1.06, 0.05, dtype=np.float32)
"""Scales that are tried, as parts of the one that maps a block's largest magnitude to the end of the range."""


def largest_pairs(rows: NDArray[Any]) -> NDArray[Any]:
    """Find the largest magnitude of the sum of a pair of neighbours in each row.

    Args:
        rows: [rows, columns]. The last of an odd number of columns has no neighbour.

    Returns:
        [rows], 0 where there is no pair.
    """
    largest: NDArray[Any] = np.abs(rows[:, 0:-1:2] + rows[:, 1::2]).max(axis=1, initial=0)
    return largest


def row_scales(rows: NDArray[np.float32], within: Range = BYTES) -> NDArray[np.float32]:
    """Find the least scale of each row at which it need not be clipped.

    Args:
        rows: float32 [rows, columns].
        within: The values that it is to be rounded to.

    Returns:
        float32 [rows].
    """
    largest = np.abs(rows).max(axis=1, initial=0)
    scales = largest / within.highest
    if within.pair is not None:
        scales = np.maximum(scales, largest_pairs(rows) / within.pair)
    return np.where(largest > SMALLEST, scales, 1).astype(np.float32)


def quantise_rows(
    rows: NDArray[np.float32], rounding: Round = round_to_nearest, within: Range = BYTES
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to 8-bit values times a scale of its own.

    Args:
        rows: float32 [rows, columns].
        rounding: How to round to multiples of the scales.
        within: The 8-bit values.

    Returns:
        Values, s8 [rows, columns], and scales, float32 [rows].
    """
    scales = row_scales(rows, within)
    return rounding(rows, scales[:, None], within), scales


def zero_of(bits: int) -> int:
    """Return the unsigned value that stands for 0, MatMulNBits' default: the middle."""
    return 1 << (bits - 1)


def quantise_blocks(
    rows: NDArray[np.float32],
    bits: int,
    rounding: Round = round_to_nearest,
    kept: DTypeLike = np.float32,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round to 4 or 8 bits, in blocks of `BLOCK` columns whose scale leaves the least squared error.

    Args:
        rows: float32 [rows, columns]. A last block that is not full is filled with zeros.
        bits: Of a value, 4 or 8.
        kept: The type that scales will be kept in, to which they are rounded before values are.
        rounding: How to round to multiples of the scales.

    Returns:
        Values, u8 [rows, blocks, BLOCK * bits / 8], those of 4 bits two in a byte (the first in its low half); scales,
        float32 [rows, blocks].

    Raises:
        RangeError: A scale is too large for the type.
    """
    zero = zero_of(bits)
    within = Range(-zero, zero - 1)
    padding = ((0, 0), (0, -rows.shape[1] % BLOCK))
    blocks = np.pad(rows, padding).reshape(len(rows), -1, BLOCK)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    # The largest magnitude goes to the end that has no counterpart, -8 or -128.
    widest = np.where(np.abs(ends) > SMALLEST, ends / within.lowest, 1).astype(np.float32)
    scales, least = widest, np.full(widest.shape, np.inf, np.float32)
    for shrinking in SHRINKINGS:
        candidate = widest * shrinking
        # The best scale for the values that the candidate rounds to.
        values = np.clip(np.rint(blocks / candidate), within.lowest, within.highest)
        square = (values * values).sum(-1, keepdims=True)
        fitted = np.where(
            square > 0, (values * blocks).sum(-1, keepdims=True) / np.maximum(square, SMALLEST), candidate
        )
        error = ((blocks - fitted * values) ** 2).sum(-1, keepdims=True)
        scales, least = np.where(error < least, fitted, scales), np.minimum(error, least)
    scales = _as_kept(scales, kept)
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = rounding(rows, np.repeat(scales[..., 0], BLOCK, axis=1)[:, : rows.shape[1]], within)
    unsigned = (np.pad(values, padding).reshape(blocks.shape).astype(np.int16) + zero).astype(np.uint8)
    if bits == 4:
        unsigned = np.bitwise_or(unsigned[..., 0::2], np.left_shift(unsigned[..., 1::2], 4, dtype=np.uint8))
    return unsigned, scales[..., 0]


def _as_kept(scales: NDArray[np.float32], kept: DTypeLike) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded: NDArray[np.float32] = scales.astype(kept).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise RangeError(f"a scale of {np.abs(scales).max():.0f} is too large for {np.dtype(kept).name}")
    return rounded
