"""GPTQ: what feedback may change, and that it makes products with real inputs more exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfprm_export.quantize.gptq import LEAF, with_feedback
from rfprm_export.quantize.integers import (
    BLOCK,
    BYTES,
    LARGEST,
    LARGEST_PAIR,
    PAIRED,
    largest_pairs,
    quantise_blocks,
    quantise_rows,
    row_scales,
)
from rfprm_export.quantize.round import round_to_nearest


def inputs(columns: int, seed: int, tokens: int = 400) -> np.ndarray:
    """Rows whose columns go together, as those of a network do."""
    random = np.random.default_rng(seed)
    together = random.standard_normal((tokens, 8)) @ random.standard_normal((8, columns))
    return (together + 0.1 * random.standard_normal((tokens, columns))).astype(np.float32)


def weights(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).standard_normal((rows, columns)).astype(np.float32)


def feedback(x: np.ndarray, groups: int = 1):  # type: ignore[no-untyped-def]
    return with_feedback([torch.from_numpy(part.T @ part) for part in np.array_split(x, groups, axis=1)])


def error(rows: np.ndarray, rounded: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (rows - rounded).T) / np.linalg.norm(x @ rows.T))


@given(st.integers(2, 9), st.integers(2, 12 * LEAF), st.integers(0, 99))
def test_values_are_in_range_and_other_rows_and_groups_do_not_matter(rows: int, columns: int, seed: int) -> None:
    x, whole = inputs(columns, seed, tokens=20), weights(rows, columns, seed)
    scales = row_scales(whole)[:, None]
    values = feedback(x, groups=2)(whole, scales, BYTES)
    assert (values.shape, values.dtype) == (whole.shape, np.int8)
    assert np.abs(values.astype(int)).max() <= LARGEST
    first, half = rows // 2, (columns + 1) // 2  # as array_split has it
    other = whole.copy()
    other[first:] *= 100
    assert (feedback(x, groups=2)(other, scales, BYTES)[:first] == values[:first]).all()
    x[:, half:] = inputs(columns - half, seed + 1, tokens=20)
    assert (feedback(x, groups=2)(whole, scales, BYTES)[:, :half] == values[:, :half]).all()


@given(st.integers(1, 9), st.integers(1, 8 * LEAF), st.integers(0, 99))
def test_inputs_that_never_occur_together_leave_each_value_to_itself(rows: int, columns: int, seed: int) -> None:
    whole = weights(rows, columns, seed)
    given = (whole, row_scales(whole)[:, None], BYTES)
    for moment in (torch.eye(columns), torch.zeros(columns, columns)):
        assert (with_feedback([moment])(*given) == round_to_nearest(*given)).all()


@pytest.mark.parametrize("columns", [96, 8 * LEAF + 1])
def test_products_with_such_inputs_become_more_exact(columns: int) -> None:
    x, unseen = np.split(inputs(columns, 0, tokens=800), 2)
    rows = weights(30, columns, 0)
    errors = []
    for rounding in (round_to_nearest, feedback(x)):
        values, scales = quantise_rows(rows, rounding)
        errors.append(error(rows, values * scales[:, None], unseen))
    assert errors[1] < 0.6 * errors[0]


def test_in_blocks_of_4_bits_too() -> None:
    x, unseen = np.split(inputs(3 * BLOCK - 5, 0, tokens=800), 2)
    rows = weights(30, 3 * BLOCK - 5, 0)
    errors = []
    for rounding in (round_to_nearest, feedback(x)):
        packed, scales = quantise_blocks(rows, 4, rounding)
        values = np.stack([packed & 15, packed >> 4], -1).reshape(*scales.shape, BLOCK).astype(np.float32) - 8
        restored = (values * scales[..., None]).reshape(30, -1)[:, : rows.shape[1]]
        errors.append(error(rows, restored, unseen))
    assert errors[1] < 0.6 * errors[0]


def textbook(rows: np.ndarray, scales: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """GPTQ as its paper has it, column by column in float64: C^T C = H^-1, C upper triangular; the error of column i
    is divided by C[i, i] and subtracted from the columns after it, times row i of C. Damped by 0.01."""
    damped = moments + 0.01 * moments.diagonal().mean() * np.eye(len(moments))
    inverse = np.linalg.cholesky(np.linalg.inv(damped)).T
    pending, values = rows.astype(np.float64), np.empty(rows.shape, np.int8)
    for i in range(rows.shape[1]):
        values[:, i] = np.clip(np.rint(pending[:, i] / scales[:, 0]), -LARGEST, LARGEST)
        error = (pending[:, i] - values[:, i] * scales[:, 0]) / inverse[i, i]
        pending[:, i:] -= np.outer(error, inverse[i, i:])
    return values


@pytest.mark.parametrize("columns", [LEAF - 1, 3 * LEAF, 12 * LEAF + 5])
def test_it_rounds_as_the_textbook_does(columns: int) -> None:
    """Whatever runs of columns are rounded at once: but for a few values that were as near to one as to the other."""
    x = inputs(columns, 0).astype(np.float64)
    rows = weights(40, columns, 0)
    scales = row_scales(rows)[:, None]
    moments = x.T @ x / len(x)
    values = with_feedback([torch.from_numpy(moments.astype(np.float32))])(rows, scales, BYTES)
    expected = textbook(rows, scales, moments)
    assert (values != expected).mean() < 0.005
    assert (expected != round_to_nearest(rows, scales, BYTES)).mean() > 0.05


@pytest.mark.parametrize("columns", [1, 2, 7, 64, 8 * LEAF + 1])
@pytest.mark.parametrize("groups", [1, 3])
def test_pairs_fit_16_bits_however_feedback_moves_them(columns: int, groups: int) -> None:
    """Groups of odd sizes, too: a pair may stand in two groups."""
    x, rows = inputs(columns, 0), weights(50, columns, 0) * np.linspace(0.1, 30, columns, dtype=np.float32)
    for rounding in (round_to_nearest, feedback(x, min(groups, columns))):
        values, scales = quantise_rows(rows, rounding, PAIRED)
        assert np.abs(values.astype(int)).max() <= LARGEST
        assert largest_pairs(values.astype(int)).max() <= LARGEST_PAIR
        activations = np.array([[255, 0], [0, 255], [255, 255]])
        pairs = values[:, : columns // 2 * 2].reshape(50, -1, 2).astype(int)
        sums = np.einsum("rpc,ac->rpa", pairs, activations)
        assert not sums.size or np.iinfo(np.int16).min <= sums.min() <= sums.max() <= np.iinfo(np.int16).max
        assert np.abs(values * scales[:, None] - rows).max() < np.abs(rows).max()


def test_pairs_are_rounded_without_clipping() -> None:
    """Their scale leaves room; of 16 bits the largest pair takes all."""
    rows = weights(40, 2 * BLOCK, 0)
    values, scales = quantise_rows(rows, within=PAIRED)
    assert (np.abs(values * scales[:, None] - rows) <= scales[:, None] * 0.501).all()
    assert largest_pairs(values.astype(int)).max() == LARGEST_PAIR
    assert (scales >= row_scales(rows)).all()
    assert (scales < 128 / 64 * row_scales(rows)).all()
