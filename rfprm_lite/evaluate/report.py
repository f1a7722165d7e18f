"""A report: a judge's results on several sets, and how other judges differ. As JSON, and as Markdown for a card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.best_of_n import BEST_OF_N
from rfprm_lite.evaluate.compare import Comparison, compare
from rfprm_lite.evaluate.result import Result, in_words
from rfprm_lite.evaluate.sets import KnownSet
from rfprm_lite.evaluate.statistics import COVERED, RESAMPLES, Estimate
from rfprm_lite.evaluate.steps import keeping
from rfprm_lite.show.words import visible

TIES = (
    "Of equal rewards the first candidate is chosen, as best_of_n does; the JSON has the numbers with ties broken "
    "evenly, too."
)
INTERVALS = (
    f"In percent; ± is half of the width of the {COVERED:.0%} interval, from {RESAMPLES:,} resamples of the problems."
)
SHOWN_BAD = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table of numbers.

    Attributes:
        name: What the number is.
        cells: The number, or one for each column.
    """

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report.

    Attributes:
        columns: Their headings; the first is of the rows' names.
        rows: The rows.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one judge, and of others on the same sets.

    Attributes:
        results: The judge's, one a set.
        others: The results of other judges, by their names. All judges are compared with the last of them.
        known: The sets that have a name, by what reports call them.
    """

    results: tuple[Result, ...]
    others: Mapping[str, tuple[Result, ...]] = field(default_factory=dict)
    known: Mapping[str, KnownSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.results:
            raise InputError("a report needs a result")

    @property
    def judge(self) -> str:
        """The judge's name."""
        return self.results[0].judged.judge

    @property
    def bad_rows(self) -> int:
        """Rows that could not be evaluated, by this judge or another."""
        return max(len(one.judged.items.bad) for results in (self.results, *self.others.values()) for one in results)

    def compared(self) -> Iterator[tuple[Comparison, Result, Result]]:
        """How each judge differs from the last one, set by set, with the results of both."""
        *judges, last = (self.results, *self.others.values())
        for results in judges:
            for one, other in zip(results, last, strict=True):
                yield compare(one, other), one, other

    def comparisons(self) -> list[Comparison]:
        """How each judge differs from the last one, set by set."""
        return [comparison for comparison, _, _ in self.compared()]

    def averages(self) -> dict[str, float]:
        """The mean of the headlines of each known set's parts, where all of them were evaluated, as authors give it."""
        found: dict[str, float] = {}
        for known in dict.fromkeys(map(id, self.known.values())):
            parts = [one for one in self.results if id(self.known.get(one.judged.items.name)) == known]
            values = [one.value(*one.headline) for one in parts]
            whole = self.known[parts[0].judged.items.name]
            same = len({one.judged.items.kind for one in parts}) == 1
            if same and len(parts) > 1 and len(parts) == len(whole.parts) and None not in values:
                name = parts[0].judged.items.name.partition(":")[0]
                found[name] = sum(value for value in values if value is not None) / len(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The report in types that JSON has."""
        return {
            "judge": self.judge,
            "sets": {one.judged.items.name: one.to_dict() for one in self.results},
            "averages": self.averages(),
            "against": {
                name: {"sets": {one.judged.items.name: one.to_dict() for one in results}}
                for name, results in self.others.items()
            },
            "comparisons": [one.to_dict() | {"set": one.name} for one in self.comparisons()],
            "published": {
                name: [asdict(one) for one in known.published] for name, known in self.known.items() if known.published
            },
        }

    def markdown(self, level: int = 2) -> str:
        """The report for a model card.

        Args:
            level: Of its first heading.
        """
        lines = [f"{'#' * level} What {_text(self.judge)} is worth", "", f"{INTERVALS} {TIES}", ""]
        for one in self.results:
            lines += [f"{'#' * (level + 1)} {_text(one.judged.items.name)}", "", _text(facts(one)), ""]
            for table in tables(one):
                lines += [*_markdown(table), ""]
        for name, value in self.averages().items():
            lines += [f"Average over the parts of {_text(name)}: {value * 100:.1f}", ""]
        for table in self.published():
            lines += [*_markdown(table), ""]
        compared = self.comparisons()
        if compared:
            lines += [f"{'#' * (level + 1)} Against other judges", "", *_markdown(differences(compared)), ""]
            lines += [*(f"- {_text(one.sentence)}" for one in compared), ""]
        return "\n".join(lines)

    def published(self) -> Iterator[Table]:
        """What others published on these sets, in percent, with the place where it stands."""
        for known in {id(one): one for one in self.known.values() if one.published}.values():
            names = tuple(dict.fromkeys(name for one in known.published for name in one.numbers))
            rows = tuple(
                Row(
                    one.model,
                    (*(f"{one.numbers[name]:.1f}" if name in one.numbers else "" for name in names), one.source),
                )
                for one in known.published
            )
            yield Table((f"published {known.number}", *names, "source"), rows)


def facts(result: Result) -> str:
    """What was evaluated and what it took, in words."""
    judged, cost = result.judged, result.judged.cost
    traces = sum(len(item.candidates) for item in judged.items.items)
    said = [f"{len(judged.items.items):,} rows of {judged.units[1]:,} problems, {traces:,} traces"]
    if judged.items.bad:
        said.append(f"{len(judged.items.bad)} rows could not be evaluated")
    if cost.tokens.total:
        said.append(f"{cost.tokens.total:,} tokens, {cost.tokens.reused / cost.tokens.total:.0%} of them reused")
    if cost.scored:
        said.append(f"{cost.seconds:,.1f} s for the {cost.scored:,} traces that this run scored")
    if judged.items.kind != "pools":
        chosen = f", chosen on {result.chosen_on}" if result.chosen_on else ""
        none = "no threshold, since this judge names none (--threshold does)"
        said.append(none if result.threshold is None else f"threshold {result.threshold:.3g}{chosen}")
    source = f" {judged.items.source}." if judged.items.source else ""
    return f"{'; '.join(said)}.{source}"


def tables(result: Result) -> Iterator[Table]:
    """The tables of a result: its numbers, then best of N, a column a number of candidates."""
    rows = tuple(
        Row(_name(path), (percent(one),)) for path, one in result.numbers.items() if not path[0].startswith(BEST_OF_N)
    )
    if rows:
        yield Table(("number", "value"), (*rows, *_keeping(result)))
    sizes = list(dict.fromkeys(path[1] for path in result.numbers if path[0] == BEST_OF_N))
    if sizes:
        ways = dict.fromkeys(path[2] for path in result.numbers if path[0] == BEST_OF_N)
        cells = [Row(way, tuple(percent(result.numbers[BEST_OF_N, n, way]) for n in sizes)) for way in ways]
        yield Table(("best of", *sizes), tuple(cells))


def _keeping(result: Result) -> Iterator[Row]:
    found = keeping(result.labelled, result.keep) if len(result.labelled.rewards) else None
    if found:
        yield Row(f"threshold that keeps {result.keep:.0%} of right steps", (f"{found['threshold']:.3g}",))
        yield Row("wrong steps below that threshold", (f"{found['wrong_caught'] * 100:.1f}",))


def differences(compared: Sequence[Comparison]) -> Table:
    """A table of comparisons, a row each."""
    rows = [
        Row(
            f"{one.name}: {one.one} against {one.other}",
            (
                in_words(one.headline),
                percent(one.differences.get(one.headline, Estimate(None, None, None)), sign="+"),
                "" if one.rewards is None else f"{one.rewards.mean:.2g}",
                "" if one.rewards is None else f"{one.rewards.p99:.2g}",
                "" if one.tau is None else f"{one.tau:.3f}",
                "" if one.same_choice is None else f"{one.same_choice:.1%}",
                f"{len(one.parted)} of {one.rows}",
            ),
        )
        for one in compared
    ]
    names = ("number", "difference", "mean of rewards", "99th percentile", "tau", "same choice", "parted")
    return Table(("judges", *names), tuple(rows))


def percent(one: Estimate, sign: str = "") -> str:
    """A number in percent, and half of its interval's width."""
    if one.value is None:
        return "-"
    half = "" if one.half_width is None else f" ±{one.half_width * 100:.1f}"
    return f"{one.value * 100:{sign}.1f}{half}"


def _name(path: Sequence[str]) -> str:
    return " ".join(path).replace("_", " ")


def _markdown(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_text, cells))} |"

    ruler = f"| {' | '.join(['---', *['---:'] * (len(table.columns) - 1)])} |"
    return [line(table.columns), ruler, *(line([row.name, *row.cells]) for row in table.rows)]


def _text(text: str) -> str:
    """A text within a line of Markdown: names of judges and sets are strangers', and are no markup."""
    return re.sub(r"([\\`\[\]<>|&])", r"\\\1", " ".join(visible(text).split()))
