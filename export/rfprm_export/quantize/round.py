"""What rounding a weight means, and the simplest way to do it. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Round = Callable[[Matrix, Matrix, int, int], NDArray[np.int8]]
"""(rows, scales, lowest, highest) -> values. rows: float32 [rows, columns]; scales: float32 that broadcast to it;
values: s8 [rows, columns] from lowest to highest, which times the scales are near to rows."""


def round_to_nearest(rows: Matrix, scales: Matrix, lowest: int, highest: int) -> NDArray[np.int8]:
    """Round each value by itself.

    Args:
        rows: float32 [rows, columns].
        scales: float32, broadcast to `rows`.
        lowest: The least value.
        highest: The greatest value.

    Returns:
        s8 [rows, columns].
    """
    rounded: NDArray[np.int8] = np.clip(np.rint(rows / scales), lowest, highest).astype(np.int8)
    return rounded
