"""Rows into files: JSON lines, CSV and Parquet.

In: rows, and the columns that are added to them. Out: a file. A row of JSON comes out as it came in, digit by digit;
one of Parquet never leaves Arrow on its way to Parquet.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rfprm_lite.data import columns, files
from rfprm_lite.data.arrow import ArrowValues
from rfprm_lite.data.files import pyarrow
from rfprm_lite.data.row import ROWS_A_BATCH, Format, Row, Written, chunks
from rfprm_lite.data.tables import format_of
from rfprm_lite.errors import InputError

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets run."""


def write(path: Path, rows: Callable[[], Iterable[Written]], shape: Any = None) -> int:
    """Write a file at once or not at all, in the format that its name tells.

    Args:
        path: The file; "-" is standard output.
        rows: Gives the rows.
        shape: What `prepare` gave of it; where None, it is called for here, and `rows` twice.

    Returns:
        The number of rows.

    Raises:
        InputError: If the file can't be written, or if the format can't hold a value.
        MissingExtraError: If a library that it needs is not installed.
    """
    format = format_of(path)
    shape = _shape(format, rows) if shape is None else shape
    with files.replaced(path) as file:
        return _write(file, format, rows, shape)


def prepare(path: Path, rows: Callable[[], Iterable[Written]]) -> Any:
    """Check that a file can hold rows: they are written to nowhere.

    Args:
        path: The file.
        rows: Gives the rows, with such values of the added columns as there may be; it is called several times.

    Returns:
        The names and types of the columns, for `write`.

    Raises:
        InputError: If its format can't hold a value.
        MissingExtraError: If a library that it needs is not installed.
    """
    format = format_of(path)
    if path.suffix.lower() == ".zst":
        pyarrow(".zst")
    if format == "jsonl":
        return None  # holds everything
    shape = _shape(format, rows)
    with Path(os.devnull).open("wb") as nowhere:
        _write(nowhere, format, rows, shape)
    return shape


def text_of(row: Row) -> str:
    """A row as it stands in its file, or as JSON."""
    return row.content.strip() or _json(_both(row, {})).decode()


def _shape(format: Format, rows: Callable[[], Iterable[Written]]) -> Any:
    """The names and types of the columns of rows, pyarrow's; None for JSON lines, which need none."""
    if format == "jsonl":
        return None
    pa = pyarrow("CSV" if format == "csv" else "Parquet")
    if format == "csv":
        names = dict.fromkeys(name for row, added in rows() for name in (*row.columns, *added))
        known = {**columns.arrow_types(pa), columns.STEP_REWARDS: pa.string()}
        return pa.schema([(name, known.get(name, pa.string())) for name in names])
    own: list[Any] = [pa.schema([])]
    all_added: dict[str, None] = {}
    try:
        for chunk in chunks(rows(), ROWS_A_BATCH):
            for row, added in chunk:
                all_added |= dict.fromkeys(added)
                if isinstance(row.values, ArrowValues) and row.values.batch.schema not in own:
                    own.append(row.values.batch.schema)
            own.append(_inferred(pa, [row for row, _ in chunk if not isinstance(row.values, ArrowValues)]))
        merged = pa.unify_schemas([schema for schema in own if schema.names], promote_options="permissive")
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise _no_parquet(error) from error
    types = columns.arrow_types(pa)
    return pa.schema([*merged, *((name, types[name]) for name in all_added)], merged.metadata)


def _inferred(pa: Any, rows: Sequence[Row]) -> Any:
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return pa.schema([(name, pa.array([_get(row, name) for row in rows]).type) for name in names])


def _get(row: Row, name: str) -> Any:
    return None if isinstance(row.values, InputError) else row.values.get(name)


def _write(file: BinaryIO, format: Format, rows: Callable[[], Iterable[Written]], shape: Any) -> int:
    return {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[format](file, rows(), shape)


def _write_jsonl(file: BinaryIO, rows: Iterable[Written], _shape: Any) -> int:
    return sum(bool(file.write(_json_line(row, added))) for row, added in rows)


def _json_line(row: Row, added: Mapping[str, Any]) -> bytes:
    if isinstance(row.values, dict) and row.content:  # what is not understood stays as it is: digits, NaN
        own = re.sub(r"[\r\n]", " ", row.content.strip())[:-1]  # within the texts of JSON there are none
        more = _json(added)[1:]
        return f"{own}{',' if row.values and added else ''}".encode() + more + b"\n"
    return _json(_both(row, added)) + b"\n"


def _json(values: Mapping[str, Any]) -> bytes:
    def encoded(ensure_ascii: bool) -> bytes:
        return json.dumps(values, ensure_ascii=ensure_ascii, separators=(",", ":"), default=_builtin).encode()

    try:
        return encoded(ensure_ascii=False)
    except UnicodeEncodeError:
        return encoded(ensure_ascii=True)


def _builtin(value: Any) -> Any:
    """The value in a type that JSON has: bytes in base64, times in ISO 8601."""
    return value.item() if hasattr(value, "item") else msgspec.to_builtins(value)


def _write_csv(file: BinaryIO, rows: Iterable[Written], shape: Any) -> int:
    csv, pa = pyarrow("CSV", "csv"), pyarrow("CSV")
    written = 0
    for number, chunk in enumerate(chain(chunks(rows, ROWS_A_BATCH), [[]])):
        sink = pa.BufferOutputStream()
        data = [{name: _cell(name, value) for name, value in _both(row, added).items()} for row, added in chunk]
        try:
            table = pa.Table.from_pylist(data, schema=shape)
        except UnicodeError as error:
            raise InputError(f"a text is no valid unicode: {error}") from error
        csv.write_csv(table, sink, csv.WriteOptions(include_header=number == 0))
        file.write(sink.getvalue())
        written += len(chunk)
    return written


def _both(row: Row, added: Mapping[str, Any]) -> dict[str, Any]:
    return {**({} if isinstance(row.values, InputError) else row.values), **added}


def _cell(name: str, value: Any) -> Any:
    if name in columns.ALL:
        return json.dumps(value) if isinstance(value, list) else _no_formula(value)
    if isinstance(value, (list, tuple, dict, bytes)):
        raise InputError(
            f"column {name!r} holds {type(value).__name__}, which CSV gives back as text: write .jsonl or .parquet"
        )
    if value is None or isinstance(value, str):
        return value
    return str(value if isinstance(value, (int, float)) else _builtin(value))


def _no_formula(value: Any) -> Any:
    """A value of ours that no spreadsheet takes for a formula. What rows hold themselves stays as it is."""
    return f"error: {value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def _write_parquet(file: BinaryIO, rows: Iterable[Written], shape: Any) -> int:
    pa, parquet = pyarrow("Parquet"), pyarrow("Parquet", "parquet")
    written = 0
    try:
        with parquet.ParquetWriter(file, shape) as writer:
            for chunk in chunks(rows, ROWS_A_BATCH):
                for _, group in groupby(chunk, key=lambda item: id(getattr(item[0].values, "batch", None))):
                    writer.write_table(_table(pa, list(group), shape))
                written += len(chunk)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise _no_parquet(error) from error
    return written


def _table(pa: Any, items: Sequence[Written], shape: Any) -> Any:
    """Rows as a table: those of one batch, or of none."""
    first = items[0][0].values
    batch = None
    if isinstance(first, ArrowValues):
        batch = first.batch.take(pa.array([row.values.at for row, _ in items]))  # type: ignore[union-attr]
    arrays = []
    for field in shape:
        if field.name in items[0][1]:
            array = pa.array([added[field.name] for _, added in items], field.type)
        elif batch is None:
            array = pa.array([_get(row, field.name) for row, _ in items], field.type)
        elif field.name in batch.schema.names:
            array = batch.column(field.name).cast(field.type)
        else:
            array = pa.nulls(len(items), field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=shape)


def _no_parquet(error: Exception) -> InputError:
    return InputError(f"Parquet can't hold these values in one column, .jsonl can: {error}")
