"""Rows of a set's file, in any format that `rfprm_lite.data` reads; `.gz` and an array in JSON, too."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rfprm_lite.data import tables
from rfprm_lite.data.tables import Format, Row
from rfprm_lite.errors import InputError


def rows_of(path: Path, format: Format | None = None) -> Iterator[Row]:
    """The rows of a file in order; a wrong one carries its error.

    Args:
        path: The file.
        format: Its format; told from its name where None.

    Raises:
        InputError: If it can't be read, or is of another format.
    """
    zipped = path.suffix == ".gz"
    format = format or tables.format_of(path.with_suffix("") if zipped else path)
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            if format == "jsonl" and file.read(64).lstrip()[:1] == b"[":
                file.seek(0)
                yield from _array(path, file.read())
                return
            file.seek(0)
            yield from tables.rows_of(io.BytesIO(file.read()), format)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error


def _array(path: Path, data: bytes) -> Iterator[Row]:
    try:
        rows = msgspec.json.decode(data, type=list[Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path} begins like an array in JSON and is none: {error}") from error
    for number, values in enumerate(rows, start=1):
        wrong = InputError(f"row {number} is no JSON object")
        yield Row(number, values if isinstance(values, dict) else wrong, "")
