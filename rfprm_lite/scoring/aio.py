"""Calls in threads of their own, for asyncio: cancelled or out of time, they really end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TypeVar, overload

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.errors import RfprmError
from rfprm_lite.lists import listed
from rfprm_lite.options import Truncate
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.question import Question
from rfprm_lite.results import BestOfN, Candidate, Score, Unfinished
from rfprm_lite.scoring import batches, choose
from rfprm_lite.scoring.batches import OnError, Pairs
from rfprm_lite.scoring.scorer import Scorer
from rfprm_lite.trace import Problem, Response, Trace

T = TypeVar("T")

THREADS = 8
"""Calls of one kind, long or short, that run at once; others wait."""
SHORT = 2**13
"""Characters of all texts of a short call, at most. A short call never waits for the end of a long one."""


class AsyncCalls:
    """The calls of a PRM for asyncio: `prm.aio`. Each runs in a thread of its own.

    Every call takes `timeout`, in seconds, waiting included. Cancelled, or out of time (TimeoutError), the run ends
    within milliseconds and the model is as usable as before. What else is raised is what the PRM's own method raises.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def score(
        self,
        problem: Problem,
        response: Response | None = None,
        *,
        steps: Iterable[str] | None = None,
        aggregate: AggregateLike | None = None,
        truncate: Truncate | None = None,
        timeout: float | None = None,
    ) -> Score:
        """Reward every step of a response, and the whole of it; see `PRM.score`."""
        scorer, chosen_aggregate = self._scorer, self._scorer.aggregate(aggregate)
        trace = scorer.trace(response, steps)

        def call(cancel: Cancellation) -> Score:
            return scorer.score([scorer.request(problem, trace, chosen_aggregate, truncate)], cancel)[0]

        return await run(call, timeout, characters(problem, trace))

    @overload
    async def score_many(
        self,
        pairs: Pairs,
        *,
        aggregate: AggregateLike | None = None,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> list[Score]: ...

    @overload
    async def score_many(
        self,
        pairs: Pairs,
        *,
        aggregate: AggregateLike | None = None,
        on_error: Literal["return"],
        timeout: float | None = None,
    ) -> list[Score | RfprmError]: ...

    async def score_many(
        self,
        pairs: Pairs,
        *,
        aggregate: AggregateLike | None = None,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> list[Score] | list[Score | RfprmError]:
        """Reward many responses, in the order given; see `PRM.score_many`."""
        scorer, chosen_aggregate, all_pairs = self._scorer, self._scorer.aggregate(aggregate), listed("pairs", pairs)
        return await run(
            lambda cancel: list(batches.score_all(scorer, all_pairs, chosen_aggregate, on_error, cancel)),
            timeout,
            characters(all_pairs),
        )

    @overload
    async def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: Literal[True],
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score]: ...

    @overload
    async def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score | Unfinished]: ...

    @overload
    async def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: Literal[True],
        on_error: Literal["return"],
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score | RfprmError]: ...

    @overload
    async def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["return"],
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score | Unfinished | RfprmError]: ...

    async def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Any]:
        """Choose the candidate with the highest reward; see `PRM.best_of_n`."""
        return await self._best(problem, candidates, 1, aggregate, exhaustive, on_error, timeout)

    @overload
    async def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score | Unfinished]: ...

    @overload
    async def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: Literal["return"],
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Score | Unfinished | RfprmError]: ...

    async def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: AggregateLike | None = None,
        exhaustive: bool = False,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> BestOfN[Candidate, Any]:
        """Choose the k candidates with the highest rewards; see `PRM.top_k`."""
        return await self._best(problem, candidates, k, aggregate, exhaustive, on_error, timeout)

    async def _best(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        aggregate: AggregateLike | None,
        exhaustive: bool,
        on_error: OnError,
        timeout: float | None,
    ) -> BestOfN[Candidate, Any]:
        scorer, chosen = self._scorer, self._scorer.aggregate(aggregate)
        responses = listed("candidates", candidates)

        def call(cancel: Cancellation) -> BestOfN[Candidate, Score | Unfinished | RfprmError]:
            return choose.best(
                scorer, problem, responses, k, chosen, exhaustive=exhaustive, on_error=on_error, cancel=cancel
            )

        return await run(call, timeout, characters(problem, responses))


def characters(*values: object) -> int:
    """The characters of all texts in problems and responses, however deep; what is neither counts nothing."""
    count, rest = 0, list(values)
    while rest:
        match rest.pop():
            case str(text) | Trace(text=text):
                count += len(text)
            case list(items) | tuple(items):
                rest += items
            case Mapping() as message:
                rest += message.values()
            case Question() as question:
                rest += (question.problem, question.reference, question.choices)
    return count


async def run(call: Callable[[Cancellation], T], timeout: float | None, length: int = 0) -> T:
    """Run a call in a thread of its own.

    When it is cancelled or out of time, its thread has ended, or never begun, before this returns.

    Args:
        call: Given the request to end it.
        timeout: Seconds, waiting included; None for no limit.
        length: Characters of its texts.

    Returns:
        The call's result.

    Raises:
        TimeoutError: After `timeout` seconds, waiting included.
    """
    cancel = Cancellation()
    submitted = _threads("short" if length <= SHORT else "long").submit(call, cancel)
    running = asyncio.wrap_future(submitted)

    async def ended() -> None:
        cancel.request()
        if submitted.cancel():
            return
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        running.exception()  # of no interest any more

    try:
        await asyncio.wait({running}, timeout=timeout)
    except asyncio.CancelledError:
        await ended()
        raise
    if running.done():
        return running.result()
    await ended()
    raise TimeoutError(f"the call took longer than {timeout:g} seconds and was stopped")


@cache
def _threads(kind: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"rfprm-lite-{kind}")


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads, and would wait for them
    os.register_at_fork(after_in_child=_threads.cache_clear)
