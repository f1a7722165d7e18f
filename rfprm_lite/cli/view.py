"""The command `rfprm view`, which shows scores as a page."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from rfprm_lite.cli.shared import reported_errors
from rfprm_lite.data.files import STANDARD, reading, replaced, require_place
from rfprm_lite.data.json_rows import numbered
from rfprm_lite.errors import InputError
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import BestOfNRecord, ScoreLine

MOST_TRACES = 500
"""Traces that a page shows by default."""


class _Kind(msgspec.Struct):
    scores: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def records_of(file: BinaryIO) -> Iterator[tuple[int, ScoreLine | BestOfNRecord]]:
    """The records of a file that `rfprm score --json` or `rfprm best-of-n --json` wrote, with their lines from 1.

    Raises:
        InputError: If a line is none of theirs.
    """
    for number, line in numbered(file):
        try:
            if msgspec.json.decode(line, type=_Kind).scores is msgspec.UNSET:
                yield number, msgspec.json.decode(line, type=ScoreLine)
            else:
                yield number, msgspec.json.decode(line, type=BestOfNRecord)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InputError(
                f"line {number} is none that rfprm score --json or rfprm best-of-n --json writes: {error}"
            ) from error


@click.command()
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the page to this file.")
@click.option("--title", help="Of the page; the names of the files where not given.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.option("--limit", type=click.IntRange(min=1), default=MOST_TRACES, show_default=True, help="Traces to show.")
def view(files: Sequence[Path], output: Path | None, title: str | None, limit: int, as_json: bool) -> None:
    """Show scores in a browser: what rfprm score --json or best-of-n --json wrote, candidates side by side.

    The page is one file that needs no network. Without --output it is a temporary one, and opened. FILE may be -.

    Example: rfprm view scores.jsonl -o scores.html
    """
    with reported_errors():
        if output is not None and output != STANDARD:
            require_place(output, files)
        page = Page(limit)
        for where, row in _rows(files):
            page.add(where, row)
        if not page.problems:
            raise InputError(f"nothing to show: no line in {_names(files)}")
        text = page.to_html(title or _names(files))
        path = output or _temporary()
        with replaced(path) as file:
            file.write(text.encode())
    aside = path == STANDARD  # the page itself is on standard output
    if as_json:
        click.echo(json.dumps({"page": str(path), "shown": page.shown, "left_out": page.left_out}), err=aside)
    else:
        left_out = f", {page.left_out} left out by --limit {limit}" if page.left_out else ""
        click.echo(f"{path}: {page.shown} traces{left_out}", err=aside)
    if output is None and not webbrowser.open(path.as_uri()):
        click.echo("no browser could be opened: open that file in one", err=True)


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, ScoreLine | BestOfNRecord]]:
    """The rows of all files, each with the place where it stands, in words."""
    for path in files:
        try:
            with reading(path) as file:
                for number, row in records_of(file):
                    yield f"line {number}" if len(files) == 1 else f"{_name(path)}, line {number}", row
        except InputError as error:
            error.add_note(_name(path))
            raise


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(_name, files))


def _name(path: Path) -> str:
    return "standard input" if path == STANDARD else str(path)


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="rfprm-")) / "scores.html"
