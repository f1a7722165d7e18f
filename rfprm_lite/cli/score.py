"""The command `rfprm score`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from rfprm_lite.cli.files import Source, input_options
from rfprm_lite.cli.shared import Session, console, line_number, scores
from rfprm_lite.data import columns, tables
from rfprm_lite.data.rows import ScoreRow, batches, plain_text, typed_rows
from rfprm_lite.errors import InputError
from rfprm_lite.results import Score
from rfprm_lite.show.terminal import score_view, tokens_view


@click.command()
@click.argument("input", type=click.File("rb"), default="-")
@click.option("--problem", help="Take INPUT as one plain-text response to this problem, without its last line break.")
@input_options("response")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the rows with their rewards beside them to this .jsonl, .csv or .parquet; - for JSON lines.",
)
@scores
def score(session: Session, input: BinaryIO, problem: str | None, source: Source, output: Path | None) -> None:
    """Score the responses in INPUT: rows with problem and response (text, or a list of steps).

    INPUT is JSON lines, CSV or Parquet, by the end of its name.

    Example: rfprm score traces.jsonl --model bundles/reasonflux-7b --json > scores.jsonl
    """
    if output is not None:
        if problem is not None:
            raise InputError("--output writes rows: give it rows, not one text by --problem")
        _write(session, source, input, output)
        return
    rows = (
        typed_rows(source.rows(input), ScoreRow, source.columns)
        if problem is None
        else iter([(1, ScoreRow(problem, plain_text(input)))])
    )
    for batch in batches(rows):
        for (number, row), result in zip(batch, _scored(session, batch), strict=False):
            if session.as_json:
                line = {"line": number, "problem": row.problem, **result.to_dict()}
                click.echo(msgspec.json.encode(line))
            else:
                console().print(score_view(result.record(), f"response {number}"), tokens_view(result.tokens), "")


def _write(session: Session, source: Source, input: BinaryIO, output: Path) -> None:
    """Write all rows with their rewards, at once or not at all; they are in memory until then."""
    format = tables.format_of(output)
    tables.require(format)
    if str(output) != "-":
        tables.require_place(output, Path(getattr(input, "name", "-")))
    file_rows = list(source.rows(input))
    rows = list(typed_rows(file_rows, ScoreRow, source.columns))
    for row in file_rows:
        with line_number(row.number):
            columns.require_free(row.columns)
    results: list[Score] = []
    stderr = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(rows))
        for batch in batches(iter(rows)):
            results += _scored(session, batch)
            bar.update(task, completed=len(results))
    rewarded = [{**_values(row.values), **columns.of(result)} for row, result in zip(file_rows, results, strict=True)]
    count = tables.write(output, lambda: rewarded, format)
    click.echo(f"{output}: {count} rows", err=True)


def _values(values: Mapping[str, Any] | InputError) -> Mapping[str, Any]:
    return {} if isinstance(values, InputError) else values


def _scored(session: Session, batch: Sequence[tuple[int, ScoreRow]]) -> Iterator[Score]:
    """The score of each row; a bad row raises only when those before it have been yielded."""
    try:
        pairs = [(row.problem, row.trace) for _, row in batch]
        results = session.prm.score_many(pairs, aggregate=session.aggregate)
    except InputError:
        for number, row in batch:
            with line_number(number):
                result = session.prm.score(row.problem, row.trace, aggregate=session.aggregate)
            yield result
        return
    yield from results
