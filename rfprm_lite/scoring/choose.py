"""Best of N: the choice of the candidates with the highest rewards, with no more computed than that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

from rfprm_lite.aggregate import AggregateLike, AnyAggregate, CustomAggregate
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed
from rfprm_lite.plan import bound
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import Rewards
from rfprm_lite.plan.tree import plan
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import BestOfN, Candidate, Score, Unfinished
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.request import Request
from rfprm_lite.scoring.scorer import Scorer, grouped
from rfprm_lite.trace import Problem, Trace

_log = logging.getLogger("rfprm_lite")


def best(
    scorer: Scorer,
    problem: Problem,
    candidates: Iterable[Candidate],
    count: int,
    aggregate: AggregateLike | None,
    *,
    exhaustive: bool,
    cancel: Cancellation | None = None,
) -> BestOfN[Candidate, Score | Unfinished]:
    """The `count` best candidates.

    Args:
        scorer: The loaded model.
        problem: The question.
        candidates: Responses to it.
        count: How many are wanted, at least 1; all if it exceeds their number.
        aggregate: What makes one reward of a candidate's; the recipe's own where None.
        exhaustive: Whether to read every candidate to its end.
        cancel: Ends the call from another thread.

    Raises:
        InputError: If there is no candidate, if `count` is below 1, or if the aggregate can't be bounded and the call
            is not exhaustive.
        InputTypeError: If candidates are one response.
    """
    if isinstance(candidates, Trace):
        raise InputTypeError("candidates are several responses, not one Trace")
    responses = tuple(listed("candidates", candidates))
    if not responses:
        raise InputError("no candidates: there is nothing to choose from")
    if not isinstance(count, int) or count < 1:
        raise InputError(f"k={count!r}: a whole number from 1 on is needed")
    chosen = scorer.aggregate(aggregate)
    if isinstance(chosen, CustomAggregate) and not (exhaustive or chosen.monotone):
        raise InputError(
            f"the aggregate {chosen} may fall when a step reward rises, so that candidates can't be bounded: take "
            "exhaustive=True, or say CustomAggregate(function, monotone=True)"
        )
    requests = scorer.requests([(problem, candidate) for candidate in responses], chosen)
    reason = None if exhaustive else why_unbounded(chosen, scorer.scale)
    if reason is not None:
        _log.info("%s, so every candidate is read to its end", reason)
    ranking, rewards, computed = _ranked(scorer, requests, count, exhaustive or reason is not None, cancel)
    scores = tuple(request.result(r, tokens) for request, r, tokens in zip(requests, rewards, computed, strict=True))
    return BestOfN(tuple(ranking), responses, scores, sum((score.tokens for score in scores), Usage(0, 0)))


def why_unbounded(aggregate: AnyAggregate, scale: Scale) -> str | None:
    """Why the first rewards of a candidate say nothing of the highest that it can reach; None if they do.

    Args:
        aggregate: What makes one reward of its step rewards.
        scale: What a step reward can be.
    """
    if not aggregate.is_monotone(scale.range):
        return f"{aggregate} may fall when a step reward rises"
    if not math.isfinite(scale.high) and not aggregate.never_rises(scale.range):
        return "nothing bounds a step reward of this model"
    return None


def _ranked(
    scorer: Scorer, requests: Sequence[Request], count: int, exhaustive: bool, cancel: Cancellation | None
) -> tuple[list[int], list[Rewards], list[int]]:
    """The best candidates, the rewards that were read out of each, and the tokens computed for each."""
    computed = [0] * len(requests)
    longest, kept = _sizes(scorer, requests)
    lazy = not exhaustive and scorer.footprint.may_pin(longest, kept)
    with scorer.cache.lease() as lease:
        call = scorer.call(cancel, lease if lazy else None, capacity=longest, pins=kept if lazy else 0)

        def advance(further: Sequence[tuple[int, int]]) -> list[Rewards]:
            results = grouped(call, [requests[i].first(readouts) for i, readouts in further])
            for (i, _), (_, tokens) in zip(further, results, strict=True):
                computed[i] += tokens
            return [rewards for rewards, _ in results]

        everything = [(i, request.num_readouts) for i, request in enumerate(requests)]
        known = bound.nothing(requests) if lazy else advance(everything)
        ranking, rewards = bound.best(requests, known, count, advance)
    return ranking, rewards, computed


def _sizes(scorer: Scorer, requests: Sequence[Request]) -> tuple[int, int]:
    """Tokens of the longest sequence, and bytes of all candidates' keys and values, shared prefixes counted once."""
    segments = plan([sequence for request in requests for sequence in request.sequences]).segments
    tokens = sum(len(segment.ids) for segment in segments)
    return max(request.longest for request in requests), tokens * scorer.footprint.sizes.token_bytes
