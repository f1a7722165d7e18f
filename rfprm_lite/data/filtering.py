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

from rfprm_lite.data import columns, tables
from rfprm_lite.data.ledger import Entry, Key, Ledger, Scored
from rfprm_lite.data.rows import Columns, ScoreRow, typed_row
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.tables import Format, Row
from rfprm_lite.errors import InputError, LedgerError, RfprmError
from rfprm_lite.show.histogram import Histogram
from rfprm_lite.trace import Problem, Response

ScoreAll = Callable[[Sequence[tuple[Problem, Response]]], Iterator[Scored | RfprmError]]
"""Scores pairs in order, as far as they are asked for; an error stands in the place of its score."""

Joined = tuple[Mapping[str, Any], Entry]
"""A row's values, and what is recorded of it."""
RequireSame = Callable[[int, bytes, Key | None], None]

RECORDED_TOGETHER = 64
"""Rows that are recorded as one batch: a killed run loses no more."""
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
            yield from tables.rows_of(file, self.format)

    def schema(self) -> Any:
        """The types of its columns, pyarrow's, where it is Parquet."""
        if self.format != "parquet":
            return None
        with self._open() as file:
            return tables.schema_of(file)

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
    """kept: the rows that are kept. rewards: all rows, where they are asked for."""

    kept: Path
    rewards: Path | None = None

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
    """rows: done so far. scored: of them by this run. aside: of them that could not be."""

    rows: int = 0
    scored: int = 0
    aside: int = 0


def score_rows(source: Source, score_all: ScoreAll, ledger: Ledger, *, skip: bool) -> Iterator[Progress]:
    """Score what the ledger has not; yields after every batch that it has recorded.

    skip: set a row that can't be scored aside, with its error; otherwise that is raised, when all before it that were
    scored are recorded. Raises LedgerError where the input is not what it was when rows of it were recorded.
    """
    first = next((row.columns for row in source.rows() if row.columns), ())
    columns.require_free(first)  # of the first row: the run ends at once; of others they are set aside
    rows = scored = aside = known = 0
    for held in tables.chunks(source.rows(), ROWS_AHEAD):
        asked, keys, wrong = _read(held, source.columns)
        new = sorted(ledger.new(keys), key=lambda number: (keys[number].problem, number))
        known += len(keys) - len(new)
        rows += len(held) - len(new)
        results = score_all([(asked[number].problem, asked[number].trace) for number in new])
        for batch in tables.chunks(zip(new, results, strict=True), RECORDED_TOGETHER):
            good = [(number, keys[number], result) for number, result in batch if isinstance(result, Scored)]
            ledger.add(good)
            wrong |= {number: result for number, result in batch if isinstance(result, RfprmError)}
            rows, scored = rows + len(batch), scored + len(good)
            yield Progress(rows, scored, aside + len(wrong))
        bad = [row for row in held if row.number in wrong]
        if bad and not skip:
            raise _located(wrong[bad[0].number], bad[0].number)
        ledger.set_aside([(row.number, str(wrong[row.number]), _content(row)) for row in bad])
        aside += len(bad)
        yield Progress(rows, scored, aside)
    missing = ledger.totals().rows - known - scored
    if missing:
        raise LedgerError(
            f"{missing} recorded rows are no longer in {source.path}, or can't be read any more: it has changed. "
            "Score it anew with --restart, or write to another output"
        )


def check(source: Source, outputs: Outputs) -> None:
    """Before anything is scored: raises InputError where an output can't be written or would overwrite the input, and
    MissingExtraError where a library that it needs is missing."""
    paths = [path for path in (outputs.kept, outputs.rewards, outputs.aside) if path is not None]
    for path in paths:
        if str(path) == "-":
            raise InputError(
                "standard output can't be an output: what is recorded needs a place beside it. Name a file"
            )
        tables.require_place(path, source.path)
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"two outputs have the same name: {', '.join(map(str, paths))}")
    for table in (outputs.kept, outputs.rewards):
        if table is not None:
            tables.require(tables.format_of(table))


def write(
    source: Source, outputs: Outputs, ledger: Ledger, selection: Selection, reward_range: tuple[float, float]
) -> Summary:
    """Write what the selection keeps, each file as a whole, and sum up."""
    tables.clear_partial(path for path in (outputs.kept, outputs.rewards, outputs.aside) if path)
    _write(source, outputs.kept, ledger, selection, all_rows=False)
    if outputs.rewards is not None:
        _write(source, outputs.rewards, ledger, selection, all_rows=True)
    aside = tables.write(outputs.aside, lambda: _aside(ledger), "jsonl")
    if not aside:
        outputs.aside.unlink()
    found = [(entry.scored.reward, entry.kept) for entry in ledger.entries(selection)]
    rewards = np.array([reward for reward, _ in found])
    kept = np.array([reward for reward, is_kept in found if is_kept])
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
        histogram=Histogram.of(rewards, kept, reward_range),
    )


def _write(source: Source, path: Path, ledger: Ledger, selection: Selection, *, all_rows: bool) -> None:
    """The rows that are kept, or all that are recorded with a column that tells, with their rewards beside them."""

    def rows() -> Iterator[Mapping[str, Any]]:
        for values, entry in joined(source.rows(), ledger.entries(selection), source.columns, ledger.require_same):
            if all_rows or entry.kept:
                kept = {columns.KEPT: entry.kept} if all_rows else {}
                yield {**values, **columns.of(entry.scored), **kept}

    tables.write(path, rows, tables.format_of(path), source.schema())


def joined(
    rows: Iterable[Row], entries: Iterable[Entry], names: Columns, require_same: RequireSame
) -> Iterator[Joined]:
    """Each recorded row with its entry. Raises LedgerError where the rows are others than those that were scored."""
    rest = iter(rows)
    for entry in entries:
        row = next((row for row in rest if row.number >= entry.row), None)
        found = _read([row] if row and row.number == entry.row else [], names)[1]
        require_same(entry.row, entry.digest, found.get(entry.row))
        if row is not None and not isinstance(row.values, InputError):
            yield row.values, entry


def _aside(ledger: Ledger) -> Iterator[Mapping[str, Any]]:
    """The rows that could not be scored: line, error and content."""
    return ({"line": row, "error": error, "row": content} for row, error, content in ledger.aside())


def _read(held: Sequence[Row], names: Columns) -> tuple[dict[int, ScoreRow], dict[int, Key], dict[int, RfprmError]]:
    """By number: the rows that can be read, their keys, and what is wrong with the others."""
    asked: dict[int, ScoreRow] = {}
    keys: dict[int, Key] = {}
    wrong: dict[int, RfprmError] = {}
    for row in held:
        try:
            read = typed_row(row, ScoreRow, names)
            columns.require_free(row.columns)
            keys[row.number] = Key.of(read.problem, read.response)
            read.trace  # noqa: B018  # raises where a step is empty
            asked[row.number] = read
        except InputError as error:
            wrong[row.number] = error
    return asked, keys, wrong


def _located(error: RfprmError, number: int) -> RfprmError:
    """The error, with the line where it does not say it itself."""
    if f"line {number}" not in str(error):
        error.add_note(f"line {number}")
    return error


def _content(row: Row) -> str:
    return row.content if isinstance(row.values, InputError) else msgspec.json.encode(row.values).decode()
