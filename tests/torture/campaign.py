"""How much is tried, and what it came to: each part of the campaign counts its attempts here.

make torture
python tests/torture/campaign.py dist/torture-*.json  # a table of what was tried
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to try: little among the other tests, much in the campaign.

    Attributes:
        long: Whether this is the campaign.
        factor: What the campaign's own amounts are multiplied by: 1 for half an hour in all.
    """

    long: bool
    factor: float

    def times(self, short: int, long: int) -> int:
        """So many attempts."""
        return max(1, round(long * self.factor)) if self.long else short

    def seconds(self, short: float, long: float) -> float:
        """So many seconds."""
        return long * self.factor if self.long else short


class Row(TypedDict):
    """What one test tried. counts: attempts by what was attempted. found: measures, each with its unit in its name."""

    part: str
    test: str
    tried: str
    counts: dict[str, int]
    found: dict[str, float | str]
    seconds: float
    outcome: str


@dataclass(slots=True)
class Tally:
    """What one test counts.

    Attributes:
        tried: What was tried, in a few words; the first line of the test's docstring.
        counts: Attempts, by what was attempted.
        found: What was measured.
    """

    tried: str
    counts: dict[str, int] = field(default_factory=dict)
    found: dict[str, float | str] = field(default_factory=dict)

    def add(self, what: str, times: int = 1) -> None:
        """Count attempts."""
        self.counts[what] = self.counts.get(what, 0) + times

    def measure(self, what: str, value: float | str) -> None:
        """Keep a measure."""
        self.found[what] = value


def table(rows: list[Row]) -> str:
    """A Markdown table: a row a test."""
    lines = [
        "| part | what was tried | attempts | measured | seconds | outcome |",
        "| --- | --- | --- | --- | ---: | --- |",
    ]
    for row in rows:
        counts = ", ".join(f"{count:,} {what}" for what, count in row["counts"].items())
        found = ", ".join(f"{what} {_short(value)}" for what, value in row["found"].items())
        cells = [row["part"], row["tried"], counts, found, f"{row['seconds']:.0f}", row["outcome"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


if __name__ == "__main__":
    reports = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    print(table([row for report in reports for row in report["rows"]]))
