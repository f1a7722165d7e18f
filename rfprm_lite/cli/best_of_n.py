"""The command `rfprm best-of-n`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import click
import msgspec

from rfprm_lite.cli.files import Source, input_options
from rfprm_lite.cli.shared import Session, console, line_number, scores
from rfprm_lite.data.rows import BestOfNRow, plain_text, typed_rows
from rfprm_lite.errors import InputError
from rfprm_lite.show.terminal import best_of_n_view


@click.command("best-of-n")
@click.argument("inputs", type=click.File("rb"), nargs=-1)
@click.option("--problem", help="Take each of INPUTS as one plain-text candidate, without its last line break.")
@input_options("candidates")
@click.option("--exhaustive", is_flag=True, help="Read all candidates to their ends, also those that can't win.")
@scores
def best_of_n(
    session: Session, inputs: Sequence[BinaryIO], problem: str | None, source: Source, exhaustive: bool
) -> None:
    """Choose the best candidate for each problem in INPUTS: rows with problem and candidates.

    INPUTS are one file of JSON lines or Parquet; with --problem, one text file a candidate.

    Example: rfprm best-of-n --problem "What is 6 * 7?" answer1.txt answer2.txt
    """
    for number, row in _rows(inputs or (sys.stdin.buffer,), problem, source):
        with line_number(number if problem is None else None):
            result = session.prm.best_of_n(
                row.problem, row.responses, aggregate=session.aggregate, exhaustive=exhaustive
            )
        if session.as_json:
            click.echo(msgspec.json.encode({"line": number, "problem": row.problem, **result.to_dict()}))
        else:
            console().print(
                f"[bold]line {number}[/bold]" if problem is None else "", best_of_n_view(result.record()), ""
            )


def _rows(inputs: Sequence[BinaryIO], problem: str | None, source: Source) -> Iterator[tuple[int, BestOfNRow]]:
    if problem is not None:
        yield 1, BestOfNRow(problem, [plain_text(file) for file in inputs])
        return
    if len(inputs) > 1:
        raise InputError(f"{len(inputs)} files: without --problem, one file of rows is read")
    yield from typed_rows(source.rows(inputs[0]), BestOfNRow, source.columns)
