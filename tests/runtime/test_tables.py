"""Rows in files: what is written is read back, in every format."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import InputError
from rfprm_lite.data import tables

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)
rows_of_text = st.lists(st.fixed_dictionaries({"problem": texts, "response": texts}), min_size=1, max_size=6)
values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
rows_of_all = st.lists(
    st.dictionaries(st.sampled_from("abc"), values | texts | st.lists(texts, max_size=3), max_size=3), max_size=6
)


SUFFIXES = [
    pytest.param(suffix, marks=pytest.mark.needs("pyarrow")) if format == "parquet" else suffix
    for suffix, format in tables.SUFFIXES.items()
]


def read_back(path: Path) -> list[object]:
    with path.open("rb") as file:
        return [row.values for row in tables.rows_of(file, tables.format_of(path))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=rows_of_text)
def test_text_is_read_back(folder: Path, suffix: str, rows: list[dict[str, str]]) -> None:
    path = folder / f"rows{suffix}"
    assert tables.write(path, lambda: rows, tables.format_of(path)) == len(rows)
    assert read_back(path) == rows
    with path.open("rb") as file:
        assert tables.count(file, tables.format_of(path)) == len(rows)


@given(rows=rows_of_all)
def test_any_value_is_read_back_from_json_lines(folder: Path, rows: list[dict[str, object]]) -> None:
    tables.write(folder / "any.jsonl", lambda: rows, "jsonl")
    assert read_back(folder / "any.jsonl") == rows


@pytest.mark.needs("pyarrow")
def test_parquet_knows_columns_that_come_late(tmp_path: Path) -> None:
    rows = [{"a": 1}] * 1500 + [{"a": 2.5, "b": ["x"]}]
    tables.write(tmp_path / "late.parquet", lambda: rows, "parquet")
    found = read_back(tmp_path / "late.parquet")
    assert found[0] == {"a": 1.0, "b": None}
    assert found[-1] == rows[-1]
    with pytest.raises(InputError, match="column"):
        tables.write(tmp_path / "mixed.parquet", lambda: [{"a": 1}, {"a": "x"}], "parquet")
    assert not list(tmp_path.glob("*mixed*"))


def test_a_file_is_written_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old", encoding="utf-8")

    def rows() -> list[dict[str, object]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.write(path, rows, "jsonl")
    assert [own.read_text(encoding="utf-8") for own in tmp_path.iterdir()] == ["old"]


def test_what_is_wrong_with_a_row_is_told_with_its_line() -> None:
    rows = [*tables.rows_of(io.BytesIO(b'{"a": 1}\n\n[1]\n{"a"\n'), "jsonl")]
    assert [row.number for row in rows] == [1, 3, 4]
    assert rows[2].content == '{"a"\n'
    with pytest.raises(InputError, match="^line 3"):
        raise rows[1].values  # type: ignore[misc]
    rows = [*tables.rows_of(io.BytesIO(b'a,b\n1,"2\n2"\n3\n4,5\n'), "csv")]
    assert [row.number for row in rows] == [2, 4, 5]
    assert rows[0].values == {"a": "1", "b": "2\n2"}
    with pytest.raises(InputError, match="line 4.*1.*2"):
        raise rows[1].values  # type: ignore[misc]


def test_one_bad_row_does_not_end_a_file() -> None:
    data = b'a,b\n1,caf\xe9\n"x"y,2\n3,4\n'
    rows = [*tables.rows_of(io.BytesIO(data), "csv")]
    assert [row.number for row in rows] == [2, 3, 4]
    assert "line 2" in str(rows[0].values)
    assert "\\xe9" in rows[0].content
    assert "line 3" in str(rows[1].values)
    assert rows[1].content == '"x"y,2\n'
    assert rows[2].values == {"a": "3", "b": "4"}
    rows = [*tables.rows_of(io.BytesIO(b"[" * 100_000 + b'\n{"a": "\xe9"}\n{"a": 1}\n'), "jsonl")]
    assert [isinstance(row.values, InputError) for row in rows] == [True, True, False]
    assert "\\xe9" in rows[1].content


def test_csv_holds_no_lists_but_ours(tmp_path: Path) -> None:
    tables.write(tmp_path / "a.csv", lambda: [{"rfprm_step_rewards": [0.5]}], "csv")
    with pytest.raises(InputError, match="'steps'"):
        tables.write(tmp_path / "b.csv", lambda: [{"steps": ["a"]}], "csv")


def parquet_with_a_column_twice() -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), data)
    return data.getvalue()


def test_long_fields_and_a_byte_order_mark() -> None:
    long = "x" * 300_000
    (row,) = tables.rows_of(io.BytesIO(b"\xef\xbb\xbfproblem,response\np," + long.encode() + b"\n"), "csv")
    assert row.values == {"problem": "p", "response": long}
    (row,) = tables.rows_of(io.BytesIO(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode()), "jsonl")
    assert row.values == {"a": 1}


@pytest.mark.needs("pyarrow")
def test_files_that_are_none() -> None:
    with pytest.raises(InputError, match="Parquet"):
        [*tables.rows_of(io.BytesIO(b"text"), "parquet")]
    given: tuple[tuple[tables.Format, bytes], ...] = (
        ("csv", b"a,a\n1,2\n"),
        ("parquet", parquet_with_a_column_twice()),
    )
    for format, data in given:
        with pytest.raises(InputError, match="columns.*'a'"):
            [*tables.rows_of(io.BytesIO(data), format)]
    with pytest.raises(InputError, match=r"traces\.txt"):
        tables.format_of("traces.txt")
