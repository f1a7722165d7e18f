"""A trace that grows: the reward of each step as soon as it is there.

In: steps, one after another. Out: their rewards. Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.errors import InputError
from rfprm_lite.plan.sequence import SequenceRewards, TokenSequence
from rfprm_lite.results import Score
from rfprm_lite.scoring.request import Request
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Trace

ScoreSequences = Callable[[Sequence[TokenSequence]], list[SequenceRewards]]


class LiveTrace:
    """A problem and the steps so far, made by `PRM.trace`. Not for several threads at once; its forks are independent.

    A trace and its forks keep the keys and values of their past, up to 2 GiB or half of `memory_bytes`: a step costs
    its own tokens. Of what had to go the least recently used went first; it is computed again, and rewards are the
    same."""

    def __init__(
        self, problem: Problem, aggregate: Aggregate, encoder: Encoder, score_sequences: ScoreSequences
    ) -> None:
        self._problem = problem
        self._aggregate = aggregate
        self._encoder = encoder
        self._score_sequences = score_sequences
        self._steps: tuple[str, ...] = ()
        self._thinking = 0
        self._rewards: tuple[np.float32, ...] = ()
        self._computed = 0

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps so far."""
        return self._steps

    @property
    def step_rewards(self) -> tuple[float, ...]:
        """Their rewards, in [0, 1]."""
        return tuple(float(reward) for reward in self._rewards)

    def append(self, step: str, *, thinking: bool = False) -> float:
        """Add a step, as it is, and return its reward in [0, 1].

        thinking: whether it is of the thinking trajectory, which comes before the response. Raises InputError,
        InputTypeError, ContextLengthError, MemoryLimitError; the trace is then as it was.
        """
        if thinking and len(self._steps) > self._thinking:
            raise InputError("a step of the thinking trajectory can't follow one of the response")
        steps, num_thinking = (*self._steps, step), self._thinking + thinking
        trace = Trace.from_steps(steps, thinking=num_thinking)
        (found,) = self._score_sequences([self._encoder.last_step_sequence(self._problem, trace)])
        self._steps, self._thinking = steps, num_thinking
        self._rewards += (found.rewards[-1],)
        self._computed += found.computed
        return float(found.rewards[-1])

    def fork(self) -> LiveTrace:
        """A trace with the same past, which it shares."""
        other = LiveTrace(self._problem, self._aggregate, self._encoder, self._score_sequences)
        other._steps, other._thinking = self._steps, self._thinking
        other._rewards, other._computed = self._rewards, self._computed
        return other

    def score(self) -> Score:
        """The score of the trace so far: that of `PRM.score`. Raises InputError where it has no step, or no response
        that the aggregate reads as one."""
        trace = Trace.from_steps(self._steps, thinking=self._thinking)
        reading = Request.of(self._encoder, self._problem, trace, self._aggregate)
        rewards = np.array(self._rewards, np.float32)
        if reading.num_readouts > len(rewards):
            (final,) = self._score_sequences(reading.sequences[-1:])
            rewards = np.append(rewards, final.rewards[-1])
            self._computed += final.computed
        return reading.score(rewards, min(self._computed, reading.num_tokens))
