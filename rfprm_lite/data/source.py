"""The input of a command: files, the columns in them, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from rfprm_lite.data import files, tables
from rfprm_lite.data.known_columns import DEFAULT, KNOWN, POOLS, Columns, find
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.row import Format, Row
from rfprm_lite.data.rows import PoolRow, Read, ScoreRow, pool_row, read, score_row
from rfprm_lite.errors import InputError


@dataclass(frozen=True, slots=True)
class Source:
    """Files of rows.

    Attributes:
        names: Files, folders and patterns, or "-" for standard input.
        format: Of all files; by their names where None.
        columns: Where the parts of a row stand, as far as they were named.
        reading: How a text becomes steps.
        title: What messages call the input.
    """

    names: tuple[Path, ...]
    format: Format | None = None
    columns: Columns = field(default_factory=Columns)
    reading: Reading = field(default_factory=Reading)
    title: str = ""

    @property
    def in_words(self) -> str:
        """The input, for messages."""
        return self.title or ", ".join("standard input" if name == files.STANDARD else str(name) for name in self.names)

    @property
    def paths(self) -> list[Path]:
        """The files, in order.

        Raises:
            InputError: If there is no such file, or if it is no input.
        """
        return files.expanded(self.names, tables.is_known)

    def rows(self) -> Iterator[Row]:
        """The rows of all files; from the beginning at each call, where they are no streams."""
        return tables.read_rows(self.names, self.format)

    def score_rows(self, rows: Iterable[Row]) -> Iterator[Read[ScoreRow]]:
        """Rows as problems and responses."""
        return read(rows, lambda row: score_row(row, self.columns, self.reading))

    def pool_rows(self, rows: Iterable[Row]) -> Iterator[Read[PoolRow]]:
        """Rows as problems and their candidates."""
        return read(rows, lambda row: pool_row(row, self.columns, self.reading))

    def opened(self, *, pools: bool = False) -> tuple[Source, Iterator[Row], str]:
        """The same source with all columns known, its rows, and what was found, in words; none where all is usual.

        Args:
            pools: Whether a row has several candidates.

        Raises:
            InputError: If it has no row, or if the columns can't be told.
        """
        known = POOLS if pools else KNOWN
        rows = self.rows()
        first = next(rows, None)
        if first is None:
            raise InputError(f"there is no row in {self.in_words}")
        found, rows = find(chain([first], rows), self.columns, known)
        usual = found.columns in (DEFAULT.columns, POOLS[0].columns) or found.columns == self.columns
        name = f" as {found.name}" if found.name else ""
        words = "" if usual else f"read{name}: {found.columns.in_words()}"
        return replace(self, columns=found.columns), rows, words
