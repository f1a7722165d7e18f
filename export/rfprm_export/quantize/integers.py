"""Weights as integers with scales: 8 bits a row, or 4 bits a block of 32. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rfprm_export.quantize.round import Round, round_to_nearest

LARGEST = 127
"""The largest magnitude of a signed 8-bit value; -128 is not used."""
SMALLEST = np.float32(1e-30)
"""A row of weights without a larger value becomes zeros: its scale would leave the range in which float32 is exact."""
BLOCK = 32
"""Neighbouring columns that share a scale in 4 bits."""
ZERO = 8
"""The unsigned 4-bit value that stands for 0, MatMulNBits' default."""
RANGE = (-ZERO, ZERO - 1)
SHRINKINGS = np.arange(0.8, 1.06, 0.05, dtype=np.float32)
"""Scales that are tried, as parts of the one that maps a block's largest magnitude to the end of the range."""


def row_scales(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find the scale of each row that maps its largest magnitude to 127.

    Args:
        rows: float32 [rows, columns].

    Returns:
        float32 [rows].
    """
    largest = np.abs(rows).max(axis=1, initial=0)
    return np.where(largest > SMALLEST, largest / LARGEST, 1).astype(np.float32)


def quantise_rows(
    rows: NDArray[np.float32], rounding: Round = round_to_nearest
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to -127 to 127 times a scale of its own.

    Args:
        rows: float32 [rows, columns].
        rounding: How to round to multiples of the scales.

    Returns:
        Values, s8 [rows, columns], and scales, float32 [rows].
    """
    scales = row_scales(rows)
    return rounding(rows, scales[:, None], -LARGEST, LARGEST), scales


def quantise_blocks(
    rows: NDArray[np.float32], rounding: Round = round_to_nearest
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round to 4-bit values, in blocks of `BLOCK` columns whose scale leaves the least squared error.

    Args:
        rows: float32 [rows, columns]. A last block that is not full is filled with zeros.
        rounding: How to round to multiples of the scales.

    Returns:
        Values, two in a byte (the first in its low half), u8 [rows, blocks, BLOCK / 2]; scales, float32 [rows, blocks].
    """
    padding = ((0, 0), (0, -rows.shape[1] % BLOCK))
    blocks = np.pad(rows, padding).reshape(len(rows), -1, BLOCK)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    # The largest magnitude goes to -8, the end that has no counterpart.
    widest = np.where(np.abs(ends) > SMALLEST, ends / -ZERO, 1).astype(np.float32)
    scales, least = widest, np.full(widest.shape, np.inf, np.float32)
    for shrinking in SHRINKINGS:
        candidate = widest * shrinking
        # The best scale for the values that the candidate rounds to.
        values = np.clip(np.rint(blocks / candidate), *RANGE)
        square = (values * values).sum(-1, keepdims=True)
        fitted = np.where(
            square > 0, (values * blocks).sum(-1, keepdims=True) / np.maximum(square, SMALLEST), candidate
        )
        error = ((blocks - fitted * values) ** 2).sum(-1, keepdims=True)
        scales, least = np.where(error < least, fitted, scales), np.minimum(error, least)
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = rounding(rows, np.repeat(scales[..., 0], BLOCK, axis=1)[:, : rows.shape[1]], *RANGE)
    nibbles = (np.pad(values, padding).reshape(blocks.shape) + ZERO).astype(np.uint8)
    return np.bitwise_or(nibbles[..., 0::2], np.left_shift(nibbles[..., 1::2], 4, dtype=np.uint8)), scales[..., 0]
