"""The command `rfprm score`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from rfprm_lite.cli.files import OnError, input_options
from rfprm_lite.cli.shared import DONE_BUT, LongSteps, Session, console, located, message_of, place_of, say, scores
from rfprm_lite.data import columns, files, tables, writing
from rfprm_lite.data.row import Row, Written
from rfprm_lite.data.rows import Read, ScoreRow, batches, plain_text
from rfprm_lite.data.source import Source
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.results import Score
from rfprm_lite.show.record import ScoreRecord
from rfprm_lite.show.terminal import score_view, tokens_view


@click.command()
@input_options("problem", "response", "thinking", "steps", "messages")
@click.option("--problem", help="Take INPUT as one plain-text response to this problem, without its last line break.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the rows with their rewards beside them to this .jsonl, .csv or .parquet; - for JSON lines.",
)
@scores
def score(session: Session, source: Source, on_error: OnError, problem: str | None, output: Path | None) -> None:
    """Score the responses in INPUT: rows with a problem and a response.

    INPUT is JSON, CSV or Parquet by the end of its name, compressed or not; a folder or pattern of them; or -. The
    columns of well-known data sets are found; the options name others.

    Example: rfprm score traces.jsonl --model bundles/reasonflux-7b --json > scores.jsonl
    """
    if problem is not None:
        if output is not None:
            raise InputError("--output writes rows: give it rows, not one text by --problem")
        if len(source.names) > 1:
            raise InputError(f"{len(source.names)} files: with --problem, one text is read")
        text = source.reading.text(plain_text(source.names[0]))
        _show(
            session,
            Row(1, {}, place="response 1"),
            problem,
            session.prm.score(problem, text, aggregate=session.aggregate),
        )
        return
    if output is not None:
        _check(source, output)
    source, rows, found = source.opened()
    say(found)
    reads = source.score_rows(rows)
    if output is not None:
        _write(session, list(reads), output, skip=on_error == "skip")
        return
    long_steps, failed = LongSteps(session), 0
    for batch in batches(reads):
        for one, result in _scored(session, batch, skip=on_error == "skip"):
            failed += isinstance(result, RfprmError)
            long_steps.add(one, result)
            _show(session, one.row, None if isinstance(one.typed, InputError) else one.typed.problem, result)
    _end(long_steps, failed)


def _show(session: Session, row: Row, problem: Any, result: Score | RfprmError) -> None:
    error = message_of(result, row) if isinstance(result, RfprmError) else None
    if session.as_json:
        outcome = {"error": error} if isinstance(result, RfprmError) else result.to_dict()
        click.echo(msgspec.json.encode({**place_of(row), "problem": problem, **outcome}))
    elif isinstance(result, RfprmError):
        console().print(score_view(ScoreRecord(error=error), row.place), "")
    else:
        console().print(score_view(result.record(), row.place), tokens_view(result.tokens), "")


def _check(source: Source, output: Path) -> None:
    tables.format_of(output)
    if output != files.STANDARD:
        files.require_place(output, [*source.names, *source.paths])


def _write(session: Session, reads: Sequence[Read[ScoreRow]], output: Path, *, skip: bool) -> None:
    """Write all rows with their rewards, at once or not at all; they are in memory until then."""
    for one in reads:
        try:
            columns.require_free(one.row.columns)
        except InputError as error:
            raise located(error, one.row) from None
        if isinstance(one.typed, InputError) and not skip:
            raise one.typed
    error_column = {columns.ERROR: None} if skip else {}
    example = columns.EXAMPLE | error_column
    shape = writing.prepare(output, lambda: ((one.row, example) for one in reads))
    long_steps, failed = LongSteps(session), 0
    written: list[Written] = []
    stderr = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(reads))
        for batch in batches(reads):
            for one, result in _scored(session, batch, skip=skip):
                long_steps.add(one, result)
                if isinstance(result, RfprmError):
                    failed += 1
                    added: Mapping[str, object] = dict.fromkeys(example) | {columns.ERROR: message_of(result, one.row)}
                else:
                    added = columns.of(result) | error_column
                written.append((one.row, added))
            bar.update(task, completed=len(written))
    count = writing.write(output, lambda: written, shape)
    say(f"{output}: {count} rows")
    _end(long_steps, failed)


def _scored(
    session: Session, batch: Sequence[Read[ScoreRow]], *, skip: bool
) -> Iterator[tuple[Read[ScoreRow], Score | RfprmError]]:
    """The score of each row; without `skip`, a bad row raises when those before it have been yielded."""
    pairs = [(one.typed.problem, one.typed.response) for one in batch if isinstance(one.typed, ScoreRow)]
    results = iter(session.prm.score_many(pairs, aggregate=session.aggregate, on_error="return"))
    for one in batch:
        result = next(results) if isinstance(one.typed, ScoreRow) else one.typed
        if isinstance(result, RfprmError) and not skip:
            raise located(result, one.row)
        yield one, result


def _end(long_steps: LongSteps, failed: int) -> None:
    say(long_steps.in_words)
    if failed:
        say(f"{failed} rows could not be scored")
        sys.exit(DONE_BUT)
