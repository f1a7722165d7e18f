"""The calls of a PRM that choose among candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, overload

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.errors import RfprmError
from rfprm_lite.results import BestOfN, Candidate, Score, Unfinished
from rfprm_lite.scoring import choose
from rfprm_lite.scoring.batches import OnError
from rfprm_lite.scoring.scorer import Scorer
from rfprm_lite.trace import Problem


class ChoiceCalls:
    """What a PRM has of these calls; see `PRM`."""

    _scorer: Scorer

    @overload
    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: Literal[True],
        on_error: Literal["raise"] = "raise",
    ) -> BestOfN[Candidate, Score]: ...

    @overload
    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> BestOfN[Candidate, Score | Unfinished]: ...

    @overload
    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: Literal[True],
        on_error: Literal["return"],
    ) -> BestOfN[Candidate, Score | RfprmError]: ...

    @overload
    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["return"],
    ) -> BestOfN[Candidate, Score | Unfinished | RfprmError]: ...

    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: OnError = "raise",
    ) -> BestOfN[Candidate, Any]:
        """Choose the candidate with the highest reward; the first among equals.

        Args:
            problem: As in `score`.
            candidates: Responses, at least one, each text or a `Trace`.
            aggregate: As in `score`. A function of yours needs `exhaustive=True`, or `CustomAggregate(...,
                monotone=True)`.
            exhaustive: Read every candidate to its end. Otherwise those that can't win any more are left where they
                are: the choice and its score are the same to the last bit, the others have bounds (`Unfinished`).
                Candidates whose keys and values can't be pinned side by side (2 GiB, or half of `memory_bytes`) are all
                read to their ends.
            on_error: "raise" raises as `score_many` does, before anything runs. "return" puts the error of a candidate
                that is empty, too long or no text in the place of its score, and ranks it last; it raises only where no
                candidate can be scored.
        """
        return choose.best(self._scorer, problem, candidates, 1, aggregate, exhaustive=exhaustive, on_error=on_error)

    @overload
    def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> BestOfN[Candidate, Score | Unfinished]: ...

    @overload
    def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["return"],
    ) -> BestOfN[Candidate, Score | Unfinished | RfprmError]: ...

    def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: OnError = "raise",
    ) -> BestOfN[Candidate, Any]:
        """Choose the k candidates with the highest rewards, in `ranking`; all of them if k exceeds their number.

        Args:
            problem: As in `score`.
            candidates: As in `best_of_n`.
            k: How many are wanted, at least 1.
            aggregate: As in `best_of_n`.
            exhaustive: As in `best_of_n`.
            on_error: As in `best_of_n`.

        Raises as `best_of_n` does.
        """
        return choose.best(self._scorer, problem, candidates, k, aggregate, exhaustive=exhaustive, on_error=on_error)
