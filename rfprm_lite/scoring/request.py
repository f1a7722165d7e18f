"""A trace on its way: the sequences that the model sees, and the `Score` that their rewards make.

In: a trace and its token sequences. Out: the part of them up to any read-out, and a result of their rewards. Knows
nothing of engines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfprm_lite.aggregate import AnyAggregate
from rfprm_lite.errors import InputError
from rfprm_lite.plan.sequence import Rewards, SequenceRewards, TokenSequence
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import Score, Unfinished
from rfprm_lite.scale import Scale
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Step, Trace


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A trace and its token sequences.

    There is one read-out a step, and behind them one for the final reward where the aggregate has the response read
    out as one step.

    Attributes:
        trace: The trace.
        sequences: What the model sees of it.
        aggregate: What makes one reward of its rewards.
        scale: What a step reward can be.
        truncated: Steps that the model does not see, or not to their ends.
        whole: The trace before its first steps were dropped, which have no reward; None where none were.
    """

    trace: Trace
    sequences: tuple[TokenSequence, ...]
    aggregate: AnyAggregate
    scale: Scale
    truncated: int = 0
    whole: Trace | None = None

    @classmethod
    def of(cls, encoder: Encoder, problem: Problem, trace: Trace, aggregate: AnyAggregate, scale: Scale) -> Request:
        """A trace, encoded.

        Raises:
            ContextLengthError: If it has more tokens than the model reads.
            InputError: If a text can't be scored.
            InputTypeError: If something is of the wrong type.
        """
        sequences = encoder.step_sequences(problem, trace)
        if aggregate.scores_response:
            sequences += encoder.response_sequences(problem, trace)
        return cls(trace, tuple(sequences), aggregate, scale)

    @property
    def num_readouts(self) -> int:
        """Read-outs of all sequences."""
        return sum(len(sequence.read_at) for sequence in self.sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence.ids) for sequence in self.sequences)

    def first(self, readouts: int) -> list[TokenSequence]:
        """The sequences up to the first `readouts` read-outs, and no further."""
        parts: list[TokenSequence] = []
        for sequence in self.sequences:
            if readouts <= 0:
                break
            positions = sequence.read_at[:readouts]
            parts.append(TokenSequence(sequence.ids[: int(positions[-1]) + 1], positions))
            readouts -= len(positions)
        return parts

    def highest(self, rewards: Rewards) -> float:
        """The highest reward that the trace can have when its first rewards are known.

        The missing rewards are set to the highest of the scale. The bound holds to the last bit, since each operation
        of a monotone aggregate is monotone after rounding, too: if x <= y, then fl(x + z) <= fl(y + z), and the same
        holds for a product with z >= 0, a division by a count, the minimum and the maximum. numpy adds and multiplies
        in an order that depends on the number of steps alone, which is that of the whole trace in all cases.
        """
        return self._reward(self._filled(rewards, self.scale.high))

    def lowest(self, rewards: Rewards) -> float:
        """The lowest reward that the trace can have, the missing rewards set to the lowest of the scale.

        It is -inf where nothing bounds a step's, or where the aggregate is a function that has no finite value there,
        as a logarithm.
        """
        try:
            return self._reward(self._filled(rewards, self.scale.low))
        except InputError:
            return -math.inf

    def _filled(self, rewards: Rewards, value: float) -> Rewards:
        return np.concatenate([rewards, np.full(self.num_readouts - len(rewards), value, np.float32)])

    def score(self, rewards: Rewards, computed: int) -> Score:
        """The score of a trace whose rewards are all known.

        Args:
            rewards: float32 [num_readouts].
            computed: Tokens that went through the model for it.
        """
        return Score(
            step_rewards=self._of_steps(rewards),
            aggregate=self.aggregate,
            steps=self._steps,
            tokens=Usage(self.num_tokens, computed),
            reward=self._reward(rewards),
            final=float(rewards[-1]),
            scale=self.scale,
            truncated=self.truncated,
        )

    def result(self, rewards: Rewards, computed: int) -> Score | Unfinished:
        """A `Score` if every reward is known, otherwise an `Unfinished` with bounds.

        Args:
            rewards: The first rewards, or all: float32.
            computed: Tokens that went through the model for them.
        """
        if len(rewards) == self.num_readouts:
            return self.score(rewards, computed)
        skipped = self.num_tokens - sum(len(sequence.ids) for sequence in self.first(len(rewards)))
        return Unfinished(
            step_rewards=self._of_steps(rewards),
            aggregate=self.aggregate,
            steps=self._steps,
            tokens=Usage(self.num_tokens, computed, skipped),
            lowest=self.lowest(rewards),
            highest=self.highest(rewards),
            scale=self.scale,
            truncated=self.truncated,
        )

    @property
    def _steps(self) -> tuple[Step, ...]:
        """The steps of the whole trace."""
        return (self.whole or self.trace).steps

    def _of_steps(self, rewards: Rewards) -> Rewards:
        """The rewards of the steps of the whole trace; NaN of those that were dropped."""
        dropped = len(self._steps) - len(self.trace.steps)
        return np.concatenate([np.full(dropped, np.nan, np.float32), rewards[: len(self.trace.steps)]])

    def _reward(self, rewards: Rewards) -> float:
        return self.aggregate(rewards[: len(self.trace.steps)], float(rewards[-1]))


def joined(results: Sequence[SequenceRewards]) -> tuple[Rewards, int]:
    """The rewards of consecutive sequences as one array, and the tokens computed for them."""
    return np.concatenate([one.rewards for one in results]), sum(one.computed for one in results)
