"""Rows in files: what is written is read back, in every format, and what stands in a file comes out as it came in."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import InputError
from rfprm_lite.data import files, row, tables, writing
from rfprm_lite.data.row import Row, Written
from rowfiles import as_written, read, write

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)
rows_of_text = st.lists(st.fixed_dictionaries({"problem": texts, "response": texts}), min_size=1, max_size=6)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
rows_of_all = st.lists(
    st.dictionaries(st.sampled_from("abc"), values | texts | st.lists(texts, max_size=3), max_size=3), max_size=6
)

ARROW = pytest.mark.needs("pyarrow")
SUFFIXES = [
    suffix if format == "jsonl" else pytest.param(suffix, marks=ARROW) for suffix, format in tables.SUFFIXES.items()
]
COMPRESSED = [
    suffix if suffix != ".zst" else pytest.param(suffix, marks=ARROW) for suffix in ("", ".gz", ".bz2", ".xz", ".zst")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def rows_of(tmp_path: Path, name: str, data: bytes) -> list[Row]:
    (tmp_path / name).write_bytes(data)
    return list(tables.read_rows([tmp_path / name]))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=rows_of_text)
def test_text_is_read_back(folder: Path, suffix: str, rows: list[dict[str, str]]) -> None:
    assert read(write(folder / f"rows{suffix}", rows)) == rows


@given(rows=rows_of_all)
def test_any_value_is_read_back_from_json(folder: Path, rows: list[dict[str, object]]) -> None:
    assert read(write(folder / "any.jsonl", rows)) == rows
    for indent in (None, 1):
        (folder / "any.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert read(folder / "any.json") == rows
    (folder / "any.json").write_text("\n".join(json.dumps(row or {"a": 0}, indent=1) for row in rows), encoding="utf-8")
    assert read(folder / "any.json") == [row or {"a": 0} for row in rows]  # as jq writes them


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files_are_read_and_written(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": i, "text": "é" * i} for i in range(50)]
    path = write(tmp_path / f"rows.jsonl{suffix}", rows)
    assert read(path) == rows
    data = path.read_bytes()
    assert (data[:1] == b"{") is (suffix == "")
    path.write_bytes(data + data)  # as `cat` joins shards
    assert read(path) == rows + rows
    (tmp_path / "unnamed.jsonl").write_bytes(data)  # known by its first bytes
    assert read(tmp_path / "unnamed.jsonl") == rows
    if suffix:
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=path.name):
            read(path)


def test_a_bomb_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "LONGEST_ROW", 2**16)
    for name, module in (("a.jsonl", bz2), ("b.jsonl", gzip), ("c.jsonl", lzma)):
        data = module.compress(b"0" * 2**22 + b'\n{"a": 1}\n')
        first, second = rows_of(tmp_path, name, data)
        assert isinstance(first.values, InputError)
        assert "line 1 is longer than" in str(first.values)
        assert len(first.content) == 1000
        assert second.values == {"a": 1}
    with pytest.raises(InputError, match="row 1, in an array, is no JSON"):
        rows_of(tmp_path, "array.json", b'["' + b"0" * 2**22)


def test_a_row_of_json_comes_out_as_it_came_in(tmp_path: Path) -> None:
    """Digits, escapes, NaN and what else is no part of a trace."""
    line = b'{"a": 0.12345678901234567890123, "b": NaN, "c": "\\ud800 \xc3\xa9", "d": 1267650600228229401496703205376}'
    (tmp_path / "rows.jsonl").write_bytes(line + b" \r\n{}\n")
    (tmp_path / "rows.json").write_bytes(b"[" + line.replace(b", ", b",\n  ") + b",\n{}]")
    for name in ("rows.jsonl", "rows.json"):
        written: list[Written] = [(row, {"rfprm_reward": 0.5}) for row in tables.read_rows([tmp_path / name])]
        writing.write(tmp_path / "out.jsonl", written.copy)
        first, second = (tmp_path / "out.jsonl").read_bytes().splitlines()
        assert first.replace(b",   ", b", ") == line[:-1] + b',"rfprm_reward":0.5}'
        assert second == b'{"rfprm_reward":0.5}'


@ARROW
@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_a_column_of_ours_is_no_formula_and_those_of_a_row_stay_as_they_are(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    writing.write(path, lambda: [(Row(1, {"response": text}), {"rfprm_error": text, "rfprm_step_rewards": [-1.0]})])
    with path.open(encoding="utf-8", newline="") as file:
        (found,) = csv.DictReader(file)
    assert found == {"response": text, "rfprm_error": f"error: {text}", "rfprm_step_rewards": "[-1.0]"}


@ARROW
def test_rows_of_parquet_that_are_no_utf_8_are_wrong_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.array([b"first", b"half of \xc3", b"\xff", b"last"], pa.binary()).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 1, 2, 2], pa.int32()), text.slice(0, 2))
    parquet.write_table(pa.table({"text": text.dictionary_encode(), "lists": lists}), tmp_path / "rows.parquet")
    rows = list(tables.read_rows([tmp_path / "rows.parquet"]))
    assert [row.number for row in rows if isinstance(row.values, InputError)] == [2, 3]
    assert [str(row.values) for row in rows[1:3]] == ["row 2 is no UTF-8", "row 3 is no UTF-8"]
    assert [json.loads(row.content) for row in rows[1:3]] == [
        {"text": "half of \\xc3", "lists": []},
        {"text": "\\xff", "lists": ["half of \\xc3"]},
    ]
    assert [dict(row.values) for row in rows[::3] if not isinstance(row.values, InputError)] == [
        {"text": "first", "lists": ["first"]},
        {"text": "last", "lists": []},
    ]


def test_parquet_knows_columns_that_come_late(tmp_path: Path) -> None:
    first: dict[str, object] = {"a": 1}
    rows = [*[first] * 1500, {"a": 2.5, "b": ["x"]}]
    found = read(write(tmp_path / "late.parquet", rows))
    assert found[0] == {"a": 1.0, "b": None}
    assert found[-1] == rows[-1]


@ARROW
@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a.parquet", [{"a": 1}, {"a": "x"}], "column"),
        ("a.parquet", [{"a": {}}], "no child field"),
        ("a.parquet", [{"a": 2**70}], "too large"),
        ("a.parquet", [{"a": 2.5}, {"a": 2**60 + 1}], "range"),
        ("a.csv", [{"a": 1}, {"steps": ["x"]}], "'steps' holds list"),
        ("a.csv", [{"meta": {}}], "'meta' holds dict"),
        ("a.csv", [{"a": "\ud800"}], "unicode"),
    ],
)
def test_what_a_format_can_not_hold_is_known_before(
    tmp_path: Path, name: str, rows: list[dict[str, object]], message: str
) -> None:
    for call in (writing.prepare, writing.write):
        with pytest.raises(InputError, match=message):
            call(tmp_path / name, as_written(rows))
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old", encoding="utf-8")

    def rows() -> list[Written]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write(path, rows)
    assert [own.read_text(encoding="utf-8") for own in tmp_path.iterdir()] == ["old"]


def test_what_is_wrong_with_a_row_is_told_with_its_line(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.jsonl", b'{"a": 1}\n\n[1]\n{"a"\n')
    assert [row.number for row in rows] == [1, 3, 4]
    assert rows[2].content == '{"a"\n'
    with pytest.raises(InputError, match="^line 3"):
        raise rows[1].values  # type: ignore[misc]


@ARROW
def test_one_bad_row_does_not_end_a_file(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.csv", b'a,b\n1,"2\n2"\n3\n4,caf\xe9\n5,6,7\n8,\n"",9\n')
    assert [row.number for row in rows] == [2, 3, 4, 5, 6, 7]
    assert rows[0].values == {"a": "1", "b": "2\n2"}
    assert [str(row.values) for row in rows[1:4]] == [
        "row 3 has 1 fields, the header 2",
        "row 4 is no UTF-8",
        "row 5 has 3 fields, the header 2",
    ]
    assert [row.content for row in rows[1:4]] == ["3", '{"a": "4", "b": "caf\\\\xe9"}', "5,6,7"]
    assert [row.values for row in rows[4:]] == [{"a": "8", "b": None}, {"a": "", "b": "9"}]
    rows = rows_of(tmp_path, "a.jsonl", b"[" * 0 + b'{"a": \n{"a": "\xe9"}\n{"a": 1}\n' + b"{" * 100_000)
    assert [isinstance(row.values, InputError) for row in rows] == [True, True, False, True]
    assert "\\xe9" in rows[1].content
    rows = rows_of(tmp_path, "a.json", b'[{"a": 1}, 5, {"a": "\xe9"}, {"b": 2}]')
    assert [isinstance(row.values, InputError) for row in rows] == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("a.parquet", b"text", "Parquet", marks=ARROW),
        pytest.param("a.csv", b"a,a\n1,2\n", "columns.*'a'", marks=ARROW),
        pytest.param("a.csv", b'a,b\n1,"open\n2,3\n', "odd number of quotes", marks=ARROW),
        pytest.param("a.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16", marks=ARROW),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        ("a.json", b'[{"a": 1}', "row 2, in an array"),
        ("a.json", b'[{"a": 1}, {"b"]', "row 2, in an array"),
        ("a.json", b'[{"a": 1}]\n{"a": 2}', "behind the array"),
        ("a.json", b'{\n "a": 1\n}\n{\n "a"\n}', "row 2, over lines"),
        ("a.json", b"[" * 100_000, "row 1, in an array"),
        ("a.jsonl.gz", b"\x1f\x8bno gzip", "a.jsonl.gz"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path, name, data)


@ARROW
def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), data)
    with pytest.raises(InputError, match="columns.*'a'"):
        rows_of(tmp_path, "a.parquet", data.getvalue())


@ARROW
def test_long_fields_and_a_byte_order_mark(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    (row,) = rows_of(tmp_path, "a.csv", b'\xef\xbb\xbfproblem,response\r\np,"' + long.encode() + b'\r\n"\r\n')
    assert row.values == {"problem": "p", "response": f"{long}\r\n"}
    (row,) = rows_of(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert row.values == {"a": 1}


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    for i, name in enumerate(("b.jsonl", "a.jsonl.gz", "deep/c.json", "notes.txt", ".hidden.jsonl", "_part/d.jsonl")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name.replace(".txt", ".jsonl"), [{"i": i}])
    (tmp_path / "notes.jsonl").rename(tmp_path / "notes.txt")
    found = list(tables.read_rows([tmp_path]))
    assert [row.values for row in found] == [{"i": 1}, {"i": 0}, {"i": 2}]
    assert [row.place.rpartition("/")[2] for row in found] == ["a.jsonl.gz", "b.jsonl", "c.json"]
    assert found[1].place == f"line 1 of {tmp_path / 'b.jsonl'}"
    assert [row.id for row in found] == sorted({row.id for row in found})
    assert [row.values for row in tables.read_rows([str(tmp_path / "*.jsonl*")])] == [{"i": 1}, {"i": 0}]
    assert [row.place for row in tables.read_rows([tmp_path / "b.jsonl"])] == ["line 1"]


def named(*names: str) -> Callable[[Path], list[str]]:
    return lambda folder: [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (named("a.jsonl", "a.jsonl"), "named twice"),
        (named("a.jsonl", "*.jsonl"), "named twice"),
        (named("", "a.jsonl"), "named twice"),
        (named("a.jsonl", "link.jsonl"), "named twice, as .*a.jsonl, too"),
        (named("-", "-"), "named twice"),
        (named("no.jsonl"), "no.jsonl can't be read: No such file"),
        (named("*.parquet"), "no file has such a name"),
        (named("empty"), "a folder without a file of rows"),
        (named("notes.txt"), "ends with none of"),
    ],
)
def test_names_that_can_not_be_read(tmp_path: Path, names: Callable[[Path], list[str]], message: str) -> None:
    write(tmp_path / "a.jsonl", [{"a": 1}])
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    own = names(tmp_path)
    if "link" in own[-1]:
        (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=message):
        list(tables.read_rows([name.replace(f"{tmp_path}/-", "-") for name in own]))


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs a POSIX system")
def test_devices_and_sockets_are_no_input_and_are_never_replaced(tmp_path: Path) -> None:
    import socket

    with pytest.raises(InputError, match="/dev/zero is a device"):
        list(tables.read_rows(["/dev/zero"], "jsonl"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(InputError, match="is a socket"):
            list(tables.read_rows([tmp_path / "socket"], "jsonl"))
    with files.replaced(Path("/dev/null")) as file:
        file.write(b"text")
    assert Path("/dev/null").is_char_device()


NO_PANDAS = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import {module}; {module}.{name}({arguments})
"""
WITH_PANDAS = "import {module}; {module}.{name}({arguments})"


def every_type() -> Any:
    """Two rows of every type that Parquet has, the second one null where pyarrow 15 can read that."""
    import decimal

    import numpy as np
    import pyarrow as pa

    columns = {
        "ns": pa.array([1, None], pa.timestamp("ns")),
        "zone": pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        "far": pa.array([-(10**17), None], pa.timestamp("us")),
        "duration": pa.array([1, None], pa.duration("ns")),
        "time": pa.array([1, None], pa.time64("ns")),
        "date": pa.array([10**7, None], pa.date32()),
        "seconds": pa.array([1, None], pa.timestamp("ms")),
        "times": pa.array([[1], None], pa.list_(pa.timestamp("ns"))),
        "object": pa.array([{"a": 1, "b": "x"}, None], pa.struct([("a", pa.timestamp("ns")), ("b", pa.string())])),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.timestamp("ns"))),
        "category": pa.array(["x", None]).dictionary_encode(),
        "half": pa.array([np.float16(1.5), None], pa.float16()),
        "decimal": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(10, 2)),
        "bytes": pa.array([b"\xff", None], pa.binary()),
        "pair": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
        "large": pa.array([["x"], None], pa.large_list(pa.large_string())),
        "nothing": pa.nulls(2),
        "big": pa.array([2**64 - 1, None], pa.uint64()),
        "nan": pa.array([float("inf"), None], pa.float64()),
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": "{}"})


EXPECTED = {
    "ns": "1970-01-01T00:00:00.000000001",
    "zone": "1970-01-01T01:00:00.000000001+0100",
    "far": "-1199-02-15T14:13:20.000000",
    "duration": "1 ns",
    "time": "00:00:00.000000001",
    "date": "29349-01-26",
    "seconds": "1970-01-01T00:00:00.001000",
    "times": ["1970-01-01T00:00:00.000000001"],
    "object": {"a": "1970-01-01T00:00:00.000000001", "b": "x"},
    "map": [["a", "1970-01-01T00:00:00.000000001"]],
    "category": "x",
    "half": 1.5,
    "decimal": "1.10",
    "bytes": "/w==",
    "pair": [1, 2],
    "large": ["x"],
    "nothing": None,
    "big": 2**64 - 1,
    "nan": float("inf"),
}


def round_trip(folder: str) -> None:
    """Run in another process: from Parquet to Parquet and to JSON lines."""
    source = Path(folder) / "every.parquet"
    for name in ("out.parquet", "out.jsonl"):
        path = Path(folder) / name

        def rows() -> Any:
            return ((row, {"rfprm_reward": 0.5}) for row in tables.read_rows([source]))

        writing.write(path, rows, writing.prepare(path, rows))


@ARROW
@pytest.mark.parametrize("code", [NO_PANDAS, WITH_PANDAS], ids=["without pandas", "with what is installed"])
def test_every_type_of_parquet_comes_through(tmp_path: Path, code: str) -> None:
    import pyarrow.parquet as pq

    table = every_type()
    pq.write_table(table, tmp_path / "every.parquet")
    code = code.format(module="test_tables", name="round_trip", arguments=repr(str(tmp_path)))
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.drop_columns(["rfprm_reward"]).equals(pq.read_table(tmp_path / "every.parquet"), check_metadata=True)
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert first == {**EXPECTED, "rfprm_reward": 0.5}
    assert second == {**dict.fromkeys(EXPECTED), "pair": [3, 4], "rfprm_reward": 0.5}


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_equal_rows_are_equal_files(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever and by whichever process they are written."""
    one = write(tmp_path / f"rows.jsonl{suffix}", [{"a": 1}]).read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    monkeypatch.setattr("os.getpid", lambda: 7)
    assert write(tmp_path / f"rows.jsonl{suffix}", [{"a": 1}]).read_bytes() == one


def test_an_error_is_told_where_the_disk_does_not_even_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(KeyError, match="first"), files.replaced(tmp_path / "rows.jsonl"):
        raise KeyError("first")
    with files.replaced(tmp_path / "rows.jsonl") as file:  # nothing is left to remove
        file.write(b"{}\n")
    assert (tmp_path / "rows.jsonl").read_bytes() == b"{}\n"
