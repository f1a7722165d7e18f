"""The command `rfprm view`, which shows scores as a page."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from rfprm_lite.cli.shared import reported_errors
from rfprm_lite.data.tables import numbered, replaced
from rfprm_lite.errors import InputError
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import BestOfNRecord, ScoreLine

MOST_TRACES = 500
"""Traces that a page shows by default."""


class _Kind(msgspec.Struct):
    scores: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def records_of(lines: Iterable[bytes]) -> Iterator[tuple[int, ScoreLine | BestOfNRecord]]:
    """The records of lines that `rfprm score --json` or `rfprm best-of-n --json` wrote, with their numbers from 1.

    Raises:
        InputError: If a line is none of theirs.
    """
    for number, line in numbered(lines):
        try:
            if msgspec.json.decode(line, type=_Kind).scores is msgspec.UNSET:
                yield number, msgspec.json.decode(line, type=ScoreLine)
            else:
                yield number, msgspec.json.decode(line, type=BestOfNRecord)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise InputError(
                f"line {number} is none that rfprm score --json or rfprm best-of-n --json writes: {error}"
            ) from error


@click.command()
@click.argument("files", metavar="FILE...", type=click.File("rb"), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the page to this file.")
@click.option("--title", help="Of the page; the names of the files where not given.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.option("--limit", type=click.IntRange(min=1), default=MOST_TRACES, show_default=True, help="Traces to show.")
def view(files: Sequence[BinaryIO], output: Path | None, title: str | None, limit: int, as_json: bool) -> None:
    """Show scores in a browser: what rfprm score --json or best-of-n --json wrote, candidates side by side.

    The page is one file that needs no network. Without --output it is a temporary one, and opened. FILE may be -.

    Example: rfprm view scores.jsonl -o scores.html
    """
    with reported_errors():
        page = Page(limit)
        for where, row in _rows(files):
            page.add(where, row)
        if not page.problems:
            raise InputError(f"nothing to show: no line in {_names(files)}")
        text = page.to_html(title or _names(files))
        path = output or _temporary()
        with replaced(path) as file:
            file.write(text.encode())
    aside = str(path) == "-"  # the page itself is on standard output
    if as_json:
        click.echo(json.dumps({"page": str(path), "shown": page.shown, "left_out": page.left_out}), err=aside)
    else:
        left_out = f", {page.left_out} left out by --limit {limit}" if page.left_out else ""
        click.echo(f"{path}: {page.shown} traces{left_out}", err=aside)
    if output is None and not webbrowser.open(path.as_uri()):
        click.echo("no browser could be opened: open that file in one", err=True)


def _rows(files: Sequence[BinaryIO]) -> Iterator[tuple[str, ScoreLine | BestOfNRecord]]:
    """The rows of all files, each with the place where it stands, in words."""
    for file in files:
        try:
            for number, row in records_of(file):
                yield f"line {number}" if len(files) == 1 else f"{_name(file)}, line {number}", row
        except InputError as error:
            error.add_note(_name(file))
            raise


def _names(files: Sequence[BinaryIO]) -> str:
    return ", ".join(_name(file) for file in files)


def _name(file: BinaryIO) -> str:
    name: str = getattr(file, "name", "<stdin>")
    return "standard input" if name == "<stdin>" else name


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="rfprm-")) / "scores.html"
