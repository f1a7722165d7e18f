"""Mixing channels by Hadamard matrices, so that none stands out: the same for weights and for the graph.

Pure numpy; knows nothing of checkpoints or statistics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]
Matrix = NDArray[np.float32]

MIXED = 32
"""Channels that the graph mixes with each other, at most."""


def mixed_channels(features: int) -> int:
    """Return how many channels are mixed: the largest power of two, MIXED at most, that divides the features."""
    return min(features & -features, MIXED)


def hadamard_mix(rows: Block, mixed: int | None = None) -> Block:
    """Multiply groups of neighbouring channels by a Hadamard matrix, as the graph does. Done twice, it is undone.

    Args:
        rows: float32 [rows, features].
        mixed: Channels of each group; `mixed_channels` of the features unless given.

    Returns:
        float32 [rows, features].
    """
    matrix = hadamard(mixed or mixed_channels(rows.shape[-1]))
    product: Block = (rows.reshape(len(rows), -1, len(matrix)) @ matrix).reshape(rows.shape)
    return product


def hadamard(size: int) -> Matrix:
    """Return Sylvester's Hadamard matrix, orthogonal and symmetric, float32 [size, size].

    For a size that is no power of two: the largest that divides it, repeated along the diagonal.
    """
    matrix = np.ones((1, 1))
    while len(matrix) < (size & -size):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    scaled = matrix / np.sqrt(len(matrix))
    return np.kron(np.eye(size // len(matrix)), scaled).astype(np.float32)
