"""Any number of responses: a few at a time, in order, each error in its place.

In: pairs of problem and response, and how to read and score them. Out: their scores, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

from rfprm_lite.errors import ForkError, InputError, RfprmError
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.results import Score
from rfprm_lite.scoring.request import Request

OnError = Literal["raise", "return"]

WINDOW = 64
"""Responses that are planned together: neighbours share prefixes, and a result waits for at most so many others."""

Pair = TypeVar("Pair")
Result = TypeVar("Result")


def score(
    pairs: Iterable[Pair],
    read: Callable[[Pair], Request],
    score_all: Callable[[Sequence[Request], Cancellation], list[Score]],
    on_error: OnError,
) -> Iterator[Score | RfprmError]:
    """The score of each pair in order, or its error. With on_error="raise", the first error is raised when all scores
    before it were yielded, with a note that names the pair."""
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error={on_error!r}: it is 'raise' or 'return'")
    return _score(pairs, read, score_all, on_error)


def _score(
    pairs: Iterable[Pair],
    read: Callable[[Pair], Request],
    score_all: Callable[[Sequence[Request], Cancellation], list[Score]],
    on_error: OnError,
) -> Iterator[Score | RfprmError]:
    rest = iter(pairs)
    at = 0
    while window := list(islice(rest, WINDOW)):
        for result in _window([_attempt(read, pair) for pair in window], score_all):
            if isinstance(result, RfprmError) and on_error == "raise":
                result.add_note(f"in response {at} of this call")
                raise result
            yield result
            at += 1


def _window(
    read: Sequence[Request | RfprmError], score_all: Callable[[Sequence[Request], Cancellation], list[Score]]
) -> Iterator[Score | RfprmError]:
    readings = [reading for reading in read if isinstance(reading, Request)]
    try:
        scores: Iterator[Score | RfprmError] = iter(score_all(readings, Cancellation()))
    except ForkError:
        raise  # of the process, not of a response
    except RfprmError:
        scores = (
            _attempt(lambda own: score_all([own], Cancellation())[0], reading) for reading in readings
        )  # whose it is
    return (next(scores) if isinstance(reading, Request) else reading for reading in read)


def _attempt(call: Callable[[Pair], Result], value: Pair) -> Result | RfprmError:
    try:
        return call(value)
    except RfprmError as error:
        return error.with_traceback(None)  # whose frames would hold a call's memory
