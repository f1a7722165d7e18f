"""The options of commands that take files of rows: the format and the columns."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, get_args

import click

from rfprm_lite.data import tables
from rfprm_lite.data.tables import Format, Row

FORMAT = click.option(
    "--format", type=click.Choice(get_args(Format)), help="Of the input; by its name where not given."
)
PROBLEM = click.option("--problem-column", default="problem", show_default=True, help="Where the problem stands.")
RESPONSE = click.option("--response-column", default="response", show_default=True, help="Where the response stands.")
CANDIDATES = click.option(
    "--candidates-column", default="candidates", show_default=True, help="Where the candidates stand."
)


@dataclass(frozen=True, slots=True)
class Source:
    """The input's format and columns, as the options say.

    Attributes:
        format: None to tell it from the file's name.
        columns: The column for each field of a row.
    """

    format: Format | None
    columns: dict[str, str]

    def rows(self, file: BinaryIO) -> Iterator[Row]:
        """The rows of a file.

        Raises:
            InputError: If the format can't be told.
        """
        name = "-" if file is sys.stdin.buffer else getattr(file, "name", "-")
        return tables.rows_of(file, self.format or tables.format_of(name))


def input_options(other: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command the options above, and their values as its argument `source`.

    Args:
        other: The column beside the problem: "response" or "candidates".
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: object, format: Format | None, problem_column: str, **kwargs: object) -> None:
            columns = {"problem": problem_column, other: str(kwargs.pop(f"{other}_column"))}
            command(*args, source=Source(format, columns), **kwargs)

        return FORMAT(PROBLEM((RESPONSE if other == "response" else CANDIDATES)(run)))

    return decorate
