"""Files that a command reads: their format and their columns by option."""

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
    """What the options say of the input. columns: by the field that they fill."""

    format: Format | None
    columns: dict[str, str]

    def rows(self, file: BinaryIO) -> Iterator[Row]:
        """Raises InputError where the format can't be told."""
        name = "-" if file is sys.stdin.buffer else getattr(file, "name", "-")
        return tables.rows_of(file, self.format or tables.format_of(name))


def input_options(other: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options above, for problems with a column of responses or of candidates, as `source`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*given: object, format: Format | None, problem_column: str, **own: object) -> None:
            columns = {"problem": problem_column, other: str(own.pop(f"{other}_column"))}
            command(*given, source=Source(format, columns), **own)

        return FORMAT(PROBLEM((RESPONSE if other == "response" else CANDIDATES)(run)))

    return decorate
