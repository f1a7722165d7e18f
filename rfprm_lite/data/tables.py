"""The rows of files: JSON, CSV and Parquet, told by their names. CSV and Parquet need pyarrow.

In: files. Out: their rows as mappings from column to value, each with its number, for messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rfprm_lite.data import files
from rfprm_lite.data.arrow import csv_rows, parquet_rows
from rfprm_lite.data.json_rows import json_rows
from rfprm_lite.data.row import File, Format, Row
from rfprm_lite.errors import InputError

__all__ = ["SUFFIXES", "Format", "Row", "format_of", "is_known", "read_rows"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_READERS = {"jsonl": json_rows, "csv": csv_rows, "parquet": parquet_rows}


def format_of(path: str | Path) -> Format:
    """The format of a file by the end of its name, behind which `.gz` and its kin may stand.

    Standard input and pipes, whose names tell nothing, are JSON lines.

    Raises:
        InputError: If the name tells no format.
    """
    own = Path(path)
    plain = own.with_suffix("") if own.suffix.lower() in files.COMPRESSED else own
    format = SUFFIXES.get(plain.suffix.lower())
    if format is not None:
        return format
    if own == files.STANDARD or (own.exists() and not own.is_dir() and files.is_stream(own)):
        return "jsonl"
    raise InputError(
        f"{path}: what it holds can't be told from its name, which ends with none of {[*SUFFIXES]}, nor with one of "
        f"them and one of {[*files.COMPRESSED]}"
    )


def is_known(path: Path) -> bool:
    """Whether the end of a file's name tells a format."""
    try:
        format_of(path)
    except InputError:
        return False
    return True


def read_rows(paths: Sequence[str | Path], format: Format | None = None) -> Iterator[Row]:
    """The rows of files in order, without blank lines. A wrong row carries an InputError that names it.

    Args:
        paths: Files, compressed or not, folders and patterns of them, or "-" for standard input.
        format: Of all of them; by their names where None.

    Raises:
        InputError: If there is no such file, or if one can't be read, or is of another format.
        MissingExtraError: If one is CSV, Parquet or `.zst`, and pyarrow is not installed.
    """
    found = files.expanded(paths, is_known)
    for index, path in enumerate(found):
        files.is_stream(path)  # raises for what is no input
        where = File(index, str(path) if len(found) > 1 else "")
        own = format or format_of(path)
        with files.reading(path) as file:
            yield from _READERS[own](file, where)
