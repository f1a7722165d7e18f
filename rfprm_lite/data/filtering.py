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
"""Scores pairs in order, as far as it is iterated; an error stands in the place of its score."""

Joined = tuple[Mapping[str, Any], Entry]
"""A row's values, and what is recorded of it."""
RequireSame = Callable[[int, bytes, Key | None], None]
"""Checks a recorded row, its digest and the key that it has now; `Ledger.require_same`."""

RECORDED_TOGETHER = 64
"""Rows that are recorded as one batch: a killed run loses no more."""
ROWS_AHEAD = 1024
"""Rows that are taken before they are scored, equal problems together, so that they share their prefix."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of traces.

    Attributes:
        path: The file.
        format: Its format.
        columns: The columns of problem and response.
    """

    path: Path
    format: Format
    columns: Columns

    def rows(self) -> Iterator[Row]:
        """Its rows, from the beginning at each call."""
        with self._open() as file:
            yield from tables.rows_of(file, self.format)

    def schema(self) -> Any:
        """The types of its columns, pyarrow's, where it is Parquet; otherwise None."""
        if self.format != "parquet":
            return None
        with self._open() as file:
            return tables.schema_of(file)

    def count(self) -> int:
        """The number of its rows."""
        with self._open() as file:
            return tables.count(file, self.format)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path} can't be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a run writes.

    Attributes:
        kept: For the rows that are kept.
        rewards: For all rows with their rewards; None if nobody wants them.
    """

    kept: Path
    rewards: Path | None = None

    @property
    def aside(self) -> Path:
        """The file for rows that could not be scored, which is written if there are any."""
        return self.kept.with_name(f"{self.kept.name}.aside.jsonl")


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The numbers of a finished run, over all rows that are recorded.

    Attributes:
        scored: Rows with rewards.
        kept: Rows that the selection keeps.
        aside: Rows that could not be scored.
        mean_reward: The mean reward of all rows; None without rows.
        mean_kept: The mean reward of the kept rows; None without any.
        lowest_kept: The lowest reward of a kept row; None without any.
        tokens: Tokens of all texts.
        computed: Those of them that went through the model; the others were shared.
        histogram: The distribution of rewards.
    """

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
        """The summary in types that JSON has."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "histogram"}
        return numbers | {"histogram": self.histogram.to_dict()}


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a run.

    Attributes:
        rows: Rows that are done, by this run or an earlier one.
        scored: Rows that this run has scored.
        aside: Rows that could not be scored.
    """

    rows: int = 0
    scored: int = 0
    aside: int = 0


def score_rows(source: Source, score_all: ScoreAll, ledger: Ledger, *, skip: bool) -> Iterator[Progress]:
    """Score the rows that the ledger does not have; yields after every batch that it has recorded.

    Args:
        source: The input.
        score_all: Scores pairs.
        ledger: Where rewards are recorded.
        skip: Whether a row that can't be scored is set aside, with its error. Otherwise the error is raised, when all
            rows before it that were scored are recorded.

    Raises:
        InputError: If a column has the name of one that is added, or if a row can't be scored and `skip` is False.
        LedgerError: If the input is not what it was when rows of it were recorded.
    """
    first = next((row.columns for row in source.rows() if row.columns), ())
    columns.require_free(first)  # of the first row: the run ends at once; of others they are set aside
    rows = scored = aside = known = 0
    for chunk in tables.chunks(source.rows(), ROWS_AHEAD):
        typed, keys, wrong = _partition(chunk, source.columns)
        new = sorted(ledger.new(keys), key=lambda number: (keys[number].problem, number))
        known += len(keys) - len(new)
        rows += len(chunk) - len(new)
        results = score_all([(typed[number].problem, typed[number].trace) for number in new])
        for batch in tables.chunks(zip(new, results, strict=True), RECORDED_TOGETHER):
            good = [(number, keys[number], result) for number, result in batch if isinstance(result, Scored)]
            ledger.add(good)
            wrong |= {number: result for number, result in batch if isinstance(result, RfprmError)}
            rows, scored = rows + len(batch), scored + len(good)
            yield Progress(rows, scored, aside + len(wrong))
        bad = [row for row in chunk if row.number in wrong]
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
    """Check the outputs before anything is scored.

    Raises:
        InputError: If one can't be written, or would overwrite the input or another.
        MissingExtraError: If a library that one needs is not installed.
    """
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
    """Write the rows that the selection keeps, each file as a whole, and sum up.

    Args:
        source: The input.
        outputs: The files.
        ledger: The rewards of the input's rows.
        selection: Which rows are kept.
        reward_range: Lowest and highest reward that there can be, for the histogram; infinite where nothing bounds it.

    Raises:
        LedgerError: If the input is not what it was when rows of it were recorded.
        InputError: If a file can't be written.
    """
    tables.clear_partial(path for path in (outputs.kept, outputs.rewards, outputs.aside) if path)
    _write(source, outputs.kept, ledger, selection, all_rows=False)
    if outputs.rewards is not None:
        _write(source, outputs.rewards, ledger, selection, all_rows=True)
    aside = tables.write(outputs.aside, lambda: _aside(ledger), "jsonl")
    if not aside:
        outputs.aside.unlink()
    entries = [(entry.scored.reward, entry.kept) for entry in ledger.entries(selection)]
    rewards = np.array([reward for reward, _ in entries])
    kept = np.array([reward for reward, is_kept in entries if is_kept])
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
    """Write the kept rows with their rewards beside them, or all recorded ones with a column that tells which are."""

    def rows() -> Iterator[Mapping[str, Any]]:
        for values, entry in joined(source.rows(), ledger.entries(selection), source.columns, ledger.require_same):
            if all_rows or entry.kept:
                kept = {columns.KEPT: entry.kept} if all_rows else {}
                yield {**values, **columns.of(entry.scored), **kept}

    tables.write(path, rows, tables.format_of(path), source.schema())


def joined(
    rows: Iterable[Row], entries: Iterable[Entry], names: Columns, require_same: RequireSame
) -> Iterator[Joined]:
    """Each recorded row with its entry.

    Args:
        rows: The rows of the input, in order.
        entries: What is recorded, in order.
        names: The columns of problem and response.
        require_same: Raises LedgerError where a row is another than the one that was scored.
    """
    rest = iter(rows)
    for entry in entries:
        row = next((row for row in rest if row.number >= entry.row), None)
        keys = _partition([row] if row and row.number == entry.row else [], names)[1]
        require_same(entry.row, entry.digest, keys.get(entry.row))
        if row is not None and not isinstance(row.values, InputError):
            yield row.values, entry


def _aside(ledger: Ledger) -> Iterator[Mapping[str, Any]]:
    """The rows that could not be scored, each with its line, error and content."""
    return ({"line": row, "error": error, "row": content} for row, error, content in ledger.aside())


def _partition(
    rows: Sequence[Row], names: Columns
) -> tuple[dict[int, ScoreRow], dict[int, Key], dict[int, RfprmError]]:
    """The rows that are of the right types, their keys, and the errors of the others, each by the row's number."""
    typed: dict[int, ScoreRow] = {}
    keys: dict[int, Key] = {}
    wrong: dict[int, RfprmError] = {}
    for row in rows:
        try:
            score_row = typed_row(row, ScoreRow, names)
            columns.require_free(row.columns)
            keys[row.number] = Key.of(score_row.problem, score_row.response)
            score_row.trace  # noqa: B018  # raises where a step is empty
            typed[row.number] = score_row
        except InputError as error:
            wrong[row.number] = error
    return typed, keys, wrong


def _located(error: RfprmError, number: int) -> RfprmError:
    """The error, with the line where it does not say it itself."""
    if f"line {number}" not in str(error):
        error.add_note(f"line {number}")
    return error


def _content(row: Row) -> str:
    return row.content if isinstance(row.values, InputError) else msgspec.json.encode(row.values).decode()
