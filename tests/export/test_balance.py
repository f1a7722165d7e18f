"""Balancing: activations and weights get the same second moments, and no other basis makes their product smaller."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rfprm_export.quantize.balance import DAMPING, balancing_basis, balancing_scales


def moments(size: int, seed: int) -> np.ndarray:
    """Of channels of very different sizes that go together."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((4 * size, size)) @ draw.standard_normal((size, size)) * 10 ** draw.uniform(-1, 1, size)
    return (rows.T @ rows / len(rows)).astype(np.float32)


def damped(moments: np.ndarray) -> np.ndarray:
    exact = moments.astype(np.float64)
    return exact + DAMPING * exact.diagonal().mean() * np.eye(len(exact))


@given(st.integers(1, 40), st.integers(0, 99), st.integers(0, 99))
def test_scales_are_positive_and_none_are_better(size: int, seed: int, other: int) -> None:
    read, weights = moments(size, seed).diagonal(), moments(size, seed + 1).diagonal()
    scales = balancing_scales(read, weights).astype(np.float64)
    assert (scales > 0).all()

    def cost(tried: np.ndarray) -> float:
        return float((read * tried**2).sum() * (weights / tried**2).sum())

    assert cost(scales) <= cost(np.ones(size)) * (1 + 1e-5)
    assert cost(scales) <= cost(scales * np.exp(np.random.default_rng(other).normal(0, 0.3, size))) * (1 + 1e-5)


def test_channels_without_statistics_stay_in_bounds() -> None:
    nothing, some = np.zeros(4, np.float32), np.array([0, 1, 1e-30, 1e30], np.float32)
    for read, weights in ((nothing, nothing), (nothing, some), (some, nothing), (some, some)):
        scales = balancing_scales(read, weights)
        assert np.isfinite(scales).all()
        assert (scales > 0).all()
        assert scales.max() / scales.min() < 101


@given(st.integers(1, 24), st.integers(0, 99))
def test_in_the_basis_both_have_the_same_moments(size: int, seed: int) -> None:
    """To what is left of directions that hardly matter: 0.01 of the largest each, 0.01 * sqrt(24) of all."""
    basis = balancing_basis(moments(size, seed), moments(size, seed + 1))
    read, weights = damped(moments(size, seed)), damped(moments(size, seed + 1))
    inverse = np.linalg.inv(basis)
    ours, theirs = basis.T @ read @ basis, inverse @ weights @ inverse.T
    np.testing.assert_allclose(ours, theirs, atol=0.011 * np.abs(ours).max())
    scales = balancing_scales(read.diagonal(), weights.diagonal()).astype(np.float64)
    by_scales = (read.diagonal() * scales**2).sum() * (weights.diagonal() / scales**2).sum()
    assert ours.trace() * theirs.trace() <= by_scales * 1.05
    assert np.isfinite(balancing_basis(np.zeros_like(read), weights)).all()


@given(st.integers(1, 24), st.integers(0, 99), st.sampled_from([1e-12, 1e-6, 1, 1e6]), st.sampled_from([1e-9, 1e3]))
def test_the_basis_follows_the_sizes_of_both(size: int, seed: int, one: float, other: float) -> None:
    """A A^T of activations a times and weights b times as large is sqrt(b / a) times as large; with weights of few
    outputs, too."""
    read, weights = moments(size, seed), moments(size, seed + 1)
    rows = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float32)
    for of_weights in (weights, rows.T @ rows):
        basis = balancing_basis(read, of_weights)
        scaled = balancing_basis(read * np.float32(one), of_weights * np.float32(other))
        expected = basis @ basis.T * (other / one) ** 0.5
        np.testing.assert_allclose(scaled @ scaled.T, expected, atol=1e-3 * np.abs(expected).max())


@given(st.integers(1, 24), st.integers(0, 99))
def test_moments_of_channels_alike_are_hardly_damped(size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    read, weights = (np.eye(size) + 0.3 / size * (rows + rows.T) for rows in draw.uniform(-1, 1, (2, size, size)))
    basis = balancing_basis(read.astype(np.float32), 5 * weights.astype(np.float32))
    inverse = np.linalg.inv(basis)
    ours, theirs = basis.T @ read @ basis, inverse @ (5 * weights) @ inverse.T
    np.testing.assert_allclose(ours, theirs, atol=0.005 * np.abs(ours).max())
