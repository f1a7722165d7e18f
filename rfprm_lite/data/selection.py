"""The selection of traces to keep: the offline data selection of arXiv 2506.18896, section 4.

A trace's reward is the one that its aggregate makes: the paper's r_hat = mean of the step rewards + alpha * the final
reward, where the recipe or the caller says mean+final.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rfprm_lite.errors import InputError

_TOP = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True, slots=True)
class Selection:
    """The conditions that a kept trace meets, all of them; without one, every trace is kept.

    Of equal rewards the first in the input is the better.

    Attributes:
        top: It is among the best `top` of the traces that meet the other two conditions.
        share: Whether `top` is a part of all scored traces, rounded down, but one at least, instead of a number.
        min_reward: Its reward is at least this.
        per_problem: It is among the best `per_problem` of its problem.

    Raises:
        InputError: If a condition makes no sense.
    """

    top: Fraction | None = None
    share: bool = False
    min_reward: float | None = None
    per_problem: int | None = None

    def __post_init__(self) -> None:
        if self.per_problem is not None and self.per_problem < 1:
            raise InputError(f"per_problem={self.per_problem}: a whole number from 1 on is needed")
        if self.min_reward is not None and self.min_reward != self.min_reward:
            raise InputError("min_reward is not a number")

    @classmethod
    def of(cls, top: str | None, min_reward: float | None, per_problem: int | None) -> Selection:
        """The selection of options as users write them.

        Args:
            top: A number of traces ("500") or a part of them ("10%"); None for no such condition.
            min_reward: As the attribute.
            per_problem: As the attribute.

        Raises:
            InputError: If a condition makes no sense.
        """
        if top is None:
            return cls(None, False, min_reward, per_problem)
        match = _TOP.fullmatch(top.strip())
        if match is None or not Fraction(match[1]) > 0 or (match[2] and Fraction(match[1]) > 100):
            raise InputError(f"top={top!r}: a number of traces such as 500, or a part such as 10%, is needed")
        if not match[2] and "." in match[1]:
            raise InputError(f"top={top!r}: a whole number of traces is needed; a part of them has a %")
        return cls(Fraction(match[1]) / (100 if match[2] else 1), bool(match[2]), min_reward, per_problem)

    @property
    def keeps_all(self) -> bool:
        """Whether there is no condition."""
        return self.top is None and self.min_reward is None and self.per_problem is None

    def limit(self, scored: int) -> int | None:
        """The most traces that `top` keeps of `scored` ones; None for any number."""
        if self.top is None:
            return None
        return max(int(self.top * scored), 1) if self.share else int(self.top)
