"""What a PRM reads of a trace, and what its rewards make of it.

In: a trace and its token sequences. Out: the part of them up to any read-out, and a `Score` of their rewards. Knows
nothing of engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.plan.sequence import Rewards, SequenceRewards, TokenSequence
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import Score, Unfinished
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Trace


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A trace and what the model reads of it: one read-out a step, and behind them one for the final reward where the
    aggregate has the response read as one step."""

    trace: Trace
    sequences: tuple[TokenSequence, ...]
    aggregate: Aggregate

    @classmethod
    def of(cls, encoder: Encoder, problem: Problem, trace: Trace, aggregate: Aggregate) -> Request:
        """Raises ContextLengthError, InputError, InputTypeError."""
        sequences = encoder.step_sequences(problem, trace)
        if aggregate.reads_response:
            sequences += encoder.response_sequences(problem, trace)
        return cls(trace, tuple(sequences), aggregate)

    @property
    def num_readouts(self) -> int:
        return sum(len(sequence.read_at) for sequence in self.sequences)

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences)

    def first(self, readouts: int) -> list[TokenSequence]:
        """The sequences up to the first `reads` read-outs, and no further."""
        found: list[TokenSequence] = []
        for sequence in self.sequences:
            if readouts <= 0:
                break
            own = sequence.read_at[:readouts]
            found.append(TokenSequence(sequence.ids[: int(own[-1]) + 1], own))
            readouts -= len(own)
        return found

    def bounds(self, rewards: Rewards) -> tuple[float, float]:
        """The lowest and highest reward that the trace can have when its first rewards are known.

        Every operation of an aggregate is rounded monotonically, so that these bounds hold to the last bit."""
        missing = self.num_readouts - len(rewards)
        low, high = (np.concatenate([rewards, np.full(missing, value, np.float32)]) for value in (0, 1))
        return self._reward(low), self._reward(high)

    def score(self, rewards: Rewards, computed: int) -> Score:
        """rewards: all."""
        steps = rewards[: len(self.trace.steps)]
        return Score(
            step_rewards=steps,
            trajectory_reward=float(rewards[-1]),
            reward=self._reward(rewards),
            aggregate=self.aggregate,
            steps=self.trace.steps,
            tokens=Usage(self.num_tokens, computed),
        )

    def result(self, rewards: Rewards, computed: int) -> Score | Unfinished:
        """rewards: all, or the first ones."""
        return (self.score if len(rewards) == self.num_readouts else self.partial)(rewards, computed)

    def partial(self, rewards: Rewards, computed: int) -> Unfinished:
        """rewards: the first ones."""
        skipped = self.num_tokens - sum(len(sequence.ids) for sequence in self.first(len(rewards)))
        low, high = self.bounds(rewards)
        return Unfinished(
            step_rewards=rewards[: len(self.trace.steps)],
            lowest=low,
            highest=high,
            aggregate=self.aggregate,
            steps=self.trace.steps,
            tokens=Usage(self.num_tokens, computed, skipped),
        )

    def _reward(self, rewards: Rewards) -> float:
        return self.aggregate(rewards[: len(self.trace.steps)], float(rewards[-1]))


def collected(parts: Sequence[Sequence[TokenSequence]], found: Sequence[SequenceRewards]) -> list[tuple[Rewards, int]]:
    """Rewards and computed tokens of each part, from those of all their sequences in order."""
    rest = iter(found)
    made: list[tuple[Rewards, int]] = []
    for part in parts:
        own = [next(rest) for _ in part]
        made.append((np.concatenate([one.rewards for one in own]), sum(one.computed for one in own)))
    return made
