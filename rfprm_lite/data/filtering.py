"""Offline data selection: score every row of a file, keep the best, and go on where a killed run stopped.

In: rows, a way to score them, and a ledger. Out: the rewards in the ledger; then the rows that a selection keeps, with
their rewards beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_lite.data import columns, files, tables, writing
from rfprm_lite.data.ledger import Entry, Key, Ledger, Scored
from rfprm_lite.data.row import Row, Written, chunks
from rfprm_lite.data.rows import Read, ScoreRow
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.source import Source
from rfprm_lite.errors import InputError, LedgerError, RfprmError
from rfprm_lite.show.histogram import Histogram
from rfprm_lite.trace import Problem, Response

ScoreAll = Callable[[Sequence[tuple[Problem, Response]]], Iterator[Scored | RfprmError]]
"""Scores pairs in order, as far as it is iterated; an error stands in the place of its score."""
IsLong = Callable[[ScoreRow], bool]
"""Whether the one step of a trace is so long that it is likely to be several."""
RequireSame = Callable[[int, bytes, Key | None], None]
"""Checks a recorded row, its digest and the key that it has now; `Ledger.require_same`."""

RECORDED_TOGETHER = 64
"""Rows that are recorded as one batch: a killed run loses no more."""
ROWS_AHEAD = 1024
"""Rows that are taken before they are scored, equal problems together, so that they share their prefix."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a run writes.

    Attributes:
        kept: For the rows that are kept.
        rewards: For all rows with their rewards; None if nobody wants them.
        shapes: What `prepare` found of them.
        rows: The rows of the input, as `prepare` counted them.
    """

    kept: Path
    rewards: Path | None = None
    shapes: Mapping[Path, Any] = field(default_factory=dict)
    rows: int = 0

    @property
    def tables(self) -> list[Path]:
        """The files of rows."""
        return [path for path in (self.kept, self.rewards) if path is not None]

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
        long_steps: Traces that are one step, and a long one.
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
    long_steps: int
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
        source: The input, with its columns.
        score_all: Scores pairs.
        ledger: Where rewards are recorded.
        skip: Whether a row that can't be scored is set aside, with its error. Otherwise the error is raised, when all
            rows before it that were scored are recorded.

    Raises:
        InputError: If a column has the name of one that is added, or if a row can't be scored and `skip` is False.
        LedgerError: If the input is not what it was when rows of it were recorded.
    """
    rows = scored = aside = known = 0
    for chunk in chunks(source.score_rows(source.rows()), ROWS_AHEAD):
        typed, keys, wrong = _partition(chunk)
        new = sorted(ledger.new(keys), key=lambda number: (keys[number].problem, number))
        known += len(keys) - len(new)
        rows += len(chunk) - len(new)
        results = score_all([(typed[number].problem, typed[number].response) for number in new])
        for batch in chunks(zip(new, results, strict=True), RECORDED_TOGETHER):
            good = [(number, keys[number], result) for number, result in batch if isinstance(result, Scored)]
            ledger.add(good)
            wrong |= {number: result for number, result in batch if isinstance(result, RfprmError)}
            rows, scored = rows + len(batch), scored + len(good)
            yield Progress(rows, scored, aside + len(wrong))
        bad = [one.row for one in chunk if one.row.id in wrong]
        if bad and not skip:
            raise located(wrong[bad[0].id], bad[0])
        ledger.set_aside([(row.id, str(wrong[row.id]), writing.text_of(row)) for row in bad])
        aside += len(bad)
        yield Progress(rows, scored, aside)
    missing = ledger.totals().rows - known - scored
    if missing:
        raise LedgerError(
            f"{missing} recorded rows are no longer in {source.in_words}, or can't be read any more: it has changed. "
            "Score it anew with --restart, or write to another output"
        )


def check(source: Source, outputs: Outputs) -> None:
    """Check the places of the outputs before anything is read.

    Raises:
        InputError: If one can't be written, or would overwrite the input or another, or come among it.
    """
    paths = [*outputs.tables, outputs.aside]
    for path in paths:
        if path == files.STANDARD:
            raise InputError(
                "standard output can't be an output: what is recorded needs a place beside it. Name a file"
            )
        files.require_place(path, [*source.names, *source.paths])
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"two outputs have the same name: {', '.join(map(str, paths))}")
    for path in outputs.tables:
        tables.format_of(path)


def prepare(source: Source, outputs: Outputs) -> Outputs:
    """The outputs with their shapes, checked before anything is scored: the input is read to its end.

    Raises:
        InputError: If the input breaks off, if a file can't hold the rows, or if a column of the first one has the name
            of one that is added.
        MissingExtraError: If a library that one needs is not installed.
    """
    count = 0
    for row in source.rows():
        if not count:
            columns.require_free(row.columns)  # of the first row: the run ends at once; of others they are set aside
        count += 1

    def rows(path: Path) -> Iterator[Written]:
        added = {**columns.EXAMPLE, **({} if path == outputs.kept else {columns.KEPT: True})}
        for chunk in chunks(source.score_rows(source.rows()), ROWS_AHEAD):
            typed = _partition(chunk)[0]
            yield from ((one.row, added) for one in chunk if one.row.id in typed)

    shapes = {path: writing.prepare(path, partial(rows, path)) for path in outputs.tables}
    return replace(outputs, shapes=shapes, rows=count)


def write(
    source: Source,
    outputs: Outputs,
    ledger: Ledger,
    selection: Selection,
    reward_range: tuple[float, float],
    is_long: IsLong,
) -> Summary:
    """Write the rows that the selection keeps, each file as a whole, and sum up.

    Args:
        source: The input, with its columns.
        outputs: The files, prepared.
        ledger: The rewards of the input's rows.
        selection: Which rows are kept.
        reward_range: Lowest and highest reward that there can be, for the histogram; infinite where nothing bounds it.
        is_long: Tells of a trace with one step whether that is a long one.

    Raises:
        LedgerError: If the input is not what it was when rows of it were recorded.
        InputError: If a file can't be written.
    """
    files.clear_partial([*outputs.tables, outputs.aside])
    long_steps = 0

    def kept_rows() -> Iterator[Written]:
        nonlocal long_steps
        for row, typed, entry in joined(source, ledger, selection):
            long_steps += len(entry.scored.step_rewards) == 1 and is_long(typed)
            if entry.kept:
                yield row, columns.of(entry.scored)

    def all_rows() -> Iterator[Written]:
        for row, _, entry in joined(source, ledger, selection):
            yield row, {**columns.of(entry.scored), columns.KEPT: entry.kept}

    writing.write(outputs.kept, kept_rows, outputs.shapes.get(outputs.kept))
    if outputs.rewards is not None:
        writing.write(outputs.rewards, all_rows, outputs.shapes.get(outputs.rewards))
    aside = 0
    if any(ledger.aside()):
        aside = writing.write(outputs.aside, lambda: _aside(source, ledger))
    else:
        outputs.aside.unlink(missing_ok=True)  # of an earlier run
    entries = [(entry.scored.reward, entry.kept) for entry in ledger.entries(selection)]
    rewards = np.array([reward for reward, _ in entries])
    kept = np.array([reward for reward, is_kept in entries if is_kept])
    totals = ledger.totals()
    return Summary(
        scored=len(rewards),
        kept=len(kept),
        aside=aside,
        long_steps=long_steps,
        mean_reward=float(rewards.mean()) if len(rewards) else None,
        mean_kept=float(kept.mean()) if len(kept) else None,
        lowest_kept=float(kept.min()) if len(kept) else None,
        tokens=totals.tokens,
        computed=totals.computed,
        histogram=Histogram.of(rewards, kept, reward_range),
    )


def joined(source: Source, ledger: Ledger, selection: Selection) -> Iterator[tuple[Row, ScoreRow, Entry]]:
    """Each recorded row of the input, what was read of it, and what is recorded.

    Raises:
        LedgerError: If a row is another than the one that was scored.
    """
    rest = iter(source.rows())
    for entry in ledger.entries(selection):
        row = next((row for row in rest if row.id >= entry.row), None)
        found = [row] if row is not None and row.id == entry.row else []
        typed, keys, _ = _partition(source.score_rows(found))
        ledger.require_same(entry.row, entry.digest, keys.get(entry.row))
        if row is not None:
            yield row, typed[entry.row], entry


def _aside(source: Source, ledger: Ledger) -> Iterator[Written]:
    """The rows that could not be scored, each with its line, error and content."""
    paths = source.paths
    for id, error, content in ledger.aside():
        number, file = Row.place_of(id)
        where = {"file": str(paths[file])} if len(paths) > 1 else {}
        yield Row(number, {**where, "line": number, "error": error, "row": content}), {}


def _partition(rows: Iterable[Read[ScoreRow]]) -> tuple[dict[int, ScoreRow], dict[int, Key], dict[int, RfprmError]]:
    """The rows that are of the right types, their keys, and the errors of the others, each by the row's id."""
    typed: dict[int, ScoreRow] = {}
    keys: dict[int, Key] = {}
    wrong: dict[int, RfprmError] = {}
    for one in rows:
        try:
            if isinstance(one.typed, InputError):
                raise one.typed
            columns.require_free(one.row.columns)
            keys[one.row.id] = Key.of(one.typed.problem, one.typed.source)
            typed[one.row.id] = one.typed
        except InputError as error:
            wrong[one.row.id] = error
    return typed, keys, wrong


def located(error: RfprmError, row: Row) -> RfprmError:
    """The error, with the place of the row where it does not say it itself."""
    if row.place not in str(error):
        error.add_note(row.place)
    return error
