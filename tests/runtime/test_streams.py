"""Input that can be read once, and output that can't be written: what a shell gives and takes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rfprm_lite.data import files
from rfprm_lite.data.source import Source
from rfprm_lite.data.spool import spooled
from rowfiles import read, write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell's")

COMMAND = [sys.executable, "-c", "from rfprm_lite.cli import main; main(prog_name='rfprm')"]
ROWS: list[dict[str, object]] = [
    {"problem": f"What is {i} + 5?", "response": f"{i} + 5 = {i + 5}\n\nThe answer is {i + 5}."} for i in range(10, 90)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    return tmp_path


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `rfprm` is this one."""
    function = "rfprm() { " + " ".join(f'"{word}"' for word in COMMAND) + ' "$@"; }\n'
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run(
        ["bash", "-c", function + line], check=False, capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.mark.parametrize(
    "line",
    [
        "rfprm filter <(cat rows.jsonl) --model demo -o kept.jsonl",
        "rfprm filter <(zcat rows.jsonl.gz) --format jsonl --top 100% --model demo -o kept.jsonl",
        "rfprm filter <(cat rows.jsonl.gz) --model demo -o kept.jsonl",
        "cat rows.jsonl.gz | rfprm filter - --model demo -o kept.jsonl",
        "cat rows.json | rfprm filter /dev/stdin --model demo -o kept.jsonl",
        "rfprm filter - --model demo -o kept.jsonl < rows.jsonl",
        "rfprm filter /dev/fd/5 --model demo -o kept.jsonl 5< rows.jsonl",
        "mkfifo pipe; cat rows.jsonl > pipe & rfprm filter pipe --model demo -o kept.jsonl",
        "rfprm filter <(head -30 rows.jsonl) <(tail -50 rows.jsonl) --model demo -o kept.jsonl",
        "rfprm score <(cat rows.jsonl.gz) --model demo -o kept.jsonl",
        "cat rows.json | rfprm score --model demo -o - > kept.jsonl",
    ],
)
def test_a_stream_is_read_once_and_whole(folder: Path, line: str) -> None:
    done = shell(folder, line)
    assert done.returncode == 0, done.stderr
    assert [row["problem"] for row in read(folder / "kept.jsonl")] == [row["problem"] for row in ROWS]
    assert not list(folder.glob(".*"))


def test_a_stream_is_on_the_disk_before_rewards_of_it_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can give it again after a power cut."""
    done: list[tuple[str, Path]] = []
    rename = Path.replace
    monkeypatch.setattr(files, "to_disk", lambda path: done.append(("to disk", path)))

    def replace(path: Path, name: Path) -> Path:
        done.append(("named", path))
        return rename(path, name)

    monkeypatch.setattr(Path, "replace", replace)
    os.mkfifo(tmp_path / "pipe")
    feeding = threading.Thread(target=(tmp_path / "pipe").write_text, args=(LINES,))
    feeding.start()
    with spooled(Source((tmp_path / "pipe",), "jsonl"), tmp_path / "kept.jsonl", restart=False) as spool:
        spool.keep()
    feeding.join()
    (synced, part), (named, same) = done
    assert (synced, named) == ("to disk", "named")
    assert part == same


def test_what_was_kept_of_a_stream_is_where_the_next_run_goes_on(folder: Path) -> None:
    line = "rfprm filter <(cat rows.jsonl) --model demo -o kept.jsonl"
    assert shell(folder, line).returncode == 0
    again = shell(folder, line)
    assert (again.returncode, "kept.jsonl.input.jsonl is there from an earlier run" in again.stderr) == (1, True)
    done = shell(folder, "rfprm filter kept.jsonl.input.jsonl --top 1 --model demo -o kept.jsonl --json")
    assert json.loads(done.stdout)["kept"] == 1
    assert shell(folder, f"{line} --restart").returncode == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rfprm filter <(true) --model demo -o kept.jsonl", "there is no row in /dev/fd/"),
        ("rfprm filter - --model demo -o kept.jsonl < /dev/null", "there is no row in standard input"),
        ("rfprm score --model demo --json < /dev/null", "there is no row in standard input"),
        ("printf '\\n \\n' | rfprm best-of-n --model demo", "there is no row in standard input"),
        ("rfprm filter /dev/zero --format jsonl --model demo -o kept.jsonl", "/dev/zero is a device"),
        ("rfprm filter rows.jsonl rows.jsonl --model demo -o kept.jsonl", "rows.jsonl is named twice"),
        ("rfprm filter . --model demo -o kept.jsonl", "kept.jsonl is in the folder ., which is read"),
        ("rfprm score . --model demo -o scored.csv", "scored.csv is in the folder ., which is read"),
        ("rfprm filter none --model demo -o kept.jsonl", "none can't be read: No such file"),
        ("rfprm score rows.jsonl --model demo -o rows.jsonl", "rows.jsonl is the input"),
        ("head -c 500 rows.jsonl.gz | rfprm filter - --model demo -o kept.jsonl", "damaged or cut off"),
    ],
)
def test_what_can_not_be_read_leaves_nothing_behind(folder: Path, line: str, message: str) -> None:
    before = sorted(folder.iterdir())
    done = shell(folder, line)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_selection_that_keeps_nothing_is_no_success(folder: Path) -> None:
    done = shell(folder, "rfprm filter rows.jsonl --min-reward 9 --model demo -o kept.jsonl")
    assert done.returncode == 3
    assert "no row is kept" in done.stderr
    done = shell(folder, "rfprm filter rows.jsonl --model demo -o kept.jsonl --json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["kept"] == len(ROWS)
    assert "every row is kept: --top" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "line",
    [
        "rfprm --help",
        "rfprm demo",
        "rfprm score rows.jsonl --model demo --json",
        "rfprm score rows.jsonl --model demo -o -",
        "echo 12 | rfprm best-of-n --problem 7+5 --model demo",
        "rfprm filter rows.jsonl --model demo -o kept.jsonl --json",
        "rfprm score rows.jsonl --model demo --json > scores; rfprm view scores -o -",
    ],
)
def test_a_full_standard_output_is_one_line(folder: Path, line: str) -> None:
    for unbuffered in ("", "1") if "--json" in line else ("",):
        done = shell(folder, f"export PYTHONUNBUFFERED={unbuffered}; {line} > /dev/full")
        assert done.returncode == 1
        assert done.stderr == "error: standard output can't be written: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_half_a_line_on_standard_output_is_an_error(folder: Path, unbuffered: str) -> None:
    """A file that may have 1 KiB takes the first part of a longer line, without an error."""
    write(folder / "long.jsonl", [{"problem": "What is 3 + 4?", "response": "3 + 4 = 7. " * 200}])
    done = shell(
        folder,
        f"export PYTHONUNBUFFERED={unbuffered}; ulimit -f 1; rfprm score long.jsonl --model demo --json > scores",
    )
    assert done.returncode == 1
    assert done.stderr == "error: standard output can't be written: File too large\n"


@pytest.mark.parametrize("line", ["rfprm score rows.jsonl --model demo --json", "rfprm --help", "rfprm demo"])
def test_a_reader_that_has_enough_is_no_error(folder: Path, line: str) -> None:
    for unbuffered in ("", "1"):
        done = shell(folder, f"export PYTHONUNBUFFERED={unbuffered}; {line} | head -1")
        assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")


def test_a_closed_standard_output_is_no_traceback(folder: Path) -> None:
    assert "Traceback" not in shell(folder, "rfprm demo >&-").stderr


def test_a_pipe_is_written_to_and_not_replaced(folder: Path) -> None:
    done = shell(
        folder, "mkfifo out.jsonl; cat out.jsonl > copy & rfprm score rows.jsonl --model demo -o out.jsonl; wait"
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "out.jsonl").is_fifo()
    assert len((folder / "copy").read_text(encoding="utf-8").splitlines()) == len(ROWS)


@pytest.mark.needs("pyarrow")
def test_a_folder_of_shards(folder: Path) -> None:
    (folder / "shards").mkdir()
    for i in range(4):
        write(folder / "shards" / f"{i}.jsonl.zst", ROWS[i * 20 : i * 20 + 20])
    done = shell(folder, "rfprm filter shards --top 10 --rewards all.parquet --model demo -o kept.jsonl.gz --json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scored"] == len(ROWS)
    assert len(read(folder / "kept.jsonl.gz")) == 10
    assert [row["problem"] for row in read(folder / "all.parquet")] == [row["problem"] for row in ROWS]
    write(folder / "shards" / "4.jsonl.zst", [{"problem": "p"}, {"problem": "What is 1 + 1?", "response": "2"}])
    done = shell(folder, "rfprm filter shards --top 10 --rewards all.parquet --model demo -o kept.jsonl.gz --json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["scored"] == len(ROWS) + 1
    (aside,) = read(folder / "kept.jsonl.gz.aside.jsonl")
    assert (aside["file"], aside["line"]) == ("shards/4.jsonl.zst", 1)
    assert "line 1 of shards/4.jsonl.zst has no 'response'" in aside["error"]


def test_single_long_steps_are_spoken_of(folder: Path) -> None:
    lines = "\n".join(f"{i} + 5 = {i + 5}" for i in range(100))
    rows = [
        {"problem": f"Add 5, {i} times.", "response": lines if i % 2 else lines.replace("\n", "\n\n")} for i in range(4)
    ]
    write(folder / "long.jsonl", rows)
    said = "2 of 4 traces are a single step of over 400 tokens"
    for line in ("filter long.jsonl -o kept.jsonl", "score long.jsonl -o scored.jsonl", "score long.jsonl --json"):
        done = shell(folder, f"rfprm {line} --model demo")
        assert said in done.stderr
        assert "--step-separator lines" in done.stderr
    done = shell(folder, "rfprm filter long.jsonl -o other.jsonl --step-separator lines --model demo")
    assert "single step" not in done.stderr
    assert {len(row["rfprm_step_rewards"]) for row in read(folder / "other.jsonl")} == {100}
    done = shell(folder, "rfprm filter long.jsonl -o kept.jsonl --step-separator lines --model demo")
    assert (done.returncode, "another run" in done.stderr) == (1, True)
