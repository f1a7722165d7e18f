"""Fixed traces on which recipes are asserted, variants calibrated and parity measured.

Real ones from data/ are for the numbers. The probes hold what breaks tokenizers and graphs: leading blanks, line
breaks at borders of steps, other scripts, formulas, one-word steps, prefixes that several traces share, and one that is
longer than the runtime's chunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from rfprm_lite.trace import Trace

_PROBLEM = (
    "A shop sells pens at $3 and books at $12. Ann buys 4 pens and 2 books and pays with $50. What is her change?"
)
_RIGHT = ["The pens cost 4 * 3 = 12 dollars.", "The books cost 2 * 12 = 24 dollars.", "Together 12 + 24 = 36 dollars."]

PROBES: tuple[tuple[str, Trace], ...] = (
    (_PROBLEM, Trace.from_steps([*_RIGHT, "The change is 50 - 36 = 14 dollars.", "The answer is 14."])),
    (_PROBLEM, Trace.from_steps([*_RIGHT, "The change is 50 - 36 = 24 dollars.", "The answer is 24."])),
    (_PROBLEM, Trace.from_steps([*_RIGHT[:1], "The books cost 2 + 12 = 14 dollars.", "\\boxed{24}"])),
    (_PROBLEM, Trace.parse("<think>\nOkay, 4 pens.\n\nWait, and 2 books.\n</think>\n\n**Total**: $36$.\n\n14 dollars")),
    (
        "\n  Soit $f(x)=x^2$. Wie gross ist f(3)? 求 f(3)。",
        Trace.from_steps(["f(3) = 3² = 9", "So.", "  Also 9.\n", "答案是 9。", "🙂 \\(\\boxed{9}\\)"]),
    ),
    ("What is 1 + 1?", Trace.from_steps(["2"])),
)


def calibration_traces() -> list[tuple[str, Trace]]:
    """Load real problems with real steps, from which statistics of activations are taken."""
    return [(row["problem"], Trace.from_steps(row["steps"])) for row in _data()["calibration"]]


def pools() -> list[list[tuple[str, Trace]]]:
    """Load real problems, none of them a calibration's, each with real candidates."""
    return [[(row["problem"], Trace.from_steps(steps)) for steps in row["candidates"]] for row in _data()["pools"]]


def _data() -> dict[str, Any]:
    path = files("rfprm_export.parity") / "data" / "traces.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def long_trace(fits: Callable[[str, Trace], bool], most: int = 60) -> tuple[str, Trace]:
    """Make a running sum of as many steps as fit the model.

    Args:
        fits: Whether the model can read a problem and a trace.
        most: Steps at most.
    """
    problem = "Add the numbers from 1 to 60, one after another."

    def trace(steps: int) -> Trace:
        lines = [
            f"After adding {n} the sum is {n * (n - 1) // 2} + {n} = {n * (n + 1) // 2}." for n in range(1, steps + 1)
        ]
        return Trace.from_steps(lines)

    steps = most
    while steps > 1 and not fits(problem, trace(steps)):
        steps -= 1
    return problem, trace(steps)
