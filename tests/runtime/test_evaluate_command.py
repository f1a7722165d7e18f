"""`rfprm evaluate`, as a person and a script use it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hub_server import Repository, serve_as_the_hub
from rfprm_lite import PRM
from rfprm_lite.cli import main
from rfprm_lite.data.ledger import Ledger
from rfprm_lite.evaluate.sets import SETS, parts_of
from rfprm_lite.options import LoadOptions
from test_page import CONTENT, HOSTILE, STRUCTURE, Parsed

POOLS = Path(__file__).parent / "data" / "strictprm_pools.jsonl"
NAMED = ("--problem-column", "question", "--scores-column", "qwen_prm_step_scores", "--correct-column", "is_correct")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def report(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def apples(path: Path, count: int, **more: object) -> Path:
    """First errors of the demo's domain: right and wrong additions by turns."""
    rows = []
    for i in range(count):
        a, slip = 11 + i // 2, (i % 2) * 10
        steps = [f"Tom now has {a} + {a + 3} = {2 * a + 3 + slip} apples.", f"The answer is {2 * a + 3 + slip}."]
        problem = f"Tom has {a} apples. He buys {a + 3} more. How many apples does Tom have now?"
        rows.append({"problem": problem, "steps": steps, "label": 0 if slip else -1, **more})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_scores_that_a_file_has() -> None:
    found = report(POOLS, "--kind", "pools", *NAMED)
    (pools,) = found["sets"].values()
    assert list(pools["best_of_n"]) == ["1", "2", "4", "8", "16", "32"]
    assert {"random", "oracle", "min", "mean", "product", "last", "mean+final"} <= set(pools["best_of_n"]["32"])
    low, high = pools["intervals"]["best_of_n"]["32"]["min"]
    assert low <= pools["best_of_n"]["32"]["min"] <= high
    assert pools["rows"] == pools["problems"] == 16
    assert pools["bad_rows"] == []


def test_the_demo_at_once(no_network: list[object]) -> None:
    found = report("demo", "--model", "demo")
    assert list(found["sets"]) == ["demo:first-errors", "demo:pools"]
    assert found["sets"]["demo:first-errors"]["processbench"]["f1"] > 0.95
    best = found["sets"]["demo:pools"]["best_of_n"]["8"]
    assert best["random"] < 0.6 < 0.9 < best["mean+final"] <= best["oracle"]
    assert best["majority"] > best["random"]
    tokens = found["sets"]["demo:pools"]["tokens"]
    assert tokens["reused"] / tokens["total"] > 0.5
    assert found["sets"]["demo:pools"]["seconds"] > 0
    assert not no_network


def test_the_terminal_says_it_in_tables(tmp_path: Path) -> None:
    output = run(apples(tmp_path / "apples.jsonl", 6), "--model", "demo").output
    assert re.search(r"processbench f1 +\d", output)
    assert "6 rows of 3 problems, 6 traces" in output
    assert "threshold 0.5" in output


def test_a_report_and_its_scores_again(tmp_path: Path) -> None:
    """What -o writes as rewards, --scores reads: the same numbers without a model."""
    source, folder = apples(tmp_path / "apples.jsonl", 8), tmp_path / "report"
    found = report(source, "demo:pools", "--limit", 8, "--model", "demo", "-o", folder)
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert written == found
    assert "| processbench f1 |" in (folder / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in folder.glob("figures/*.svg")} == {
        "apples-reliability.svg",
        "demo-pools-best-of-n.svg",
    }
    again = report(source, "demo:pools", "--limit", 8, "--scores", folder / "rewards" / "demo-prm-int8")
    for name in ("apples", "demo:pools"):
        mine, theirs = found["sets"][name], again["sets"][name]
        for kind in ("processbench", "steps"):
            assert mine.get(kind) == theirs.get(kind), (name, kind)
        if "best_of_n" in mine:
            assert mine["best_of_n"]["8"]["min"] == theirs["best_of_n"]["8"]["min"]


def test_two_judges(tmp_path: Path) -> None:
    source, folder = apples(tmp_path / "apples.jsonl", 4), tmp_path / "report"
    lines = [{"scores": [0.9, 0.9]}] * 4
    scores = tmp_path / "always.jsonl"
    scores.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    found = report(source, "--model", "demo", "--scores", scores, "-o", folder)
    (compared,) = found["comparisons"]
    assert (compared["judge"], compared["against"], compared["rows"]) == ("demo-prm int8", "always", 4)
    assert found["against"]["always"]["sets"]["apples"]["processbench"]["right"] == 1
    assert [parted["row"] for parted in compared["parted"]] == [2, 4]
    assert compared["sentence"].startswith("apples: demo-prm int8 gains 100.0 ± ")
    output = run(source, "--model", "demo", "--scores", scores, "-o", folder).output
    assert compared["sentence"] in " ".join(output.split())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "part on 2 of 4 rows" in page
    assert "finds step 1 (step 1 is wrong)" in page


def test_a_hostile_text_stays_text_on_the_page(tmp_path: Path) -> None:
    steps = ["a", *HOSTILE]
    row = {"problem": HOSTILE[0], "steps": steps, "label": 1, "scores": [0.9, 0.1, 0.9, 0.9]}
    source, other = tmp_path / "a|b.jsonl", tmp_path / "o.jsonl"
    source.write_text(json.dumps(row), encoding="utf-8")
    other.write_text(json.dumps({"scores": [0.9] * 4}), encoding="utf-8")
    assert run(source, "--scores", other, "--scores-column", "scores", "-o", tmp_path / "r").exit_code == 0
    page = Parsed((tmp_path / "r" / "report.html").read_text(encoding="utf-8"))
    allowed = STRUCTURE | CONTENT | {"table", "thead", "tbody", "tr", "th", "td", "text"}
    assert {tag for tag, _ in page.tags} <= allowed - {"script"}
    assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]


def test_bad_rows_are_told_and_counted(tmp_path: Path) -> None:
    source = apples(tmp_path / "apples.jsonl", 4)
    too_long = {"problem": "p", "steps": ["1 + 1 = 2 " * 2000], "label": -1}
    with source.open("a", encoding="utf-8") as file:
        file.write(f"nonsense\n{json.dumps(too_long)}\n")
    result = run(source, "--model", "demo", "--json")
    assert result.exit_code == 3
    (found,) = json.loads(result.stdout)["sets"].values()
    assert found["rows"] == 4
    assert [bad["row"] for bad in found["bad_rows"]] == [5, 6]
    assert "no JSON" in found["bad_rows"][0]["error"]
    assert "tokens" in found["bad_rows"][1]["error"]
    assert "row 6: candidate 0: the text has" in result.stderr


def test_a_threshold_of_another_set(tmp_path: Path) -> None:
    one, other = apples(tmp_path / "one.jsonl", 4), apples(tmp_path / "other.jsonl", 6)
    found = report(one, other, "--model", "demo", "--threshold-from", "one")
    assert found["sets"]["one"]["threshold"] == 0.5
    assert found["sets"]["one"]["threshold_chosen_on"] is None
    assert found["sets"]["other"]["threshold_chosen_on"] == "one"
    assert report(one, "--model", "demo", "--threshold", "1.01")["sets"]["one"]["processbench"]["right"] == 0


def test_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted behind the first batch, it scores the rest alone; the numbers are those of one run."""
    source, folder = apples(tmp_path / "apples.jsonl", 100), tmp_path / "report"
    whole = report(source, "--model", "demo")["sets"]["apples"]
    add = Ledger.add

    def stop(self: Ledger, scores: Any) -> None:
        add(self, scores)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "add", stop)
        result = run(source, "--model", "demo", "-o", folder)
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
    found = report(source, "--model", "demo", "-o", folder)["sets"]["apples"]
    assert found["traces_scored_now"] == 100 - 64
    assert found["processbench"] == whole["processbench"]
    assert found["steps"]["auc"] == pytest.approx(whole["steps"]["auc"])
    assert report(source, "--model", "demo", "-o", folder)["sets"]["apples"]["traces_scored_now"] == 0
    assert report(source, "--model", "demo", "-o", folder, "--restart")["sets"]["apples"]["traces_scored_now"] == 100
    source.write_text(source.read_text(encoding="utf-8").replace("Tom has 11", "Tom has 12"), encoding="utf-8")
    assert "is not what it was" in run(source, "--model", "demo", "-o", folder).stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    source, folder = apples(tmp_path / "apples.jsonl", 2000), tmp_path / "report"
    command = [sys.executable, "-c", "from rfprm_lite.cli import main; main()", "evaluate", str(source)]
    command += ["--model", "demo", "-o", str(folder), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    ledger = folder / "ledgers" / "apples-demo-prm-int8.ledger-wal"
    until = time.monotonic() + 60
    while not (ledger.is_file() and ledger.stat().st_size > 50_000):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.communicate()
    found = report(source, "--model", "demo", "-o", folder)["sets"]["apples"]
    assert 0 < found["traces_scored_now"] < 2000
    assert found["rows"] == 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/set"], "is no file here, none of the known sets"),
        (["math500"], "give them as math500=FILE"),
        (["math500=no/such/file"], "there is no file no/such/file"),
        (["demo:nonsense"], "has first-errors, pools"),
        (["demo"], "Name a judge"),
        (["demo:pools", "--scores", str(POOLS), "--limit", "3"], "no row of demo:pools has scores that fit"),
        (["demo", "--scores", str(POOLS)], "one file for 2 sets"),
        (["demo", "--model", "demo", "--variant", "int9"], "no variant 'int9'"),
        (["demo", "--model", "demo", "--threshold-from", "demo:pools"], "there are demo:first-errors"),
    ],
)
def test_errors_are_a_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_a_known_sets_form_and_grader(tmp_path: Path) -> None:
    rows = [{"problem": "p", "candidates": ["answer: A", "answer: B"], "answer": "A", "scores": [[0.9], [0.1]]}]
    (tmp_path / "mine.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    found = report(f"gpqa-diamond={tmp_path / 'mine.jsonl'}")["sets"]["gpqa-diamond"]
    assert found["best_of_n"]["2"]["min"] == 1
    assert "CC-BY-4.0" in found["source"]


def test_every_known_set_is_pinned_and_has_a_licence() -> None:
    for name, known in SETS.items():
        assert known.licence, name
        assert (known.repo is None) == (known.commit is None), name
        assert known.commit is None or re.fullmatch(r"[0-9a-f]{40}", known.commit), name
        assert all(one.source and one.numbers for one in known.published), name


def test_a_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts at the pinned commit, the average over them, and published numbers beside it."""
    folder = tmp_path / "hub"
    folder.mkdir()
    rows = [json.loads(line) for line in apples(tmp_path / "rows.jsonl", 4).read_text(encoding="utf-8").splitlines()]
    for part, file in SETS["processbench"].parts.items():
        (folder / file).write_text(json.dumps(rows), encoding="utf-8")
        assert part
    commit, cache = str(SETS["processbench"].commit), tmp_path / "cache"
    options = ("--model", "demo", "--cache-dir", cache)
    with serve_as_the_hub(monkeypatch) as hub:
        hub.repositories["Qwen/ProcessBench"] = Repository({commit: folder}, {"main": commit})
        found = report("processbench", *options)
        assert list(found["sets"]) == [f"processbench:{name}" for name in SETS["processbench"].parts]
        assert commit in found["sets"]["processbench:math"]["source"]
        values = [one["processbench"]["f1"] for one in found["sets"].values()]
        assert found["averages"] == {"processbench": pytest.approx(sum(values) / 4)}
        assert found["published"]["processbench:math"][0]["numbers"]["average"] == 56.5
        (unpinned,) = parts_of("Qwen/ProcessBench:math.json", LoadOptions(cache_dir=cache))
        assert commit in unpinned.source
        hub.requests.clear()
        parts_of("processbench", LoadOptions(cache_dir=cache))
        assert hub.requests == []  # a commit's file is in the cache
        assert "has no file none.json" in run("Qwen/ProcessBench@main:none.json", *options).stderr
        assert "has no no/repository" in run("no/repository:a.json", *options).stderr
    assert run("processbench", *options, "--local-files-only").exit_code == 0
    missing = run("prmbench", *options, "--local-files-only").stderr
    assert "prmbench_preview.jsonl of hitsmy/PRMBench_Preview" in missing
    assert "is not in the local cache" in missing


def test_the_judge_is_as_good_in_python(prm: PRM) -> None:
    from rfprm_lite.evaluate import evaluate, read

    (part, _) = parts_of("demo", LoadOptions())
    found = evaluate(prm, read(part.path, limit=20))
    assert found.value("processbench", "f1") == pytest.approx(
        report("demo:first-errors", "--model", "demo", "--limit", 20)["sets"]["demo:first-errors"]["processbench"]["f1"]
    )
