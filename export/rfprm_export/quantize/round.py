"""What rounding a weight means, and the simplest way to do it. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Round = Callable[[Matrix, Matrix, int, int], NDArray[np.int8]]
"""float32 [rows, columns] and scales that can be broadcast to that, lowest, highest -> s8 [rows, columns] of that
range, which times the scales are near to what was given."""


def nearest(rows: Matrix, scales: Matrix, lowest: int, highest: int) -> NDArray[np.int8]:
    """Each value for itself."""
    rounded: NDArray[np.int8] = np.clip(np.rint(rows / scales), lowest, highest).astype(np.int8)
    return rounded
