"""Rows in files: JSON lines, CSV and Parquet, in and out.

In: a file. Out: its rows as mappings from column to value, each with its number, for messages; and back. Knows nothing
of rewards. Parquet needs pyarrow: `pip install 'rfprm-lite[data]'`.
"""

from __future__ import annotations

import codecs
import csv
import glob
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

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ROWS_A_BATCH = 1024
"""Rows of a Parquet file that are in memory at once."""
PREFIX = "rfprm_"
"""The beginning of the columns that rfprm-lite adds."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        number: Its line (JSON lines, CSV) or row (Parquet) in the file, from 1.
        values: By column; or an error that says what is wrong with the row.
        content: The row as it stands in the file, if it is wrong; otherwise empty.
    """

    number: int
    values: Values | InputError
    content: str = ""

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns; none where the row is wrong."""
        return [] if isinstance(self.values, InputError) else list(self.values)


def format_of(path: str | Path) -> Format:
    """The format of a file by the end of its name; JSON lines for "-".

    Raises:
        InputError: If the name tells no format.
    """
    if str(path) == "-":
        return "jsonl"
    format = SUFFIXES.get(Path(path).suffix.lower())
    if format is None:
        raise InputError(f"{path}: what it holds can't be told from its name, which ends with none of {[*SUFFIXES]}")
    return format


def rows_of(file: BinaryIO, format: Format) -> Iterator[Row]:
    """The rows of a file in order, without blank lines. A wrong row carries an InputError that names it.

    Raises:
        InputError: If the file as a whole is of another format, or has two columns of one name.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    return {"jsonl": _jsonl_rows, "csv": _csv_rows, "parquet": _parquet_rows}[format](file)


def count(file: BinaryIO, format: Format) -> int:
    """The number of rows that `rows_of` gives."""
    if format == "parquet":
        return int(_pyarrow("parquet").ParquetFile(file).metadata.num_rows)
    if format == "csv":
        return sum(1 for _ in _csv_rows(file))
    return sum(1 for line in file if line.strip())


def require(format: Format) -> None:
    """Check that the library of a format is installed.

    Raises:
        MissingExtraError: If it is not.
    """
    if format == "parquet":
        _pyarrow()


def require_place(path: Path, source: Path) -> None:
    """Check that an output can be written to a place.

    Args:
        path: The output.
        source: The input.

    Raises:
        InputError: If there is no such folder, or if the output would overwrite the input.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if path.resolve() == source.resolve():
        raise InputError(f"{path} is the input: write to another file")


def write(path: Path, rows: Callable[[], Iterable[Values]], format: Format, schema: Any = None) -> int:
    """Write a file at once or not at all.

    Args:
        path: The file; "-" is standard output.
        rows: Gives the rows. It may be called twice: CSV and Parquet need all columns before the first row.
        format: The file's format.
        schema: The types of the columns that Parquet is to keep as they are, pyarrow's.

    Returns:
        The number of rows.

    Raises:
        InputError: If the file can't be written, or if the format can't hold a value.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    with replaced(path) as file:
        if format == "parquet":
            return _write_parquet(file, rows, schema)
        return (_write_csv if format == "csv" else _write_jsonl)(file, rows)


def schema_of(file: BinaryIO) -> Any:
    """The types of a Parquet file's columns, pyarrow's.

    Raises:
        InputError: If it is no Parquet.
    """
    try:
        return _pyarrow("parquet").ParquetFile(file).schema_arrow
    except (_pyarrow("lib").ArrowException, OSError) as error:
        raise InputError(f"the input is no Parquet: {error}") from error


def clear_partial(paths: Iterable[Path]) -> None:
    """Remove the partial files that killed writes have left of these. Nobody else may be writing them."""
    for path in paths:
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all is written and on the disk; an error leaves what was there.

    Args:
        path: The file; "-" is standard output.

    Raises:
        InputError: If it can't be written.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    path = path.resolve()  # what a link leads to is replaced, not the link
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
    """The lines with their numbers (from 1), without blank ones and without a byte order mark."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _jsonl_rows(file: BinaryIO) -> Iterator[Row]:
    for number, line in numbered(file):
        try:
            yield Row(number, msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            wrong = InputError(f"line {number} is no JSON object: {error}")
            yield Row(number, wrong, line.decode(errors="backslashreplace"))


def _csv_rows(file: BinaryIO) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit is shorter than traces are; Windows takes no higher one
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        row_lines: list[str] = []  # of the row at hand, for messages; a quoted field may span lines
        reader = csv.reader(_noted(text, row_lines), strict=True)
        names = next(reader, [])
        _require_single(names)
        while True:
            number = reader.line_num + 1
            row_lines.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, InputError(f"line {number} is no CSV: {error}"), _legible("".join(row_lines)))
            else:
                if values:
                    yield _csv_row(number, names, values)
    finally:
        if not file.closed:
            text.detach()


def _csv_row(number: int, names: Sequence[str], values: Sequence[str]) -> Row:
    content = _cell([_legible(value) for value in values])
    if any(not value.isascii() and _has_surrogate(value) for value in values):
        return Row(number, InputError(f"line {number} is no UTF-8"), content)
    if len(values) != len(names):
        return Row(number, InputError(f"line {number} has {len(values)} fields, the first line {len(names)}"), content)
    return Row(number, dict(zip(names, values, strict=True)))


def _noted(lines: Iterable[str], notes: list[str]) -> Iterator[str]:
    """The same lines, each appended to `notes` as it is consumed."""
    for line in lines:
        notes.append(line)
        yield line


def _legible(text: str) -> str:
    """The text with the bytes that are no UTF-8 written as escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _require_single(names: Sequence[str]) -> None:
    """Raise InputError where two columns have one name: a row can't hold both."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"several columns are called {', '.join(map(repr, repeated))}: rename or drop all but one")


def _parquet_rows(file: BinaryIO) -> Iterator[Row]:
    parquet, pa = _pyarrow("parquet"), _pyarrow()
    try:
        table = parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        _require_single(table.schema_arrow.names)
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_A_BATCH):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"the input is no Parquet that can be read: {error}") from error


def _write_jsonl(file: BinaryIO, rows: Callable[[], Iterable[Values]]) -> int:
    return sum(bool(file.write(msgspec.json.encode(row) + b"\n")) for row in rows())


def _write_csv(file: BinaryIO, rows: Callable[[], Iterable[Values]]) -> int:
    names = list(dict.fromkeys(name for row in rows() for name in row))
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    written = 0
    for row in rows():
        writer.writerow({name: _csv_cell(name, value) for name, value in row.items()})
        written += 1
    text.flush()
    text.detach()
    return written


def _cell(value: Any) -> Any:
    """The value, or JSON of a list or an object."""
    return msgspec.json.encode(value).decode() if isinstance(value, (list, dict)) else value


def _csv_cell(name: str, value: Any) -> Any:
    if isinstance(value, (list, dict)) and not name.startswith(PREFIX):
        raise InputError(f"column {name!r} holds lists or objects, which CSV gives back as text: write .jsonl")
    return _cell(value)


def _write_parquet(file: BinaryIO, rows: Callable[[], Iterable[Values]], known: Any) -> int:
    pa, parquet = _pyarrow(), _pyarrow("parquet")
    known = pa.schema([]) if known is None else known
    try:
        others = pa.unify_schemas(
            [pa.schema([]), *(_columns(pa, batch, known.names).schema for batch in chunks(rows(), ROWS_A_BATCH))],
            promote_options="permissive",
        )
        schema = pa.schema([*known, *others])
        written = 0
        with parquet.ParquetWriter(file, schema) as writer:
            for batch in chunks(rows(), ROWS_A_BATCH):
                writer.write_table(pa.Table.from_pylist(list(batch), schema=schema))
                written += len(batch)
    except (pa.ArrowException, OverflowError) as error:
        raise InputError(f"Parquet can't hold these values in one column, .jsonl can: {error}") from error
    return written


def _columns(pa: Any, rows: Sequence[Values], known: Sequence[str]) -> Any:
    """The columns of rows, without the known ones."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in known]
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _pyarrow(module: str | None = None) -> Any:
    import importlib

    try:
        return importlib.import_module("pyarrow" + (f".{module}" if module else ""))
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow", "data") from error
