"""Rounding weights so that the products with real inputs change least (GPTQ, arXiv 2210.17323).

In: the second moments of what the weights are multiplied with. Out: a `Round`, which goes through a weight's columns:
each is rounded to the nearest, and the columns that are still to come make up for its error as far as inputs that
occur together allow it. Rows do not matter to each other, so that a weight may come in blocks of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.quantize.round import Matrix, Round

DAMPING = 0.01
"""Added to each channel's second moment, as a part of their mean."""
LAZY = 64
"""Columns after which the errors are passed on to all that follow, by one product."""


def with_feedback(moments: Sequence[torch.Tensor]) -> Round:
    """moments: of neighbouring groups of columns, float32 [columns, columns] each; none matters to another."""
    factors = [_factor(moment) for moment in moments]

    @torch.inference_mode()
    def rounded(rows: Matrix, scales: Matrix, lowest: int, highest: int) -> NDArray[np.int8]:
        pending = torch.from_numpy(rows.T.copy())
        units = torch.from_numpy(scales.T.copy()).expand(len(pending), -1)
        values = torch.empty(pending.shape, dtype=torch.int8)
        start = 0
        for factor in factors:
            group = slice(start, start + len(factor))
            _round_group(factor, pending[group], units[group], values[group], lowest, highest)
            start += len(factor)
        return values.numpy().T

    return rounded


def _round_group(
    factor: torch.Tensor, pending: torch.Tensor, units: torch.Tensor, values: torch.Tensor, lowest: int, highest: int
) -> None:
    """Fill values, [columns, rows]. pending: the same columns, which change."""
    for start in range(0, len(pending), LAZY):
        end = min(start + LAZY, len(pending))
        errors = torch.empty_like(pending[start:end])
        for i in range(start, end):
            rounded = (pending[i] / units[i]).round_().clamp_(lowest, highest)
            values[i] = rounded
            error = torch.div(pending[i] - rounded * units[i], factor[i, i], out=errors[i - start])
            pending[i + 1 : end].addr_(factor[i, i + 1 : end], error, alpha=-1)
        pending[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)


def _factor(moment: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse. Row i, divided by its diagonal, is how column i's error is made up for
    by the columns after it."""
    matrix = moment.double()
    # Without any inputs all columns are alike.
    matrix.diagonal().add_(DAMPING * float(matrix.diagonal().mean()) or 1.0)
    matrix = torch.linalg.cholesky(matrix)  # one name for all, since each may be hundreds of megabytes
    matrix = torch.cholesky_inverse(matrix)
    factor: torch.Tensor = torch.linalg.cholesky(matrix, upper=True).float()
    return factor
