"""Traces that are longer than the model reads, shortened where a caller asked for it by name.

In: a trace that does not fit. Out: its request, with how many steps were lost. Nothing is ever shortened by itself.
"""

from __future__ import annotations

from typing import get_args

from rfprm_lite.aggregate import AnyAggregate
from rfprm_lite.errors import ContextLengthError, InputError
from rfprm_lite.options import Truncate
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.request import Request
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Step, Trace


def require(truncate: str | None) -> None:
    """Check the name of a way to shorten texts.

    Raises:
        InputError: There is no such way.
    """
    if truncate is not None and truncate not in get_args(Truncate):
        raise InputError(f"truncate={truncate!r}: it is {' or '.join(map(repr, get_args(Truncate)))}, or None")


def shortened(
    encoder: Encoder, problem: Problem, trace: Trace, aggregate: AnyAggregate, scale: Scale, truncate: Truncate
) -> Request:
    """The request of a trace that does not fit.

    Raises:
        ContextLengthError: If it does not fit without its thinking part either.
        InputError: If the authors' code cuts nothing.
    """
    if truncate == "authors":
        sequences, cut = encoder.cut_sequences(problem, trace)
        return Request(trace, tuple(sequences), aggregate, scale, truncated=cut)
    return _without_oldest(encoder, problem, trace, aggregate, scale)


def _without_oldest(encoder: Encoder, problem: Problem, trace: Trace, aggregate: AnyAggregate, scale: Scale) -> Request:
    """With as many of the newest steps as fit: a binary search for the fewest thoughts to leave out."""
    most = len(trace.thinking) - (not trace.response)  # a step is left in any case
    if most < 1:
        raise ContextLengthError(encoder.count(problem, trace), encoder.max_tokens)
    fewest, enough = 1, most
    while fewest < enough:
        middle = (fewest + enough) // 2
        try:
            Request.of(encoder, problem, without_first(trace, middle), aggregate, scale)
        except ContextLengthError:
            fewest = middle + 1
        else:
            enough = middle
    request = Request.of(encoder, problem, without_first(trace, enough), aggregate, scale)
    return Request(request.trace, request.sequences, aggregate, scale, truncated=enough, whole=trace)


def without_first(trace: Trace, count: int) -> Trace:
    """The trace without its first steps."""
    start = trace.steps[count].start
    return Trace(trace.text[start:], tuple(_moved(step, start) for step in trace.steps[count:]))


def _moved(step: Step, by: int) -> Step:
    return Step(step.text, step.start - by, step.end - by, step.part, step.text_start - by)
