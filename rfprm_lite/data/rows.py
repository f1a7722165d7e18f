"""Rows of input in the types that are scored, validated; errors name the line.

In: rows of a file. Out: problems with their responses or candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

import msgspec

from rfprm_lite.data.tables import Row
from rfprm_lite.errors import InputError
from rfprm_lite.trace import Response, response_of_row


class ScoreRow(msgspec.Struct, frozen=True):
    """A problem and a response.

    Attributes:
        problem: Text, or a conversation.
        response: Text, or a list of steps.
    """

    problem: str | list[dict[str, Any]]
    response: str | list[str]

    @property
    def trace(self) -> Response:
        """The response as text, or its steps as a trace.

        Raises:
            InputError: If a step is empty.
        """
        return response_of_row(self.response)


class BestOfNRow(msgspec.Struct, frozen=True):
    """A problem and its candidates.

    Attributes:
        problem: Text, or a conversation.
        candidates: Each a text or a list of steps. In CSV they are a list in JSON.
    """

    problem: str | list[dict[str, Any]]
    candidates: list[str | list[str]]

    @property
    def responses(self) -> list[Response]:
        """The candidates, each as text, or its steps as a trace.

        Raises:
            InputError: If a step is empty.
        """
        return [response_of_row(candidate) for candidate in self.candidates]


TypedRow = TypeVar("TypedRow", ScoreRow, BestOfNRow)
Columns = Mapping[str, str]
"""The column of a file for each field above."""

ROWS_A_BATCH = 64
"""Rows that are scored together, and shown before the next ones are."""


def typed_row(row: Row, kind: type[TypedRow], columns: Columns) -> TypedRow:
    """A row of a file in the types of a ScoreRow or a BestOfNRow.

    Args:
        row: The row.
        kind: ScoreRow or BestOfNRow.
        columns: The column for each field.

    Raises:
        InputError: If it has no such column, or something of another type; the message names the line.
    """
    if isinstance(row.values, InputError):
        raise row.values
    missing = [repr(name) for name in columns.values() if name not in row.values]
    if missing:
        names = ", ".join(row.values) or "nothing"
        raise InputError(f"line {row.number} has no {' and no '.join(missing)}: it has {names}")
    values = {field: row.values[name] for field, name in columns.items()}
    try:
        if isinstance(values.get("candidates"), str):
            values["candidates"] = msgspec.json.decode(values["candidates"])
        return msgspec.convert(values, kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InputError(f"line {row.number}: {error}") from error


def typed_rows(rows: Iterable[Row], kind: type[TypedRow], columns: Columns) -> Iterator[tuple[int, TypedRow]]:
    """The number and the types of each row, as `typed_row`; the first wrong one raises InputError."""
    return ((row.number, typed_row(row, kind, columns)) for row in rows)


def plain_text(file: BinaryIO) -> str:
    """The text of a file in UTF-8, without a byte order mark and the line break that ends it.

    Raises:
        InputError: If it is no UTF-8.
    """
    try:
        return file.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"the plain-text input is no UTF-8 text: {error}") from error


def batches(rows: Iterator[tuple[int, TypedRow]]) -> Iterator[list[tuple[int, TypedRow]]]:
    """The rows in batches of ROWS_A_BATCH; those before a malformed line are yielded before its error is raised."""
    batch: list[tuple[int, TypedRow]] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == ROWS_A_BATCH:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
