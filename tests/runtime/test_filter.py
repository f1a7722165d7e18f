"""Offline data selection: the best traces are kept, nothing is lost, nothing is scored twice."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import PRM, InputError, Usage
from rfprm_lite.cli import main
from rfprm_lite.data import filtering, writing
from rfprm_lite.data.filtering import Summary
from rfprm_lite.data.ledger import Key, Ledger, Scored
from rfprm_lite.data.selection import Selection
from rfprm_lite.errors import LedgerError
from rowfiles import Rows, read, write


def traces(problems: int, wrong: int = 2) -> Rows:
    """Additions, each with a right answer and `wrong` wrong ones."""
    return [
        {
            "id": f"{a}-{slip}",
            "problem": f"Tom has {a} apples. He buys {a + 3} more. How many apples does Tom have now?",
            "response": f"Tom now has {a} + {a + 3} = {2 * a + 3 + slip} apples.\n\nThe answer is {2 * a + 3 + slip}.",
        }
        for slip in (0, 10, 7)[: wrong + 1]
        for a in range(11, 11 + problems)
    ]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["filter", "--model", "demo", *map(str, arguments)])


@pytest.mark.parametrize("suffix", ["jsonl", "csv", pytest.param("parquet", marks=pytest.mark.needs("pyarrow"))])
def test_the_best_trace_of_each_problem_is_kept(tmp_path: Path, suffix: str) -> None:
    rows = traces(8)
    result = run(write(tmp_path / f"traces.{suffix}", rows), "--per-problem", 1, "-o", tmp_path / f"kept.{suffix}")
    assert result.exit_code == 0, result.output
    kept = read(tmp_path / f"kept.{suffix}")
    assert [row["id"] for row in kept] == [row["id"] for row in rows[:8]]
    assert "kept" in result.output
    expected = PRM.from_pretrained("demo").score(str(rows[0]["problem"]), str(rows[0]["response"]))
    assert float(kept[0]["rfprm_reward"]) == expected.reward
    steps = kept[0]["rfprm_step_rewards"]
    assert (json.loads(steps) if isinstance(steps, str) else steps) == expected.step_rewards.tolist()


@pytest.mark.needs("matplotlib")
def test_another_selection_costs_no_scoring(tmp_path: Path) -> None:
    source, output = write(tmp_path / "traces.jsonl", traces(20)), tmp_path / "kept.jsonl"
    options = ("-o", output, "--rewards", tmp_path / "all.jsonl", "--json")
    first = json.loads(run(source, "--top", "10%", *options).output)
    assert (first["scored"], first["kept"], len(read(output))) == (60, 6, 6)
    rewards = sorted((float(str(row["rfprm_reward"])) for row in read(tmp_path / "all.jsonl")), reverse=True)
    assert first["lowest_kept"] == rewards[5]
    assert sum(row["rfprm_kept"] for row in read(tmp_path / "all.jsonl")) == 6
    assert sum(first["histogram"]["kept"]) == 6
    second = json.loads(run(source, "--min-reward", 1.5, *options).output)
    assert second["computed"] == first["computed"] > 0
    assert all(row["rfprm_reward"] >= 1.5 for row in read(output))


def test_equal_problems_share_their_prefix_wherever_they_stand(tmp_path: Path) -> None:
    summary = json.loads(
        run(write(tmp_path / "a.jsonl", traces(100)), "--top", 1, "-o", tmp_path / "b.csv", "--json").output
    )
    assert summary["computed"] < 0.75 * summary["tokens"]


def test_bad_rows_are_kept_apart(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in traces(2, 0)]
    bad = ["{", json.dumps({"problem": "p"}), json.dumps({"problem": "p", "response": " "})]
    source = tmp_path / "traces.jsonl"
    source.write_text("\n".join([good[0], *bad, good[1]]), encoding="utf-8")
    result = run(source, "--top", "100%", "-o", tmp_path / "kept.jsonl")
    assert result.exit_code == 3
    assert len(read(tmp_path / "kept.jsonl")) == 2
    aside = read(tmp_path / "kept.jsonl.aside.jsonl")
    assert [row["line"] for row in aside] == [2, 3, 4]
    assert [str(row["row"]).strip() for row in aside[:1]] == bad[:1]
    assert [json.loads(str(row["row"])) for row in aside[1:]] == [json.loads(row) for row in bad[1:]]
    assert "has no 'response'" in str(aside[1]["error"])
    result = run(source, "--top", "100%", "-o", tmp_path / "other.jsonl", "--on-error", "fail")
    assert (result.exit_code, "line 2" in result.stderr) == (1, True)
    source.write_text("\n".join([good[0], "", "", "", good[1]]), encoding="utf-8")
    result = run(source, "--top", "100%", "-o", tmp_path / "kept.jsonl")
    assert result.exit_code == 0
    assert not (tmp_path / "kept.jsonl.aside.jsonl").exists()


@pytest.mark.needs("pyarrow")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL again and again: the rewards are those of a run in peace, and no row was scored twice."""
    source = write(tmp_path / "traces.jsonl", traces(250))
    options = ["--model", "demo", "--threads", "1", "--top", "20%"]
    command = [sys.executable, "-c", "from rfprm_lite.cli import main; main()", "filter", str(source), *options, "-o"]
    output, ledger = tmp_path / "kept.parquet", tmp_path / "kept.parquet.ledger"
    recorded = [0]
    while recorded[-1] < 300:
        with subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL) as process:
            while logged(ledger) < 90_000:  # about three batches of rows
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        recorded.append(rows_in(ledger))
        assert recorded[-1] > recorded[-2]
        assert not output.exists()
    assert len(recorded) > 2
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    assert rows_in(ledger) == 750  # each INSERTed once: row is the primary key
    subprocess.run([*command, str(tmp_path / "peace.parquet")], check=True, capture_output=True)
    assert read(output) == read(tmp_path / "peace.parquet")
    assert not list(tmp_path.glob(".*partial"))


def logged(ledger: Path) -> int:
    """Bytes that the run under way has written: a new run begins SQLite's log anew."""
    log = ledger.with_name(f"{ledger.name}-wal")
    return log.stat().st_size if log.exists() else 0


def rows_in(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as database:
        return int(database.execute("SELECT COUNT(*) FROM rewards").fetchone()[0])


def test_what_changed_since_is_refused(tmp_path: Path) -> None:
    rows, output = traces(3), tmp_path / "kept.jsonl"
    source = write(tmp_path / "traces.jsonl", rows)
    assert run(source, "--top", 3, "-o", output).exit_code == 0
    result = run(source, "--top", 3, "-o", output, "--aggregate", "min")
    assert "aggregate was mean+final and is min" in result.stderr
    result = run(source, "--top", 3, "-o", output, "--final", "response")
    assert "final was last and is response" in result.stderr
    result = run(source, "--top", 3, "-o", output, "--alpha", 1.0000001)
    assert "alpha was 1.0 and is 1.0000001" in result.stderr
    write(source, [{**rows[0], "response": "5"}, *rows[1:]])
    result = run(source, "--top", 3, "-o", output)
    assert (result.exit_code, "row 1" in result.stderr) == (1, True)
    assert run(source, "--top", 3, "-o", output, "--restart").exit_code == 0
    write(source, [*read(source), *traces(5)[3:5]])  # more rows at the end are welcome
    assert json.loads(run(source, "--top", 3, "-o", output, "--json").output)["scored"] == 11


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-o", "kept.jsonl", "--top", "0"], 2, "top='0'"),
        (["-o", "kept.jsonl", "--top", "101%"], 2, "top='101%'"),
        (["-o", "kept.jsonl", "--top", "1.5"], 2, "a part of them has a %"),
        (["-o", "kept.jsonl", "--per-problem", "0"], 2, "0 is not in the range"),
        (["-o", "kept.txt", "--top", "1"], 1, "ends with none of"),
        (["-o", "no/kept.jsonl", "--top", "1"], 1, "there is no folder no"),
        (["-o", "traces.jsonl", "--top", "1"], 1, "is the input"),
        (["-o", "-", "--top", "1"], 1, "standard output can't be an output"),
        (["-o", "kept.jsonl", "--rewards", "kept.jsonl", "--top", "1"], 1, "two outputs"),
        (
            ["-o", "kept.jsonl", "--rewards", "kept.jsonl.aside.jsonl", "--top", "1"],
            1,
            "two outputs",
        ),
        (["-o", "kept.jsonl", "--top", "1", "--problem-column", "question"], 1, "no 'question'"),
    ],
)
def test_errors_come_before_any_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "traces.jsonl", traces(1))
    result = run("traces.jsonl", "--on-error", "fail", *options)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


def test_a_row_that_is_gone_is_noticed(tmp_path: Path) -> None:
    source, output = write(tmp_path / "traces.jsonl", traces(3)), tmp_path / "kept.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()
    assert run(source, "--top", "100%", "-o", output).exit_code == 0
    for changed in (["", *lines[1:]], ["{bad", *lines[1:]], lines[:4], [lines[1], lines[0], *lines[2:]], []):
        source.write_text("\n".join(changed), encoding="utf-8")
        result = run(source, "--top", "100%", "-o", output)
        assert result.exit_code == 1
        assert ("changed" if changed else "there is no row in") in result.stderr
        assert len(read(output)) == 9


def test_an_input_that_is_replaced_during_the_run_gets_no_other_rows_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "traces.jsonl", traces(3))

    def replace_it(*arguments: Any) -> Summary:
        write(source, traces(3)[::-1])
        return write_outputs(*arguments)

    write_outputs = filtering.write
    monkeypatch.setattr(filtering, "write", replace_it)
    result = run(source, "--top", "100%", "-o", tmp_path / "kept.jsonl")
    assert "changed" in result.stderr
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_restart_waits_for_nobody_and_takes_nothing_from_a_run(tmp_path: Path) -> None:
    source = write(tmp_path / "traces.jsonl", traces(2))
    with closing(Ledger(tmp_path / "kept.jsonl.ledger", {})):
        result = run(source, "--top", 1, "-o", tmp_path / "kept.jsonl", "--restart")
        assert "another run" in result.stderr
    assert run(source, "--top", 1, "-o", tmp_path / "kept.jsonl", "--restart").exit_code == 0


def test_what_a_killed_write_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".kept.jsonl.99999.partial").write_text("half", encoding="utf-8")
    (tmp_path / ".other.jsonl.99999.partial").write_text("half", encoding="utf-8")
    run(write(tmp_path / "traces.jsonl", traces(2)), "--top", 1, "-o", tmp_path / "kept.jsonl")
    assert [path.name for path in tmp_path.glob(".*partial")] == [".other.jsonl.99999.partial"]


def test_a_rewards_column_of_a_later_row_is_not_overwritten(tmp_path: Path) -> None:
    rows = traces(2)
    rows[2]["rfprm_reward"] = "precious"
    result = run(write(tmp_path / "traces.jsonl", rows), "--top", "100%", "-o", tmp_path / "kept.jsonl")
    assert result.exit_code == 3
    (aside,) = read(tmp_path / "kept.jsonl.aside.jsonl")
    assert "precious" in str(aside["row"])
    result = CliRunner().invoke(
        main, ["score", str(tmp_path / "traces.jsonl"), "--model", "demo", "-o", str(tmp_path / "b.csv")]
    )
    assert "rfprm_reward" in result.stderr


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "problem": pa.array(["What is 1 + 1?"] * 2).dictionary_encode(),
            "response": ["1 + 1 = 2", "1 + 1 = 3"],
            "small": pa.array([1, 2], pa.int8()),
            "half": pa.array([0.5, 1.5], pa.float32()),
            "nothing": pa.array([None, None], pa.string()),
            "at": pa.array([1, 2], pa.timestamp("ms")),
            "pairs": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "traces.parquet")
    for top in ("100%", "1"):
        assert run(tmp_path / "traces.parquet", "--top", top, "-o", tmp_path / "kept.parquet").exit_code == 0
        kept = pq.read_table(tmp_path / "kept.parquet")
        assert kept.select(table.column_names).schema.equals(table.schema)
        assert kept.select(table.column_names).to_pylist() == table.to_pylist()[: len(kept)]
    run(tmp_path / "traces.parquet", "--min-reward", 9, "-o", tmp_path / "kept.parquet")
    assert pq.read_table(tmp_path / "kept.parquet").schema.names[:7] == table.column_names


def test_rewards_of_an_earlier_run_are_not_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "traces.jsonl", traces(2))
    run(source, "--top", 1, "-o", tmp_path / "kept.jsonl")
    result = run(tmp_path / "kept.jsonl", "--top", 1, "-o", tmp_path / "again.jsonl")
    assert "rfprm_final, rfprm_reward, rfprm_step_rewards already" in result.stderr


scored = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8).map(lambda eighth: eighth / 8)), max_size=20)
selections = st.builds(
    lambda top, low, per: Selection.of(top, low, per) if (top, low, per) != (None, None, None) else None,
    st.none() | st.integers(1, 25).map(str) | st.integers(1, 100).map(lambda n: f"{n}%"),
    st.none() | st.integers(0, 8).map(lambda eighth: eighth / 8),
    st.none() | st.integers(1, 3),
).filter(lambda selection: selection is not None)


def brute_force(rows: list[tuple[int, float]], selection: Selection) -> list[int]:
    """The rows that are kept, by the words of `Selection`."""
    best = sorted(range(len(rows)), key=lambda i: (-rows[i][1], i))
    of_problem: dict[int, list[int]] = {}
    for i in best:
        of_problem.setdefault(rows[i][0], []).append(i)
    most = selection.per_problem or len(rows)
    left = [i for i in best if i in of_problem[rows[i][0]][:most]]
    left = [i for i in left if selection.min_reward is None or rows[i][1] >= selection.min_reward]
    if selection.top is not None:
        count = max(math.floor(selection.top * len(rows)), 1) if selection.share else int(selection.top)
        left = left[:count]
    return sorted(left)


@given(scored, selections)
def test_a_selection_keeps_what_it_says(rows: list[tuple[int, float]], selection: Selection) -> None:
    ledger = Ledger(Path(":memory:"), {})
    steps = np.array([0.5, 0.25], np.float32)
    ledger.add(
        [(i, Key.of(problem, i), Scored(reward, 0.5, steps, Usage(7, 3))) for i, (problem, reward) in enumerate(rows)]
    )
    entries = list(ledger.entries(selection))
    assert [entry.row for entry in entries] == list(range(len(rows)))
    assert [entry.row for entry in entries if entry.kept] == brute_force(rows, selection)
    assert all(entry.scored.step_rewards.tolist() == [0.5, 0.25] for entry in entries)
    ledger.close()


def test_no_file_of_bad_rows_is_there_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed then, an empty one would be left."""
    source = write(tmp_path / "traces.jsonl", traces(2, 0))
    written: list[Path] = []
    write_file = writing.write

    def noted(path: Path, *rest: Any) -> int:
        written.append(path)
        return write_file(path, *rest)

    monkeypatch.setattr(writing, "write", noted)
    assert run(source, "--top", 1, "-o", tmp_path / "kept.jsonl").exit_code == 0
    assert written == [tmp_path / "kept.jsonl"]


def test_a_selection_in_words() -> None:
    assert Selection.of("2.5%", None, None).top == Fraction(1, 40)
    assert Selection.of("10%", None, None).limit(25) == 2
    assert Selection.of("1%", None, None).limit(25) == 1
    assert Selection.of("500", None, None).limit(25) == 500
    with pytest.raises(InputError, match="number"):
        Selection(min_reward=float("nan"))


def test_one_run_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", {"model": "a"})
    with pytest.raises(LedgerError, match="another run"):
        Ledger(tmp_path / "ledger", {"model": "a"})
    ledger.close()
    Ledger(tmp_path / "ledger", {"model": "a"}).close()
    with pytest.raises(LedgerError, match="model.* a .* b"):
        Ledger(tmp_path / "ledger", {"model": "b"})
    (tmp_path / "text").write_text("no database" * 100, encoding="utf-8")
    with pytest.raises(LedgerError, match="text"):
        Ledger(tmp_path / "text", {})
    assert os.access(tmp_path / "text", os.R_OK)


def recorded(path: Path, rows: int) -> Ledger:
    """A ledger with so many rows."""
    ledger = Ledger(path, {"model": "a"})
    one = Scored(0.5, -0.0, np.ones(2, np.float32), Usage(3, 1))
    ledger.add([(row, Key.of("p", row), one) for row in range(rows)])
    return ledger


def test_a_ledger_on_a_full_disk_is_named_and_keeps_what_it_has(tmp_path: Path) -> None:
    with closing(recorded(tmp_path / "ledger", 10)) as ledger:
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        one = Scored(0.5, 0.5, np.zeros(999, np.float32), Usage(1, 1))
        with pytest.raises(LedgerError, match=r"ledger can't be used: .*full; what is recorded is not lost"):
            ledger.add([(row, Key.of("p", row), one) for row in range(10, 90)])
        assert [entry.row for entry in ledger.entries(Selection())] == list(range(10))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rewards SET reward = 0.75 WHERE row = 7",
        "UPDATE rewards SET reward = 1 WHERE row = 7",
        "UPDATE rewards SET step_rewards = x'00000000' WHERE row = 7",
        "UPDATE rewards SET step_rewards = 'text' WHERE row = 7",
        "UPDATE rewards SET tokens = 4 WHERE row = 7",
        "UPDATE rewards SET digest = x'00' WHERE row = 7",
    ],
)
def test_a_row_that_the_disk_altered_is_refused(tmp_path: Path, change: str) -> None:
    with closing(recorded(tmp_path / "ledger", 10)) as ledger:
        assert len(list(ledger.entries(Selection()))) == 10
        ledger._database.execute(change)
        with pytest.raises(
            LedgerError, match=r"ledger .* is damaged: (row 7 is not as it was recorded|a row of it holds \(7, )"
        ):
            list(ledger.entries(Selection()))


def test_a_ledger_that_lost_a_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    recorded(path, 500).close()
    content = path.read_bytes()
    path.write_bytes(content[: 5 * 4096] + bytes(4096) + content[6 * 4096 :])
    with pytest.raises(LedgerError, match="ledger .* is damaged"):
        Ledger(path, {"model": "a"})
    path.unlink()
    Ledger(path, {"model": "a"}).close()


def test_a_batch_is_recorded_as_a_whole_or_not_at_all() -> None:
    ledger = Ledger(Path(":memory:"), {})
    one = Scored(0.5, 0.5, np.zeros(1, np.float32), Usage(1, 1))
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.add([(1, Key.of("p", "a"), one), (1, Key.of("p", "b"), one)])
    assert ledger.totals().rows == 0
    ledger.add([(1, Key.of("p", "a"), one)])
    assert ledger.new({1: Key.of("p", "a"), 2: Key.of("p", "b")}) == [2]
    ledger.close()


@pytest.mark.needs("pyarrow")
def test_scored_rows_beside_their_input(tmp_path: Path) -> None:
    """`rfprm score -o` writes the same columns."""
    source = write(tmp_path / "traces.parquet", traces(2))
    result = CliRunner().invoke(main, ["score", str(source), "--model", "demo", "-o", str(tmp_path / "scored.csv")])
    assert result.exit_code == 0, result.output
    assert [row["id"] for row in read(tmp_path / "scored.csv")] == [row["id"] for row in traces(2)]
    assert all(0 <= float(str(row["rfprm_reward"])) <= 2 for row in read(tmp_path / "scored.csv"))


def test_standard_input_and_output(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(row) for row in traces(3))
    command = ["filter", "-", "--model", "demo", "--per-problem", "1", "-o", str(tmp_path / "kept.csv")]
    result = CliRunner().invoke(main, command, input=text)
    assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "kept.csv")) == 3
    assert len(read(tmp_path / "kept.csv.input.jsonl")) == 9
    result = CliRunner().invoke(main, ["score", "--model", "demo", "-o", "-"], input=text)
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [row["id"] for row in traces(3)]
    other = CliRunner().invoke(main, command, input=text[:100])
    assert "earlier run" in other.stderr
    assert CliRunner().invoke(main, [command[0], str(tmp_path / "kept.csv.input.jsonl"), *command[2:]]).exit_code == 0
