"""Rows in files: JSON lines, CSV and Parquet, in and out.

In: a file. Out: its rows as mappings from column to value, each with its number, for messages; and back. Knows nothing
of rewards. Parquet needs pyarrow: `pip install 'rfprm-lite[data]'`.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec

from rfprm_lite.errors import InputError, MissingExtraError

Format = Literal["jsonl", "csv", "parquet"]
Values = Mapping[str, Any]
Item = TypeVar("Item")

FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ROWS_A_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """number: the line (JSON lines, CSV) or row (Parquet) of the file, from 1. values: by column, or what is wrong, and
    then content: as it stands there."""

    number: int
    values: Values | InputError
    content: str = ""


def format_of(path: str | Path) -> Format:
    """By the end of its name; JSON lines where that is "-". Raises InputError."""
    if str(path) == "-":
        return "jsonl"
    found = SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        raise InputError(f"{path}: what it holds can't be told from its name, which ends with none of {[*SUFFIXES]}")
    return found


def read(file: BinaryIO, format: Format) -> Iterator[Row]:
    """The rows in order; blank lines are passed over. A row that can't be read carries an InputError that names it."""
    return {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}[format](file)


def count(file: BinaryIO, format: Format) -> int:
    """How many rows `read` gives."""
    if format == "parquet":
        return int(_pyarrow("parquet").ParquetFile(file).metadata.num_rows)
    if format == "csv":
        return sum(1 for _ in _read_csv(file))
    return sum(1 for line in file if line.strip())


def require(format: Format) -> None:
    """Raises MissingExtraError where what the format needs is not installed."""
    if format == "parquet":
        _pyarrow()


def write(path: Path, rows: Callable[[], Iterable[Values]], format: Format) -> int:
    """Write a file at once or not at all; returns the number of rows. `rows` may be called twice: Parquet needs to know
    all columns before the first row."""
    with replaced(path) as file:
        return {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[format](file, rows)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all is written and on the disk; an error leaves what was there.
    "-" is standard output. Raises InputError where it can't be written."""
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers (from 1), without blank ones and without a byte order mark."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`size` at a time, the last ones fewer."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _read_jsonl(file: BinaryIO) -> Iterator[Row]:
    for number, line in numbered(file):
        try:
            yield Row(number, msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeError) as error:
            yield Row(number, InputError(f"line {number} is no JSON object: {error}"), line.decode(errors="replace"))


def _read_csv(file: BinaryIO) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the module's own limit is shorter than traces are
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        names = next(reader, [])
        while True:
            number = reader.line_num + 1
            values = next(reader, None)
            if values is None:
                return
            if len(values) == len(names):
                yield Row(number, dict(zip(names, values, strict=True)))
            elif values:
                wrong = InputError(f"line {number} has {len(values)} fields, the first line {len(names)}")
                yield Row(number, wrong, _cell(values))
    except (csv.Error, UnicodeError) as error:  # what comes behind can't be told apart any more
        raise InputError(f"line {reader.line_num} is no CSV in UTF-8: {error}") from error
    finally:
        text.detach()


def _read_parquet(file: BinaryIO) -> Iterator[Row]:
    parquet = _pyarrow("parquet")
    try:
        source = file if file.seekable() else io.BytesIO(file.read())
        batches = parquet.ParquetFile(source).iter_batches(batch_size=ROWS_A_BATCH)
        rows = (values for batch in batches for values in batch.to_pylist())
        yield from (Row(number, values) for number, values in enumerate(rows, start=1))
    except _pyarrow("lib").ArrowException as error:
        raise InputError(f"the input is no Parquet: {error}") from error


def _write_jsonl(file: BinaryIO, rows: Callable[[], Iterable[Values]]) -> int:
    return sum(bool(file.write(msgspec.json.encode(row) + b"\n")) for row in rows())


def _write_csv(file: BinaryIO, rows: Callable[[], Iterable[Values]]) -> int:
    names = list(dict.fromkeys(name for row in rows() for name in row))
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    written = 0
    for row in rows():
        writer.writerow({name: _cell(value) for name, value in row.items()})
        written += 1
    text.flush()
    text.detach()
    return written


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, (list, dict)) else value


def _write_parquet(file: BinaryIO, rows: Callable[[], Iterable[Values]]) -> int:
    pa, parquet = _pyarrow(), _pyarrow("parquet")
    try:
        schema = pa.unify_schemas(
            [pa.schema([]), *(_columns(pa, batch).schema for batch in chunks(rows(), ROWS_A_BATCH))],
            promote_options="permissive",
        )
        written = 0
        with parquet.ParquetWriter(file, schema) as writer:
            for batch in chunks(rows(), ROWS_A_BATCH):
                writer.write_table(pa.Table.from_pylist(list(batch), schema=schema))
                written += len(batch)
    except pa.ArrowException as error:
        raise InputError(f"Parquet can't hold a column of several kinds of values, .jsonl can: {error}") from error
    return written


def _columns(pa: Any, rows: Sequence[Values]) -> Any:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _pyarrow(module: str | None = None) -> Any:
    import importlib

    try:
        return importlib.import_module("pyarrow" + (f".{module}" if module else ""))
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow", "data") from error
