"""The options of commands that take files of rows: one declaration for all of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import click

from rfprm_lite.data.files import STANDARD
from rfprm_lite.data.known_columns import Columns
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.row import Format
from rfprm_lite.data.source import Source
from rfprm_lite.errors import InputError

OnError = Literal["fail", "skip"]
_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}


def _separator(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    return text and re.sub(r"\\[nrt\\]", lambda escape: _ESCAPES[escape[0]], text)


def _column(part: str, help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(f"--{part}-column", metavar="NAME", help=help)


COLUMNS = {
    "problem": _column("problem", "Where the problem stands; a.b is b within the object a."),
    "response": _column("response", "Where the response stands, a text."),
    "thinking": _column("thinking", "Where the thinking stands, if the response has it not in it."),
    "steps": _column("steps", "Where the steps of the response stand, a list."),
    "messages": _column("messages", "Where a conversation stands that ends with the response."),
    "candidates": _column("candidates", "Where the candidates stand, a list."),
}
TOGETHER = ({"response", "thinking"}, {"steps"}, {"messages"}, {"candidates"})
"""The columns beside the problem's that may be named together."""


def input_options(
    *parts: str, on_error: OnError = "fail", required: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command INPUTS and the options of rows, and their values as `source` and `on_error`.

    Args:
        *parts: The columns that may be named.
        on_error: What is done by default with a row that can't be scored.
        required: Whether an input has to be named; otherwise standard input is read where none is.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(
            inputs: tuple[Path, ...],
            format: Format | None,
            splitter: str | None,
            thinking_markers: tuple[str, str] | None,
            **others: Any,
        ) -> None:
            columns = Columns(**{part: others.pop(f"{part}_column") for part in parts})
            _require_one_way(columns)
            try:
                reading = Reading(splitter, thinking_markers)
            except InputError as error:
                raise click.UsageError(str(error)) from error
            command(source=Source(inputs or (STANDARD,), format, columns, reading), splitter=splitter, **others)

        options: tuple[Callable[..., Any], ...] = (
            click.argument("inputs", metavar="INPUT...", type=click.Path(path_type=Path), nargs=-1, required=required),
            click.option(
                "--format", type=click.Choice(get_args(Format)), help="Of INPUT; by its name where not given."
            ),
            *(COLUMNS[part] for part in parts),
            click.option(
                "--step-separator",
                "splitter",
                callback=_separator,
                help=r"What separates steps in a text: blank-lines (default), lines, markdown, or a text such as '\n'.",
            ),
            click.option(
                "--thinking-markers", nargs=2, metavar="OPEN CLOSE", help="What stands before and behind the thinking."
            ),
            click.option(
                "--on-error",
                type=click.Choice(get_args(OnError)),
                default=on_error,
                show_default=True,
                help="What is done with a row that can't be scored.",
            ),
        )
        for option in reversed(options):
            run = option(run)
        return run

    return decorate


def _require_one_way(columns: Columns) -> None:
    named = set(columns.answer)
    if columns.messages is not None and columns.problem is not None:
        raise click.UsageError("--messages-column holds the problem, too: --problem-column does not go with it")
    if named and not any(named <= way for way in TOGETHER):
        options = " and ".join(f"--{part}-column" for part in sorted(named))
        raise click.UsageError(f"{options} do not go together: a response stands in one place")
