"""Rows in files: JSON lines and arrays, CSV and Parquet, in and out.

In: files. Out: their rows as mappings from column to value, each with its number, for messages; and back. A row of
JSON comes out as it came in, digit by digit; one of Parquet never leaves Arrow on its way to Parquet. Knows nothing of
rewards. CSV and Parquet need pyarrow: `pip install 'rfprm-lite[data]'`.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec

from rfprm_lite.data import columns, files
from rfprm_lite.data.files import pyarrow
from rfprm_lite.errors import InputError

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
"""Rows that are converted together."""
LONGEST_ROW = 2**26
"""Bytes of the longest row of text that is read: no file, however it was compressed, fills the memory."""
_CHUNK = 2**16
_LONGEST_HEADER = 2**20
_BETWEEN = re.compile(r"[ \t\r\n,]*")


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
            yield from ({"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}[own](file, where))


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


def numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers (from 1), without blank ones and without a byte order mark.

    A line that is longer than LONGEST_ROW has the first so many bytes of it, and no line break.
    """
    number = 0
    while line := file.readline(LONGEST_ROW):
        number += 1
        rest = line
        while len(rest) == LONGEST_ROW and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_ROW)
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def text_of(row: Row) -> str:
    """A row as it stands in its file, or as JSON."""
    return row.content.strip() or _json(_both(row, {})).decode()


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _json_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    lines = numbered(file)
    first = next(lines, None)
    if first is not None and (first[1].lstrip().startswith(b"[") or first[1].strip() == b"{"):
        yield from _spread_rows(first[1], file, where)
        return
    for number, line in chain([] if first is None else [first], lines):
        place = f"line {number}{where.of}"
        content = line.decode(errors="backslashreplace")
        if len(line) >= LONGEST_ROW:
            wrong = InputError(f"{place} is longer than {LONGEST_ROW >> 20} MiB")
            yield Row(number, wrong, content[:1000], place, where)
        else:
            yield Row(number, _object(line, place), content, place, where)


def _object(line: bytes, place: str) -> Values | InputError:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        try:
            value = json.loads(line.decode())  # which takes what Python writes: NaN, Infinity, halves of surrogates
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else InputError(f"{place} is no JSON object: {error}")


def _spread_rows(beginning: bytes, file: BinaryIO, where: File) -> Iterator[Row]:
    """The objects of an array, or objects that go over several lines; never are all of them in memory."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    decode_value = json.JSONDecoder().raw_decode
    text, at, number = decode(beginning).lstrip(), 0, 1
    in_array = text.startswith("[")
    at = int(in_array)

    def more() -> bool:
        nonlocal text, at
        data = file.read(max(_CHUNK, len(text) - at))
        text, at = text[at:] + decode(data, not data), 0
        return bool(data)

    while True:
        place = f"row {number}{where.of}"
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if not in_array and at == len(text):
            if not more():
                return
            continue
        if in_array and text.startswith("]", at):
            if (text[at + 1 :] + decode(file.read(_CHUNK))).strip():
                raise InputError(
                    f"something stands behind the array of {number - 1} rows{where.of}: one row a line, or one array"
                )
            return
        try:
            value, end = decode_value(text, at)
        except (ValueError, RecursionError) as error:
            too_long = len(text) - at > LONGEST_ROW
            if isinstance(error, RecursionError) or too_long or not more():
                raise InputError(
                    f"{place}, {'in an array' if in_array else 'over lines'}, is no JSON: {error}"
                ) from error
            continue
        if end == len(text) and more():
            continue  # a number may go on
        content, at = text[at:end], end
        yield Row(number, _array_object(value, content, place), _legible(content), place, where)
        number += 1


def _array_object(value: object, content: str, place: str) -> Values | InputError:
    if not isinstance(value, dict):
        return InputError(f"{place} is no JSON object, but {type(value).__name__}")
    return value if _is_utf8(content) else InputError(f"{place} is no UTF-8")


def _legible(text: str) -> str:
    """The text with the bytes that are no UTF-8 written as escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Quoted(io.RawIOBase):
    """A file of CSV, of which the beginning was read, whose quotes are counted: where one is not closed, rows are lost.

    Args:
        beginning: What was read.
        file: The rest.
    """

    def __init__(self, beginning: bytes, file: BinaryIO) -> None:
        self._beginning, self._file, self.quotes = beginning, file, 0

    def readable(self) -> bool:
        """As of any file that is read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there is something."""
        data = self._beginning[: len(buffer)] or self._file.read(len(buffer))
        self._beginning = self._beginning[len(buffer) :]
        buffer[: len(data)] = data
        self.quotes += data.count(b'"')
        return len(data)


def _csv_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    csv, pa = pyarrow("CSV", "csv"), pyarrow("CSV")
    beginning = file.read(_LONGEST_HEADER)
    if not beginning.removeprefix(codecs.BOM_UTF8).strip():
        return
    wrong: dict[int, Any] = {}

    def set_aside(row: Any) -> str:
        wrong[row.number] = row
        return "skip"

    def opened(source: Any, convert: Any = None) -> Any:
        return csv.open_csv(
            source,
            read_options=csv.ReadOptions(use_threads=False, block_size=LONGEST_ROW),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            convert_options=convert,
        )

    def wrong_rows(number: int) -> Iterator[Row]:
        while number in wrong:
            row, place = wrong.pop(number), f"row {number}{where.of}"
            message = f"{place} has {row.actual_columns} fields, the header {row.expected_columns}"
            yield Row(number, InputError(message), row.text, place, where)
            number += 1

    try:
        names = opened(pa.BufferReader(beginning)).schema.names
        _require_single(names, where)
        wrong.clear()
        source = _Quoted(beginning, file)
        as_bytes = csv.ConvertOptions(
            column_types={name: pa.binary() for name in names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        number = 2
        for batch in opened(source, as_bytes):
            for cells in batch.to_pylist():
                for row in wrong_rows(number):
                    yield row
                    number = row.number + 1
                yield _csv_row(number, cells, f"row {number}{where.of}", where)
                number += 1
        yield from wrong_rows(number)
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(
            f"the input{where.of} is no CSV in UTF-8 with rows of {LONGEST_ROW >> 20} MiB at most: {error}"
        ) from error
    if source.quotes % 2:
        raise InputError(
            f"the input{where.of} has an odd number of quotes: one is not closed, and the rows behind it were read as "
            'its text. Within a field " is written as "", and the field stands in quotes'
        )


def _csv_row(number: int, cells: Mapping[str, bytes | None], place: str, where: File) -> Row:
    try:
        return Row(
            number, {name: None if cell is None else cell.decode() for name, cell in cells.items()}, "", place, where
        )
    except UnicodeDecodeError:
        content = {name: (cell or b"").decode(errors="backslashreplace") for name, cell in cells.items()}
        return Row(number, InputError(f"{place} is no UTF-8"), json.dumps(content), place, where)


def _require_single(names: Sequence[str], where: File) -> None:
    """Raise InputError where two columns have one name: a row can't hold both."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"several columns{where.of} are called {', '.join(map(repr, repeated))}: rename or drop all but one"
        )


class ArrowValues(Mapping[str, Any]):
    """A row of a table of pyarrow's: only what is looked at becomes a value of Python's.

    Args:
        batch: A pyarrow.RecordBatch.
        at: The row's place in it.
    """

    __slots__ = ("at", "batch")

    def __init__(self, batch: Any, at: int) -> None:
        self.batch, self.at = batch, at

    def __getitem__(self, name: str) -> Any:
        column = self.batch.schema.get_field_index(name)
        if column < 0:
            raise KeyError(name)
        return _python(self.batch.column(column)[self.at])

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.schema.names)

    def __len__(self) -> int:
        return len(self.batch.schema)


def _python(scalar: Any) -> Any:
    """The value of a scalar of Arrow's, the same with and without pandas.

    Times are text where Python's own have too few digits or years.
    """
    if not scalar.is_valid:
        return None
    if not _has_times(scalar.type):
        return scalar.as_py()
    types = pyarrow("Parquet", "types")
    if types.is_dictionary(scalar.type):
        return _python(scalar.value)
    if types.is_struct(scalar.type):
        return {field.name: _python(scalar[i]) for i, field in enumerate(scalar.type)}
    if types.is_map(scalar.type):
        return [tuple(_python(pair[i]) for i in range(2)) for pair in scalar.values]
    if types.is_nested(scalar.type):
        return [_python(value) for value in scalar.values]
    return _time(scalar)


@lru_cache(maxsize=256)
def _has_times(kind: Any) -> bool:
    types = pyarrow("Parquet", "types")
    if types.is_struct(kind):
        return any(_has_times(field.type) for field in kind)
    if types.is_map(kind):
        return _has_times(kind.key_type) or _has_times(kind.item_type)
    inner = getattr(kind, "value_type", None)  # of lists and dictionaries
    return _has_times(inner) if inner is not None else bool(types.is_temporal(kind) and not types.is_interval(kind))


def _time(scalar: Any) -> Any:
    pa = pyarrow("Parquet")
    try:
        if getattr(scalar.type, "unit", "") != "ns":
            return scalar.as_py()
    except (ValueError, OverflowError):
        pass  # too far from now for Python
    if pa.types.is_duration(scalar.type):
        return f"{scalar.value} {scalar.type.unit}"
    return scalar.cast(pa.string()).as_py().replace(" ", "T", 1)


def _parquet_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    parquet, pa = pyarrow("Parquet", "parquet"), pyarrow("Parquet")
    with tempfile.TemporaryFile() as spool:
        if not isinstance(file, io.BufferedReader) or not file.seekable():  # Parquet is read from its end
            shutil.copyfileobj(file, spool)
            file = spool
        try:
            table = parquet.ParquetFile(file)
            _require_single(table.schema_arrow.names, where)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS_A_BATCH):
                batch = batch.replace_schema_metadata(table.schema_arrow.metadata)
                for at in range(batch.num_rows):
                    number += 1
                    yield Row(number, ArrowValues(batch, at), "", f"row {number}{where.of}", where)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"the input{where.of} is no Parquet that can be read: {error}") from error


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
        return json.dumps(value) if isinstance(value, list) else value
    if isinstance(value, (list, tuple, dict, bytes)):
        raise InputError(
            f"column {name!r} holds {type(value).__name__}, which CSV gives back as text: write .jsonl or .parquet"
        )
    if value is None or isinstance(value, str):
        return value
    return str(value if isinstance(value, (int, float)) else _builtin(value))


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
