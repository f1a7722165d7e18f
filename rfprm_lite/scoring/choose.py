"""Best of N: the choice of the candidates with the highest rewards, with no more computed than that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rfprm_lite.aggregate import AggregateLike, AnyAggregate, CustomAggregate
from rfprm_lite.errors import InputError, InputTypeError, RfprmError
from rfprm_lite.lists import listed
from rfprm_lite.plan import bound
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import Rewards
from rfprm_lite.plan.tree import plan
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import BestOfN, Candidate, Score, Unfinished
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.batches import OnError, attempt, require_on_error
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
    on_error: OnError = "raise",
    cancel: Cancellation | None = None,
) -> BestOfN[Candidate, Score | Unfinished | RfprmError]:
    """The `count` best candidates.

    Args:
        scorer: The loaded model.
        problem: The question.
        candidates: Responses to it; with on_error="return" also errors, of what could not be read as one.
        count: How many are wanted, at least 1; all if it exceeds their number.
        aggregate: What makes one reward of a candidate's; the recipe's own where None.
        exhaustive: Whether to read every candidate to its end.
        on_error: "raise" raises the first error of a candidate before anything runs; "return" puts it in the place of
            the score, and the candidate last.
        cancel: Ends the call from another thread.

    Raises:
        InputError: If there is no candidate, if none can be scored, if `count` is below 1, or if the aggregate can't be
            bounded and the call is not exhaustive.
        InputTypeError: If candidates are one response.
    """
    require_on_error(on_error)
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
    attempts = _attempts(scorer, problem, responses, chosen, on_error)
    good = {i: request for i, request in enumerate(attempts) if isinstance(request, Request)}
    bad = {i: error for i, error in enumerate(attempts) if isinstance(error, RfprmError)}
    if not good:
        bad[0].add_note(f"none of {len(bad)} candidates can be scored; this is what is wrong with the first")
        raise bad[0]
    reason = None if exhaustive else why_unbounded(chosen, scorer.scale)
    if reason is not None:
        _log.info("%s, so every candidate is read to its end", reason)
    whole = exhaustive or reason is not None
    best_of_good, rewards, computed = _ranked(scorer, list(good.values()), count, whole, cancel)
    results = [one.result(*pair) for one, pair in zip(good.values(), zip(rewards, computed, strict=True), strict=True)]
    by_index: dict[int, Score | Unfinished | RfprmError] = {**bad, **dict(zip(good, results, strict=True))}
    places = list(good)
    ranking = [*(places[i] for i in best_of_good), *bad][:count]
    scores = tuple(by_index[i] for i in range(len(responses)))
    return BestOfN(tuple(ranking), responses, scores, sum((result.tokens for result in results), Usage(0, 0)))


def _attempts(
    scorer: Scorer, problem: Problem, responses: Sequence[object], aggregate: AnyAggregate, on_error: OnError
) -> Sequence[Request | RfprmError]:
    """The request of each candidate, or its error; with on_error="raise" the first error raises."""
    pairs: Any = [(problem, response) for response in responses]
    if on_error == "raise":
        return scorer.requests(pairs, aggregate)
    return [
        pair[1] if isinstance(pair[1], RfprmError) else attempt(lambda one: scorer.pair_request(one, aggregate), pair)
        for pair in pairs
    ]


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
