"""Which traces of many are kept: the offline data selection of arXiv 2506.18896, section 4.

A trace's reward is what its aggregate makes of its rewards: the paper's r_hat = mean of the step rewards + alpha * the
final reward, where the recipe or the caller says mean+final.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rfprm_lite.errors import InputError

_TOP = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is kept: the traces that meet all of these.

    per_problem: among the best so many of its problem. min_reward: a reward of at least so much. top: among the best so
    many of those that meet the two before: a number, or with share=True a part of all scored traces, rounded down, but
    one at least. Of equal rewards the one that comes first in the input is the better.
    """

    top: Fraction | None = None
    share: bool = False
    min_reward: float | None = None
    per_problem: int | None = None

    def __post_init__(self) -> None:
        if self.top is None and self.min_reward is None and self.per_problem is None:
            raise InputError("nothing says what is kept: --top 10%, --top 500, --min-reward 0.7 or --per-problem 1")
        if self.per_problem is not None and self.per_problem < 1:
            raise InputError(f"per_problem={self.per_problem}: a whole number from 1 on is needed")
        if self.min_reward is not None and self.min_reward != self.min_reward:
            raise InputError("min_reward is not a number")

    @classmethod
    def of(cls, top: str | None, min_reward: float | None, per_problem: int | None) -> Selection:
        """top: a number of traces ("500") or a part of them ("10%"). Raises InputError."""
        if top is None:
            return cls(None, False, min_reward, per_problem)
        found = _TOP.fullmatch(top.strip())
        if found is None or not Fraction(found[1]) > 0 or (found[2] and Fraction(found[1]) > 100):
            raise InputError(f"top={top!r}: a number of traces such as 500, or a part such as 10%, is needed")
        if not found[2] and "." in found[1]:
            raise InputError(f"top={top!r}: a whole number of traces is needed; a part of them has a %")
        return cls(Fraction(found[1]) / (100 if found[2] else 1), bool(found[2]), min_reward, per_problem)

    def limit(self, scored: int) -> int | None:
        """At most so many of `scored` traces; None for any number."""
        if self.top is None:
            return None
        return max(int(self.top * scored), 1) if self.share else int(self.top)
