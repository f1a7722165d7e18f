"""Rounds weights so that the products with real inputs change least (GPTQ, arXiv 2210.17323).

In: the second moments H = E[x^T x] of what the weights are multiplied with. Out: a `Round`, which goes through a
weight's columns: each is rounded to the nearest, after the errors of the columns before it were made up for as far as
inputs that occur together allow it.

With H = U D U^T, U unit upper triangular and D diagonal, an error E of the weights changes the products by

    trace(E H E^T) = sum over columns j of D[j] |(E U)[:, j]|^2.

Column j of E U is E[:, j] + sum over i < j of E[:, i] U[i, j]. So column j is least wrong when the nearest value is
taken not of W[:, j] but of W[:, j] + sum over i < j of (W - Q)[:, i] U[i, j]; what rounding leaves is then column j of
E U. GPTQ says the same by the Cholesky factor of the inverse, C^T C = H^-1 (arXiv 2307.13304, theorem 6); U needs no
inverse.

Columns keep their order (no "act-order") and scales are fixed beforehand, as the data formats want them. Rows do not
matter to each other, so that a weight may come in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.oracle.device import to_numpy
from rfprm_export.quantize.round import Matrix, Range, Round

DAMPING = 0.01
"""Added to each channel's second moment, as a part of their mean."""
LEAF = 16
"""Columns that are rounded one by one. Errors go from one run of columns to the next by a product of matrices, since
such a product computes at the processor's speed, where a column at a time would wait for memory."""


def with_feedback(moments: Iterable[torch.Tensor]) -> Round:
    """Make the rounding for inputs with these second moments.

    Args:
        moments: Of neighbouring groups of columns, float32 [columns, columns] each. Groups leave each other alone.

    Returns:
        A `Round` for weights with as many columns as all groups together, which computes where the moments are.
    """
    factors = [_factor(moment) for moment in moments]
    device = factors[0].device

    @torch.inference_mode()
    def round_rows(rows: Matrix, scales: Matrix, within: Range) -> NDArray[np.int8]:
        errors = torch.from_numpy(rows.T.copy()).to(device)
        units = torch.from_numpy(scales.T.copy()).to(device).expand(len(errors), -1)
        values = torch.empty(errors.shape, dtype=torch.int8, device=device)
        start = 0
        for factor in factors:
            group = slice(start, start + len(factor))
            with _one_thread():
                _Group(factor, errors[group], units[group], values[: group.stop], within).round(0, len(factor))
            start += len(factor)
        return to_numpy(values).T

    return round_rows


class _Group:
    """The columns of one group while they are rounded. All arrays are [columns, rows]: a column is contiguous.

    values: of this group and all before it. errors: W, of which each column becomes W - Q when it is rounded. feedback:
    what the errors so far add to a column.
    """

    def __init__(
        self,
        factor: torch.Tensor,
        errors: torch.Tensor,
        units: torch.Tensor,
        values: torch.Tensor,
        within: Range,
    ) -> None:
        self._factor, self._errors, self._units, self._values = factor, errors, units, values
        self._start = len(values) - len(errors)
        self._feedback = torch.zeros_like(errors)
        self._within = within

    def round(self, start: int, end: int) -> None:
        """Round the columns from start to end; those before start have given their feedback."""
        if end - start <= LEAF:
            for j in range(start, end):
                self._round_column(start, j)
            return
        middle = (start + end) // 2
        self.round(start, middle)
        self._feedback[middle:end].addmm_(self._factor[start:middle, middle:end].T, self._errors[start:middle])
        self.round(middle, end)

    def _round_column(self, leaf: int, j: int) -> None:
        column = self._feedback[j]
        column.addmv_(self._errors[leaf:j].T, self._factor[leaf:j, j])
        rounded = column.add_(self._errors[j]).div_(self._units[j]).round_()
        rounded.clamp_(self._within.lowest, self._within.highest)
        place = self._start + j
        if self._within.pair is not None and place % 2:
            before = self._values[place - 1].float()
            rounded.clamp_(-self._within.pair - before, self._within.pair - before)
        self._values[place] = rounded
        self._errors[j].addcmul_(rounded, self._units[j], value=-1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would wait for each other at every column: ten times the processor time, and no faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _factor(moment: torch.Tensor) -> torch.Tensor:
    """Factor a damped H = U D U^T; returns U, float32 [columns, columns], unit upper triangular."""
    damped = moment.flip(0, 1)
    # Without any inputs all columns are alike.
    damped.diagonal().add_(DAMPING * float(damped.diagonal().mean()) or 1.0)
    # Cholesky factors go from the first column on; flipped, from the last.
    factor = torch.linalg.cholesky(damped).flip(0, 1)
    unit: torch.Tensor = factor / factor.diagonal()
    return unit
