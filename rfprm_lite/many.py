"""Any number of responses: a few at a time, in order, each error in its place.

In: pairs of problem and response, and how to read and score them. Out: their scores, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Literal, TypeVar

from rfprm_lite.errors import InputError, InputTypeError, RfprmError
from rfprm_lite.reading import Reading
from rfprm_lite.results import Score
from rfprm_lite.stop import Stop

OnError = Literal["raise", "return"]

WINDOW = 64
"""Responses that are planned together: neighbours share prefixes, and a result waits for at most so many others."""

Pair = TypeVar("Pair")


def score(
    pairs: Iterable[Pair],
    read: Callable[[Pair], Reading],
    score_all: Callable[[Sequence[Reading], Stop], list[Score]],
    on_error: OnError,
) -> Iterator[Score | RfprmError]:
    """The score of each pair in order, or its error. With on_error="raise", the first error is raised when all scores
    before it were yielded, with a note that names the pair."""
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error={on_error!r}: it is 'raise' or 'return'")
    rest = iter(pairs)
    at = 0
    while window := list(islice(rest, WINDOW)):
        for result in _window([_read(read, pair) for pair in window], score_all):
            if isinstance(result, RfprmError) and on_error == "raise":
                result.add_note(f"in response {at} of this call")
                raise result
            yield result
            at += 1


def shown(pairs: Iterable[Pair]) -> Iterable[Pair]:
    """The same, with a bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    total = len(pairs) if isinstance(pairs, Sized) else None
    return track(pairs, "scoring", total=total, console=Console(stderr=True))


def _read(read: Callable[[Pair], Reading], pair: Pair) -> Reading | RfprmError:
    try:
        return read(pair)
    except (InputError, InputTypeError) as error:
        return error


def _window(
    read: Sequence[Reading | RfprmError], score_all: Callable[[Sequence[Reading], Stop], list[Score]]
) -> Iterator[Score | RfprmError]:
    readings = [reading for reading in read if isinstance(reading, Reading)]
    try:
        scores: Iterator[Score | RfprmError] = iter(score_all(readings, Stop()))
    except RfprmError:
        scores = (_alone(reading, score_all) for reading in readings)  # whose error it is
    return (next(scores) if isinstance(reading, Reading) else reading for reading in read)


def _alone(reading: Reading, score_all: Callable[[Sequence[Reading], Stop], list[Score]]) -> Score | RfprmError:
    try:
        return score_all([reading], Stop())[0]
    except RfprmError as error:
        return error
