"""Bases in which 8 bits cost a product least.

In: how large a product's inputs are, and how large the weights that they are multiplied with. Out: a change of basis
x -> x A, W -> A^-1 W, which leaves the product as it is.

Rounded by a scale a row, activations err in proportion to their length, and that error is multiplied by all weights.
Rounded by a scale an output, weights err in proportion to their length, and that is multiplied by all activations. So
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
"""A channel counts as no smaller than this part of the mean, so that one that no text used keeps within bounds."""
DAMPING = 1e-3
"""Added to each channel's second moment, as a part of their mean."""


def balancing_scales(activations: Vector, weights: Vector) -> Vector:
    """Find the scale of each channel that makes activations and weights equally large.

    With a = activations and w = weights, s = (w / a)^(1/4) makes both a s^2 and w / s^2 equal to (a w)^(1/2).

    Args:
        activations: Mean squares of the inputs, float32 [channels].
        weights: Squares of the weights, summed over outputs, float32 [channels].

    Returns:
        What each input channel is to be multiplied with, positive, float32 [channels].
    """
    scales: Vector = ((_bounded(weights) / _bounded(activations)) ** 0.25).astype(np.float32)
    return scales


def balancing_basis(activations: Matrix, weights: Matrix) -> NDArray[np.float64]:
    """Find the basis A in which activations and weights have the same second moments.

    With R = activations and W = weights, both damped first, and R^1/2 W R^1/2 = V L V^T, the basis is
    A = R^-1/2 V L^1/4. Then A^T R A = L^1/4 V^T V L^1/4 = L^1/2, and
    A^-1 W A^-T = L^-1/4 V^T R^1/2 W R^1/2 V L^-1/4 = L^1/2, too.

    Args:
        activations: Second moments E[x^T x] of the inputs, float32 [channels, channels].
        weights: Second moments of the weights, summed over outputs, float32 [channels, channels].

    Returns:
        A, float64 [channels, channels].
    """
    root = _root(_damped(activations))
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
