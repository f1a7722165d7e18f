"""The judge of training runs: r_hat of completions, where one that can't be scored does not end the run.

A policy writes nothing at times, or more than the PRM reads. Such completions have no score; they are counted, and
logged as a warning. An error of anything but a completion is raised.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence

from rfprm_lite.aggregate import AggregateLike, AnyAggregate
from rfprm_lite.errors import InputError, MemoryLimitError, RfprmError
from rfprm_lite.plan.usage import Usage
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.rl import BETA, require_weight
from rfprm_lite.scale import Scale
from rfprm_lite.text.conversation import prompt_pieces
from rfprm_lite.trace import Problem, Response

_log = logging.getLogger("rfprm_lite")


class Judge:
    """A judge of completions. Several threads may call it.

    Args:
        prm: A loaded model.
        aggregate: As in `PRM.score`.
        unscorable: The r_hat of a completion without a score.

    Attributes:
        judged: Completions of all calls so far.
        unscored: Those of them without a score.
        tokens: Token counts of the others.
    """

    def __init__(self, prm: PRM, aggregate: AggregateLike | None, unscorable: float | None) -> None:
        self.prm = prm
        self.aggregate = aggregate
        self.unscorable = unscorable
        self.judged = 0
        self.unscored = 0
        self.tokens = Usage(0, 0)
        self._counting = threading.Lock()

    def __reduce__(self) -> tuple[type[Judge], tuple[object, ...]]:
        return type(self), (self.prm, self.aggregate, self.unscorable)

    def __call__(self, pairs: Sequence[tuple[Problem, Response]]) -> list[Score | None]:
        """The score of each problem and response; None where the response is empty, or too long with its problem.

        Raises:
            InputError: If a problem can't be judged.
            InputTypeError: If it is neither text nor a list of messages.

        Otherwise raises as `PRM.score_many` does.
        """
        self._require_problems(pairs)
        return self._judged(self.prm.score_many(pairs, aggregate=self.aggregate, on_error="return"))

    async def judge(self, pairs: Sequence[tuple[Problem, Response]]) -> list[Score | None]:
        """The same in a thread of its own, which ends if this is cancelled."""
        self._require_problems(pairs)
        return self._judged(await self.prm.aio.score_many(pairs, aggregate=self.aggregate, on_error="return"))

    def _require_problems(self, pairs: Sequence[tuple[Problem, Response]]) -> None:
        for i, (problem, _) in enumerate(pairs):
            try:
                prompt_pieces(problem, self.prm.manifest.recipe)
            except RfprmError as wrong:
                wrong.add_note(f"in the prompt of completion {i}")
                raise

    def _judged(self, results: Sequence[Score | RfprmError]) -> list[Score | None]:
        errors = [result for result in results if isinstance(result, RfprmError)]
        for error in errors:
            if not isinstance(error, (InputError, MemoryLimitError)):
                raise error
        scores = [result if isinstance(result, Score) else None for result in results]
        with self._counting:
            self.judged += len(results)
            self.unscored += len(errors)
            self.tokens = sum((score.tokens for score in scores if score), self.tokens)
            if errors:
                _log.warning(
                    "%d of %d completions can't be scored (%d of %d so far) and get r_hat = %s; the first: %s",
                    *(len(errors), len(results), self.unscored, self.judged, self.unscorable, errors[0]),
                )
        return scores

    def r_hat(self, score: Score | None) -> float | None:
        """The reward of a score; `unscorable` where there is none."""
        return self.unscorable if score is None else score.reward


class Counting:
    """What an adapter tells of its judge."""

    _judge: Judge

    @property
    def tokens(self) -> Usage:
        """Token counts of all calls so far."""
        return self._judge.tokens

    @property
    def unscored(self) -> int:
        """The number of responses of all calls so far that could not be scored."""
        return self._judge.unscored


def in_unit(score: Score) -> float:
    """The reward of a score as a share of its range, in [0, 1].

    Raises:
        InputError: If nothing bounds it.
    """
    lowest, highest = require_range(score.aggregate, score.scale)
    return min(1.0, max(0.0, (score.reward - lowest) / (highest - lowest)))


def require_range(aggregate: AnyAggregate, scale: Scale) -> tuple[float, float]:
    """The range of an aggregate's rewards.

    Args:
        aggregate: What makes one reward of step rewards.
        scale: What those can be.

    Raises:
        InputError: If nothing bounds them.
    """
    known = aggregate.range_over(scale.range)
    if known is None or not (-math.inf < known[0] < known[1] < math.inf):
        raise InputError(
            f"the rewards of the aggregate {aggregate} have no range, by which they would be put into [0, 1]: give one "
            "by CustomAggregate(function, reward_range=(lowest, highest)), whose function squashes them, say"
        )
    return known


def weight_of(outcome: object | None, beta: float | None) -> float:
    """The weight of r_hat: beta, or upstream's where None.

    Args:
        outcome: What r_hat is weighed against; None if nothing.
        beta: A number in [0, 1], or None.

    Raises:
        InputError: If beta is not in [0, 1], or if there is no outcome to weigh against.
    """
    if outcome is None and beta is not None:
        raise InputError(f"beta={beta} weighs r_hat against an outcome, and none is given: give one, or no beta")
    return require_weight(BETA if beta is None else beta)
