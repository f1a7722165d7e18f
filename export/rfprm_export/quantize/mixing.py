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
    """The largest power of two, MIXED at most, by which the features can be divided."""
    return min(features & -features, MIXED)


def mixed(block: Block) -> Block:
    """What the graph makes of rows of as many features. Done twice, it is undone."""
    matrix = hadamard(mixed_channels(block.shape[-1]))
    product: Block = (block.reshape(len(block), -1, len(matrix)) @ matrix).reshape(block.shape)
    return product


def hadamard(size: int) -> Matrix:
    """Sylvester's, orthogonal and symmetric; for a size that is no power of two, the largest that divides it, along the
    diagonal."""
    matrix = np.ones((1, 1))
    while len(matrix) < (size & -size):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    scaled = matrix / np.sqrt(len(matrix))
    return np.kron(np.eye(size // len(matrix)), scaled).astype(np.float32)
