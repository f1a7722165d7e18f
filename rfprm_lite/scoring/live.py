"""A trace that grows: the reward of each step as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rfprm_lite.aggregate import AnyAggregate
from rfprm_lite.errors import InputError
from rfprm_lite.plan.sequence import SequenceRewards, TokenSequence
from rfprm_lite.results import Score
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.request import Request
from rfprm_lite.scoring.scorer import CallPool, Scorer
from rfprm_lite.trace import Problem, Trace


@dataclass(frozen=True, slots=True)
class _Past:
    """The steps of a trace and their rewards. computed: tokens that went through the model for them."""

    steps: tuple[str, ...] = ()
    num_thinking: int = 0
    rewards: tuple[np.float32, ...] = ()
    computed: int = 0

    def longer(self, step: str, result: SequenceRewards, *, thinking: bool) -> _Past:
        """With one step more."""
        return _Past(
            (*self.steps, step),
            self.num_thinking + thinking,
            (*self.rewards, result.rewards[-1]),
            self.computed + result.computed,
        )


class LiveTrace:
    """A problem and the steps so far, made by `PRM.live`. Not for several threads at once; its forks are independent.

    A trace and its forks pin the keys and values of their past, and share lanes that wait for the next step: a step
    costs its own tokens. All live traces, races and lazy best-of-N calls of a PRM may hold 2 GiB together, or half of
    `memory_bytes`, and with it no more than the call under way leaves. Beyond that lanes are dropped, then the least
    recently used prefixes, which are computed again when they are needed; rewards do not change.
    """

    def __init__(
        self, scorer: Scorer, problem: Problem, aggregate: AnyAggregate, calls: CallPool | None = None
    ) -> None:
        self._scorer = scorer
        self._problem = problem
        self._aggregate = aggregate
        self._calls = CallPool(scorer, scorer.cache.lease()) if calls is None else calls
        self._past = _Past()

    @property
    def scale(self) -> Scale:
        """What a step reward can be."""
        return self._scorer.scale

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps so far."""
        return self._past.steps

    @property
    def step_rewards(self) -> tuple[float, ...]:
        """Their rewards, within `scale`."""
        return tuple(float(reward) for reward in self._past.rewards)

    def append(self, step: str, *, thinking: bool = False) -> float:
        """Add a step, as it is, and return its reward.

        Args:
            step: The step's text.
            thinking: Whether it is of the thinking trajectory, which comes before the response.

        Raises:
            InputError: If the step is empty, or of the thinking after one of the response.
            InputTypeError: If it is no text.
            ContextLengthError: If the trace has become longer than the model reads.
            MemoryLimitError: If it would take too much memory.

        After any error the trace is as it was.
        """
        return self.append_all({0: (self, step)}, thinking=thinking)[0]

    def fork(self) -> LiveTrace:
        """A trace with the same past, which it shares."""
        other = LiveTrace(self._scorer, self._problem, self._aggregate, self._calls)
        other._past = self._past
        return other

    def score(self) -> Score:
        """The score of the trace so far, the same as `PRM.score` gives it.

        Raises:
            InputError: If the trace has no step, or no response that the aggregate scores as one step.
        """
        trace = Trace.from_steps(self._past.steps, thinking=self._past.num_thinking)
        request = Request.of(self._scorer.encoder, self._problem, trace, self._aggregate, self._scorer.scale)
        rewards = np.array(self._past.rewards, np.float32)
        if request.num_readouts > len(rewards):
            with self._calls.call() as call:
                (final,) = call.rewards(request.sequences[-1:])
            rewards = np.append(rewards, final.rewards[-1])
            self._past = replace(self._past, computed=self._past.computed + final.computed)
        return request.score(rewards, min(self._past.computed, request.num_tokens))

    @staticmethod
    def append_all(steps: Mapping[int, tuple[LiveTrace, str]], *, thinking: bool = False) -> dict[int, float]:
        """Add a step to each of several forks of one trace, all in the same runs.

        Args:
            steps: A fork and its step, by keys of yours.
            thinking: Whether they are of the thinking trajectories.

        Returns:
            The rewards, under the keys of `steps`.

        After any error all traces are as they were. Raises as `append`.
        """
        traces = [trace for trace, _ in steps.values()]
        sequences = [trace._sequence_with(step, thinking=thinking) for trace, step in steps.values()]
        with traces[0]._calls.call() as call:
            results = call.rewards(sequences)
        longer = [
            trace._past.longer(step, result, thinking=thinking)
            for (trace, step), result in zip(steps.values(), results, strict=True)
        ]
        for trace, past in zip(traces, longer, strict=True):
            trace._past = past
        return {key: float(result.rewards[-1]) for key, result in zip(steps, results, strict=True)}

    def _sequence_with(self, step: str, *, thinking: bool) -> TokenSequence:
        """The trace with one step more, read out at that step alone."""
        if thinking and len(self._past.steps) > self._past.num_thinking:
            raise InputError("a step of the thinking trajectory can't follow one of the response")
        longer = Trace.from_steps((*self._past.steps, step), thinking=self._past.num_thinking + thinking)
        return self._scorer.encoder.last_step_sequence(self._problem, longer)
