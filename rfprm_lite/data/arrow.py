"""Rows of CSV and Parquet, read by pyarrow.

In: a file. Out: its rows. Those of Parquet stay in Arrow: only what is looked at becomes a value of Python's.
"""

from __future__ import annotations

import codecs
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

from rfprm_lite.data.files import pyarrow
from rfprm_lite.data.row import LONGEST_ROW, ROWS_A_BATCH, File, Row
from rfprm_lite.errors import InputError

_LONGEST_HEADER = 2**20


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


def csv_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    """The rows of CSV in UTF-8; the header is row 1. A cell is text; one without quotes that is empty is None."""
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
    return _by_parts(scalar, _python, _time) if _has_times(scalar.type) else scalar.as_py()


def _escaped(scalar: Any) -> Any:
    """As `_python`. Bytes that are no UTF-8 are escaped."""
    try:
        return _python(scalar)
    except UnicodeDecodeError:
        return _by_parts(scalar, _escaped, lambda text: text.as_buffer().to_pybytes().decode(errors="backslashreplace"))


def _by_parts(scalar: Any, inner: Callable[[Any], Any], leaf: Callable[[Any], Any]) -> Any:
    """The value of a scalar: `inner` makes those of what it holds, `leaf` its own where it holds none."""
    types = pyarrow("Parquet", "types")
    if types.is_dictionary(scalar.type):
        return inner(scalar.value)
    if types.is_struct(scalar.type):
        return {field.name: inner(scalar[i]) for i, field in enumerate(scalar.type)}
    if types.is_map(scalar.type):
        return [tuple(inner(pair[i]) for i in range(2)) for pair in scalar.values]
    if types.is_nested(scalar.type):
        return [inner(value) for value in scalar.values]
    return leaf(scalar)


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


def _is_valid(batch: Any) -> bool:
    """Whether all its text is UTF-8, and whatever else Arrow asks of its values."""
    try:
        batch.validate(full=True)
    except pyarrow("Parquet").ArrowInvalid:
        return False
    return True


def _parquet_row(number: int, values: ArrowValues, where: File, *, suspect: bool) -> Row:
    place = f"row {number}{where.of}"
    if suspect:
        try:
            dict(values)
        except UnicodeDecodeError:
            columns = zip(values, values.batch.columns, strict=True)
            content = {name: _escaped(column[values.at]) for name, column in columns}
            return Row(number, InputError(f"{place} is no UTF-8"), json.dumps(content, default=str), place, where)
    return Row(number, values, "", place, where)


def parquet_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    """The rows of Parquet."""
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
                suspect = not _is_valid(batch)
                for at in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(number, ArrowValues(batch, at), where, suspect=suspect)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"the input{where.of} is no Parquet that can be read: {error}") from error
