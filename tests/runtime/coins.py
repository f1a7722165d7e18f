"""A problem with a right and a wrong answer, and a long trace, for the demo model."""

from __future__ import annotations

from collections.abc import Iterable

from rfprm_lite import Trace

PROBLEM = "Ann has 15 coins. She finds 4 more and loses 6. How many coins has she now?"
GOOD = ["Ann has 15 + 4 = 19 coins.", "Then she has 19 - 6 = 13 coins.", "The answer is 13."]
BAD = ["Ann has 15 + 4 = 21 coins.", "Then she has 21 - 6 = 15 coins.", "So she has 15.", "The answer is 15."]
LONG = [f"{n} + {n} = {2 * n}" for n in range(1, 120)]


def of(steps: Iterable[str]) -> Trace:
    return Trace.from_steps(steps)


def all_of(candidates: Iterable[Iterable[str]]) -> list[Trace]:
    return [of(steps) for steps in candidates]
