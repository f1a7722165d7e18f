"""Bases in which 8 bits cost a product least.

In: how large what a product reads is, and how large the weights that it is multiplied with are. Out: a change of basis
x -> x A, W -> A^-1 W, which leaves the product as it is.

Rounded by a scale a row, activations err in proportion to their length, and that error is multiplied by all weights;
rounded by a scale an output, weights err in proportion to their length, and that is multiplied by all activations. So
both errors, squared, grow with E|x A|^2 * |A^-1 W|^2, as long as no channel stands out. That is least where both have
the same second moments: for each channel alone (as SmoothQuant, arXiv 2211.10438, but by mean squares), or for all
together, where every basis can be had.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

SMALLEST = 1e-4
"""Channels count as no smaller than this part of the mean, so that one that texts never used keeps within bounds."""
DAMPING = 1e-3
"""Added to each channel's second moment, as a part of their mean."""


def balancing_scales(read: Vector, weights: Vector) -> Vector:
    """What each channel is to be multiplied with. read, weights: float32 [channels], squares of what is read and of
    the weights that read it. Positive, float32 [channels]."""
    ratio: Vector = ((_bounded(weights) / _bounded(read)) ** 0.25).astype(np.float32)
    return ratio


def balancing_basis(read: Matrix, weights: Matrix) -> NDArray[np.float64]:
    """A, float64 [channels, channels]. read, weights: [channels, channels], second moments of what is read and of the
    weights that read it."""
    root = _root(_damped(read))
    values, vectors = np.linalg.eigh(root @ _damped(weights) @ root)
    basis: NDArray[np.float64] = np.linalg.solve(root, vectors) * np.maximum(values, SMALLEST * values.mean()) ** 0.25
    return basis


def _bounded(squares: Vector) -> NDArray[np.float64]:
    exact = squares.astype(np.float64)
    return np.maximum(exact, SMALLEST * exact.mean()) if exact.any() else np.ones_like(exact)


def _damped(moments: Matrix) -> NDArray[np.float64]:
    exact = moments.astype(np.float64)
    damped: NDArray[np.float64] = exact + (DAMPING * exact.diagonal().mean() or 1.0) * np.eye(len(exact))
    return damped


def _root(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(moments)
    root: NDArray[np.float64] = (vectors * np.sqrt(values)) @ vectors.T
    return root
