"""Files of rows and records made to harm: an error of ours, soon."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_lite import InputError, Usage
from rfprm_lite.bundle.manifest import decode
from rfprm_lite.cli.view import records_of
from rfprm_lite.data.known_columns import Columns
from rfprm_lite.data.ledger import Key, Ledger, Scored
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.row import Row
from rfprm_lite.data.rows import score_row
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.tables import read_rows
from rfprm_lite.errors import BundleFormatError, LedgerError
from rfprm_lite.evaluate.reading import read

PART = 2**23


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_a_bomb_is_refused(module: Any, tmp_path: Path) -> None:
    suffix = {gzip: ".gz", bz2: ".bz2", lzma: ".xz"}[module]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(module.compress(bytes(PART)) * 100)
    with pytest.raises(InputError, match=f"a.jsonl{suffix} is refused as a decompression bomb: its first [0-9]+ bytes"):
        list(read_rows([path]))


def test_what_is_merely_well_compressed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = "".join(json.dumps({"id": i, "problem": "What is it? " * 100}) + "\n" for i in range(20_000)).encode()
    path.write_bytes(gzip.compress(rows))
    assert len(rows) > 2**24
    assert len(rows) / path.stat().st_size > 50
    assert sum(1 for _ in read_rows([path])) == 20_000


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"format_version":' + b"[" * 100_000, b'{"a":' * 100_000])
def test_a_manifest_that_is_nested_without_end(data: bytes) -> None:
    with pytest.raises(BundleFormatError, match=r"manifest\.json is no manifest"):
        decode(data, "manifest.json")


def test_scores_that_are_nested_without_end() -> None:
    with pytest.raises(InputError, match="line 1 is none that rfprm score --json"):
        list(records_of(io.BytesIO(b'{"scores":' + b"[" * 100_000)))


@pytest.mark.parametrize("chosen", [1, -1, 10**30])
def test_a_completion_that_is_not_there(chosen: int) -> None:
    steps = [{"completions": [{"text": "a"}], "chosen_completion": chosen, "human_completion": None}]
    row = Row(1, {"problem": "p", "steps": steps}, place="line 1")
    with pytest.raises(InputError, match=f"line 1, column 'steps': step 0 has 1 completions, and chosen_.* {chosen}"):
        score_row(row, Columns("problem", steps="steps"), Reading())


def test_a_cell_of_json_that_is_nested_without_end() -> None:
    row = Row(1, {"problem": "p", "steps": "[" * 100_000}, place="row 1")
    with pytest.raises(InputError, match="row 1, column 'steps': text, where a list is needed"):
        score_row(row, Columns("problem", steps="steps"), Reading())


def test_a_step_that_is_no_number(tmp_path: Path) -> None:
    row = {"modified_question": "p", "modified_process": ["a"], "error_steps": [float("inf")]}
    row |= {"original_question": "q", "original_process": ["a"], "classification": "c"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(InputError, match="not in the form of prmbench: cannot convert float infinity"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rewards SET step_rewards = X'00'",
        "UPDATE rewards SET digest = 'text'",
        "UPDATE rewards SET tokens = 'many'",
        "UPDATE rewards SET reward = X'00'",
        "INSERT INTO job VALUES (X'00', 'b')",
        "INSERT INTO job VALUES (NULL, 'b')",
    ],
)
def test_a_damaged_ledger(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path, {"model": "a"})
    ledger.add([(1, Key.of("p", "r"), Scored(0.5, 0.5, np.ones(2, np.float32), Usage(3, 2)))])
    ledger.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(damage)
    with pytest.raises(LedgerError, match="ledger is no record of a run, or is damaged: "):
        _read(path)


def test_a_ledger_whose_pages_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path, {"model": "a"})
    scores = [(i, Key.of("p", i), Scored(0.5, 0.5, np.ones(200, np.float32), Usage(3, 2))) for i in range(100)]
    ledger.add(scores)
    ledger.close()
    data = bytearray(path.read_bytes())
    for page in range(5, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"\xee" * 100
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="ledger is no record of a run, or is damaged: "):
        _read(path)


def _read(path: Path) -> None:
    with closing(Ledger(path, {"model": "a"})) as opened:
        opened.new({1: Key.of("p", "r")})
        list(opened.entries(Selection()))
        opened.totals()
