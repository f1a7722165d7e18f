"""Offline data selection: score every row of a file, keep the best, and go on where a killed run stopped.

In: rows, a way to score them, and a ledger. Out: the rewards in the ledger; then the rows that a selection keeps, with
their rewards beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from rfprm_lite import columns, tables
from rfprm_lite.conversation import Problem
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.histogram import Histogram, require_matplotlib
from rfprm_lite.ledger import Entry, Key, Ledger, Scored
from rfprm_lite.many import WINDOW
from rfprm_lite.prm import Response
from rfprm_lite.rows import Columns, ScoreRow, read_row
from rfprm_lite.selection import Selection
from rfprm_lite.tables import Format, Row

ScoreAll = Callable[[Sequence[tuple[Problem, Response]]], Iterator[Scored | RfprmError]]
"""Scores pairs in order, as far as they are asked for; an error stands in the place of its score."""

ROWS_AHEAD = 1024
"""Rows that are read before they are scored, equal problems together, so that they share their prefix."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of traces."""

    path: Path
    format: Format
    columns: Columns

    def rows(self) -> Iterator[Row]:
        """Read anew each time."""
        with self._open() as file:
            yield from tables.read(file, self.format)

    def count(self) -> int:
        """How many rows it has."""
        with self._open() as file:
            return tables.count(file, self.format)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path} can't be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Outputs:
    """kept: the rows that are kept. rewards: all rows; histogram: a picture; both where they are asked for."""

    kept: Path
    rewards: Path | None = None
    histogram: Path | None = None

    @property
    def aside(self) -> Path:
        """The rows that could not be scored, if there are any."""
        return self.kept.with_name(f"{self.kept.name}.aside.jsonl")


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Of all rows that are recorded. aside: rows that could not be scored. lowest_kept and the means are rewards, None
    where there is no row. tokens: of the texts; computed: of them, the others were shared."""

    scored: int
    kept: int
    aside: int
    mean_reward: float | None
    mean_kept: float | None
    lowest_kept: float | None
    tokens: int
    computed: int
    histogram: Histogram

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "histogram"}
        return numbers | {"histogram": self.histogram.to_dict()}


@dataclass(frozen=True, slots=True)
class Progress:
    """rows: read so far. scored: of them by this run. aside: of them that could not be."""

    rows: int = 0
    scored: int = 0
    aside: int = 0


def score_rows(
    source: Source, score_all: ScoreAll, ledger: Ledger, *, skip: bool, ahead: int = ROWS_AHEAD
) -> Iterator[Progress]:
    """Score what the ledger has not; yields after every batch that it has recorded.

    skip: set a row that can't be scored aside, with its error; otherwise that is raised, when all before it that were
    scored are recorded.
    """
    progress = Progress()
    for held in tables.chunks(source.rows(), ahead):
        asked, wrong = _read(held, source.columns)
        keys = {number: Key.of(row.problem, row.response) for number, row in asked.items()}
        new = sorted(ledger.new(keys), key=lambda number: (kind(asked[number]), keys[number].problem, number))
        results = score_all([(asked[number].problem, asked[number].response) for number in new])
        for batch in tables.chunks(zip(new, results, strict=True), WINDOW):
            good = [(number, keys[number], result) for number, result in batch if isinstance(result, Scored)]
            ledger.add(good)
            wrong |= {number: result for number, result in batch if isinstance(result, RfprmError)}
            progress = Progress(progress.rows, progress.scored + len(good), progress.aside)
            yield progress
        _set_aside(ledger, [row for row in held if row.number in wrong], wrong, skip=skip)
        progress = Progress(progress.rows + len(held), progress.scored, progress.aside + len(wrong))
        yield progress


def kind(row: ScoreRow) -> tuple[bool, bool]:
    """Whether the problem and the response are text. Rows of a kind come together, for scorers that hold columns."""
    return isinstance(row.problem, str), isinstance(row.response, str)


def check(source: Source, outputs: Outputs) -> None:
    """Before anything is scored: raises InputError where an output can't be written or would overwrite the input, and
    MissingExtraError where a library that it needs is missing."""
    paths = [path for path in (outputs.kept, outputs.rewards, outputs.histogram) if path is not None]
    for path in paths:
        if str(path) == "-":
            raise InputError(
                "standard output can't be an output: what is recorded needs a place beside it; name a file"
            )
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
        if path.resolve() == source.path.resolve():
            raise InputError(f"{path} is the input: write to another file")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("two outputs have the same name")
    for table in (outputs.kept, outputs.rewards):
        if table is not None:
            tables.require(tables.format_of(table))
    if outputs.histogram is not None:
        require_matplotlib()
    for row in source.rows():
        if not isinstance(row.values, InputError):
            columns.require_free(row.values)
            return


def write(
    source: Source, outputs: Outputs, ledger: Ledger, selection: Selection, reward_range: tuple[float, float]
) -> Summary:
    """Write what the selection keeps, each file as a whole, and sum up."""

    def rows(*, all_rows: bool) -> Callable[[], Iterator[Mapping[str, Any]]]:
        return lambda: joined(source.rows(), ledger.entries(selection), all_rows=all_rows)

    tables.write(outputs.kept, rows(all_rows=False), tables.format_of(outputs.kept))
    if outputs.rewards is not None:
        tables.write(outputs.rewards, rows(all_rows=True), tables.format_of(outputs.rewards))
    aside = tables.write(outputs.aside, lambda: _aside(ledger), "jsonl")
    if not aside:
        outputs.aside.unlink()
    found = [(entry.scored.reward, entry.kept) for entry in ledger.entries(selection)]
    rewards = np.array([reward for reward, _ in found])
    kept = np.array([reward for reward, is_kept in found if is_kept])
    histogram = Histogram.of(rewards, kept, reward_range)
    if outputs.histogram is not None:
        histogram.save(outputs.histogram)
    totals = ledger.totals()
    return Summary(
        scored=len(rewards),
        kept=len(kept),
        aside=aside,
        mean_reward=float(rewards.mean()) if len(rewards) else None,
        mean_kept=float(kept.mean()) if len(kept) else None,
        lowest_kept=float(kept.min()) if len(kept) else None,
        tokens=totals.tokens,
        computed=totals.computed,
        histogram=histogram,
    )


def joined(rows: Iterable[Row], entries: Iterable[Entry], *, all_rows: bool) -> Iterator[Mapping[str, Any]]:
    """The rows that are kept, or all that are recorded with a column that tells, with their rewards beside them."""
    entry_of = iter(entries)
    entry = next(entry_of, None)
    for row in rows:
        if entry is None:
            return
        if row.number != entry.row:
            continue
        if not isinstance(row.values, InputError) and (all_rows or entry.kept):
            kept = {columns.KEPT: entry.kept} if all_rows else {}
            yield {**row.values, **columns.of(entry.scored), **kept}
        entry = next(entry_of, None)


def _aside(ledger: Ledger) -> Iterator[Mapping[str, Any]]:
    """The rows that could not be scored: line, error and content."""
    return ({"line": row, "error": error, "row": content} for row, error, content in ledger.aside())


def _read(held: Sequence[Row], names: Columns) -> tuple[dict[int, ScoreRow], dict[int, RfprmError]]:
    """The rows that can be read, and what is wrong with the others, by number."""
    asked: dict[int, ScoreRow] = {}
    wrong: dict[int, RfprmError] = {}
    for row in held:
        try:
            asked[row.number] = read_row(row, ScoreRow, names)
        except InputError as error:
            wrong[row.number] = error
    return asked, wrong


def _set_aside(ledger: Ledger, rows: Sequence[Row], wrong: Mapping[int, RfprmError], *, skip: bool) -> None:
    for row in rows:
        error = wrong[row.number]
        if not skip:
            if f"line {row.number}" not in str(error):
                error.add_note(f"line {row.number}")
            raise error
        content = row.content if isinstance(row.values, InputError) else msgspec.json.encode(row.values).decode()
        ledger.set_aside(row.number, str(error), content)
