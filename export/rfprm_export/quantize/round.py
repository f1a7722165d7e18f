"""What rounding a weight means, and the simplest way to do it. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a row may be rounded to.

    Attributes:
        lowest: The least value.
        highest: The greatest value.
        pair: The largest magnitude of the sum of a pair of neighbours (columns 0 and 1, 2 and 3, and so on); None for
            any. At least `highest`, and so is `-lowest`.
    """

    lowest: int
    highest: int
    pair: int | None = None


Round = Callable[[Matrix, Matrix, Range], NDArray[np.int8]]
"""(rows, scales, within) -> values. rows: float32 [rows, columns]; scales: float32 that broadcast to it; values: s8
[rows, columns] in the range, which times the scales are near to rows."""


def round_to_nearest(rows: Matrix, scales: Matrix, within: Range) -> NDArray[np.int8]:
    """Round each value by itself.

    Args:
        rows: float32 [rows, columns].
        scales: float32, broadcast to `rows`.
        within: The values. The second of a pair gives way to the first.

    Returns:
        s8 [rows, columns].
    """
    rounded: Matrix = np.clip(np.rint(rows / scales), within.lowest, within.highest)
    if within.pair is not None:
        second = rounded[:, 1::2]
        first = rounded[:, 0::2][:, : second.shape[1]]
        np.clip(second, -within.pair - first, within.pair - first, out=second)
    return rounded.astype(np.int8)
