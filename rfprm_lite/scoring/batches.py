"""The scores of any number of responses: a few at a time, in order, each error in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

from rfprm_lite.aggregate import AnyAggregate
from rfprm_lite.errors import ForkError, InputError, RfprmError, StoppedError
from rfprm_lite.lists import iterated
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.results import Score
from rfprm_lite.scoring.request import Request
from rfprm_lite.scoring.scorer import Scorer
from rfprm_lite.trace import Problem, Response

OnError = Literal["raise", "return"]
Pairs = Iterable[tuple[Problem, Response]]

WINDOW = 64
"""Responses that are planned together: neighbours share prefixes, and a result waits for at most so many others."""

Value = TypeVar("Value")
Result = TypeVar("Result")


def score_each(
    scorer: Scorer, pairs: Pairs, aggregate: AnyAggregate, on_error: OnError, cancel: Cancellation | None = None
) -> Iterator[Score | RfprmError]:
    """The score of each pair in order, or its error.

    With on_error="raise", the first error is raised when all scores before it were yielded, with a note that names the
    pair.
    """
    return in_windows(
        iterated("pairs", pairs),
        lambda pair: scorer.pair_request(pair, aggregate),
        lambda requests: scorer.score(requests, cancel),
        on_error,
    )


def score_all(
    scorer: Scorer, pairs: Pairs, aggregate: AnyAggregate, on_error: OnError, cancel: Cancellation | None = None
) -> Iterator[Score | RfprmError]:
    """The score of each pair in order; with on_error="raise", a wrong pair raises before anything runs."""
    if on_error != "raise":
        return score_each(scorer, pairs, aggregate, on_error, cancel)
    requests = scorer.requests(pairs, aggregate)
    return in_windows(requests, lambda request: request, lambda some: scorer.score(some, cancel), on_error)


def in_windows(
    items: Iterable[Value],
    request_of: Callable[[Value], Request],
    score: Callable[[Sequence[Request]], list[Score]],
    on_error: OnError,
    window: int = WINDOW,
) -> Iterator[Score | RfprmError]:
    """The score of each item in order, or its error; `window` items are scored together.

    Args:
        items: Any number of them.
        request_of: Makes a request of an item, or raises what is wrong with it.
        score: Scores requests together.
        on_error: "raise" or "return".
        window: How many are scored together.

    Raises:
        InputError: At once if `on_error` is neither of its two values.
    """
    require_on_error(on_error)
    return _in_windows(items, request_of, score, on_error, window)


def require_on_error(on_error: str) -> None:
    """Raise InputError unless a choice is one of the two that there are."""
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error={on_error!r}: it is 'raise' or 'return'")


def _in_windows(
    items: Iterable[Value],
    request_of: Callable[[Value], Request],
    score: Callable[[Sequence[Request]], list[Score]],
    on_error: OnError,
    window: int,
) -> Iterator[Score | RfprmError]:
    rest = iter(items)
    at = 0
    while batch := list(islice(rest, window)):
        for result in _scored([attempt(request_of, item) for item in batch], score):
            if isinstance(result, RfprmError) and on_error == "raise":
                result.add_note(f"in response {at} of this call")
                raise result
            yield result
            at += 1


def _scored(
    attempts: Sequence[Request | RfprmError], score: Callable[[Sequence[Request]], list[Score]]
) -> Iterator[Score | RfprmError]:
    requests = [request for request in attempts if isinstance(request, Request)]
    try:
        scores: Iterator[Score | RfprmError] = iter(score(requests))
    except (ForkError, StoppedError):
        raise  # of the process or the call, not of a response
    except RfprmError:
        scores = (attempt(lambda one: score([one])[0], request) for request in requests)  # to find whose it is
    return (next(scores) if isinstance(request, Request) else request for request in attempts)


def attempt(call: Callable[[Value], Result], value: Value) -> Result | RfprmError:
    """What the call gives of a value, or its error."""
    try:
        return call(value)
    except StoppedError:
        raise
    except RfprmError as error:
        return error.with_traceback(None)  # whose frames would hold a call's memory
