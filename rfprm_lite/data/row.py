"""A row of a file, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from rfprm_lite.errors import InputError

Format = Literal["jsonl", "csv", "parquet"]
Values = Mapping[str, Any]
Item = TypeVar("Item")

ROWS_A_BATCH = 1024
"""Rows that are converted together."""
LONGEST_ROW = 2**26
"""Bytes of the longest row of text that is read: no file, however it was compressed, fills the memory."""


@dataclass(frozen=True, slots=True)
class File:
    """One of the files that are read.

    Attributes:
        index: Its number, from 0.
        name: Its name, where there are several.
    """

    index: int = 0
    name: str = ""

    @property
    def of(self) -> str:
        """Behind the place of a row, in words: ` of b.jsonl`."""
        return f" of {self.name}" if self.name else ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        number: Its line (JSON lines) or row (all others; the header of CSV is row 1) in the file, from 1.
        values: By column; or an error that says what is wrong with the row.
        content: The row as it stands in the file, where it is of JSON, or wrong; otherwise empty.
        place: Where it stands, in words; with the name of the file, where there are several.
        file: Its file.
    """

    number: int
    values: Values | InputError
    content: str = ""
    place: str = ""
    file: File = File()

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns; none where the row is wrong."""
        return [] if isinstance(self.values, InputError) else list(self.values)

    @property
    def id(self) -> int:
        """A number that no other row of the same files has, in their order."""
        return self.file.index << 40 | self.number

    @staticmethod
    def place_of(id: int) -> tuple[int, int]:
        """The number of a row and that of its file, by its id."""
        return id & (1 << 40) - 1, id >> 40


Written = tuple[Row, Mapping[str, Any]]
"""A row that is written, and the columns that are added to it, with their values."""


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
