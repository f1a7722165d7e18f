"""The command line, as a script sees it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from rfprm_lite import PRM, Aggregate, __version__
from rfprm_lite.cli import main
from rfprm_lite.cli.doctor import package_problems
from rfprm_lite.show.terminal import plain
from rowfiles import write

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."
WRONG = "Tom now has 12 + 5 = 27 apples.\n\nThe answer is 27."

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def call(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=input)

    return call


def test_demo(run: Run) -> None:
    result = run("demo")
    assert result.exit_code == 0
    assert "Mia has 18 stickers" in result.output
    assert "candidate 1  * best" in result.output
    assert "tokens computed" in result.output
    assert "not ReasonFlux-PRM" in " ".join(result.output.split())


def test_too_little_memory_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("rfprm_lite.engine.kv._Arrays.__init__", refuse)
    result = run("score", "--model", "demo", "--problem", PROBLEM, input=RIGHT)
    assert (result.exit_code, result.stderr) == (1, "error: memory is short: Unable to allocate 9 GiB\n")


def test_score_json_lines(run: Run) -> None:
    prm = PRM.from_pretrained("demo")
    rows = [{"problem": PROBLEM, "response": RIGHT, "extra": 1}, {"problem": PROBLEM, "response": WRONG}]
    result = run("score", "--model", "demo", "--json", input="\n\n".join(json.dumps(row) for row in rows))
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line["line"] for line in lines] == [1, 3]
    for line, response in zip(lines, (RIGHT, WRONG), strict=True):
        expected = prm.score(PROBLEM, response)
        assert line["step_rewards"] == pytest.approx(expected.step_rewards.tolist(), abs=1e-6)
        assert line["reward"] == pytest.approx(expected.reward, abs=1e-6)
        assert line["reward_range"] == [0.0, 2.0]
        assert line["aggregate"] == "mean + 1 * last"
    assert lines[1]["tokens"]["reused"] > 0


def test_score_plain_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "response.txt").write_text(RIGHT, encoding="utf-8")
    result = run("score", str(tmp_path / "response.txt"), "--problem", PROBLEM, "--model", "demo", "--aggregate", "min")
    assert result.exit_code == 0
    assert "12 + 5 = 17" in result.output
    assert "min: " in result.output


def test_a_bad_row_loses_none_before_it(run: Run) -> None:
    good = json.dumps({"problem": PROBLEM, "response": RIGHT})
    for bad in (json.dumps({"problem": PROBLEM, "response": " "}), "{"):
        result = run("score", "--model", "demo", "--json", input="\n".join([*[good] * 66, bad, good]))
        assert result.exit_code == 1
        assert "line 67" in result.stderr
        assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == list(range(1, 67))


def test_input_that_is_no_utf_8_is_named_by_its_line(run: Run) -> None:
    good = json.dumps({"problem": PROBLEM, "response": RIGHT}).encode()
    result = CliRunner().invoke(main, ["score", "--model", "demo", "--json"], input=good + b'\n{"problem": "\xff"}\n')
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert json.loads(result.stdout)["line"] == 1
    result = CliRunner().invoke(main, ["score", "--model", "demo", "--problem", "p"], input=b"\xff")
    assert "UTF-8" in result.stderr


def test_a_byte_order_mark_is_no_text(run: Run) -> None:
    rows = [json.dumps({"problem": PROBLEM, "response": RIGHT}).encode(), b"\xef\xbb\xbf"]
    for data, options in ((rows[1] + rows[0], ()), (rows[1] + RIGHT.encode(), ("--problem", PROBLEM))):
        result = CliRunner().invoke(main, ["score", "--model", "demo", "--json", *options], input=data)
        assert json.loads(result.stdout)["steps"][0]["text"] == "Tom now has 12 + 5 = 17 apples."


def test_a_console_that_knows_few_characters(run: Run) -> None:
    row = json.dumps({"problem": "求", "response": "🙂 é"})
    for arguments in (["demo"], ["score", "--model", "demo"], ["score", "--model", "demo", "--json"]):
        result = CliRunner(charset="cp1252").invoke(main, arguments, input=row.encode())
        assert result.exit_code == 0, result.exception


def test_the_last_line_break_of_plain_text_is_not_scored(run: Run) -> None:
    options = ("--problem", PROBLEM, "--model", "demo", "--json")
    assert len({run("score", *options, input=text).output for text in ("a", "a\n")}) == 1


def test_the_final_reward_by_option(run: Run) -> None:
    prm = PRM.from_pretrained("demo")
    options = ("--aggregate", "mean+final", "--alpha", "0.5", "--final", "response")
    result = run("score", "--problem", PROBLEM, "--model", "demo", "--json", *options, input=RIGHT)
    expected = prm.score(PROBLEM, RIGHT, aggregate=Aggregate("mean+final", 0.5, "response"))
    assert json.loads(result.output)["reward"] == pytest.approx(expected.reward, abs=1e-6)
    assert json.loads(result.output)["aggregate"] == "mean + 0.5 * response"


@pytest.mark.needs("pyarrow")
def test_rows_in_every_format_with_columns_by_option(run: Run, tmp_path: Path) -> None:
    rows = [{"q": PROBLEM, "a": RIGHT}, {"q": PROBLEM, "a": WRONG}]
    columns = ("--problem-column", "q", "--response-column", "a", "--model", "demo", "--json")
    found = []
    for suffix in ("jsonl", "csv", "parquet"):
        path = write(tmp_path / f"rows.{suffix}", rows)
        lines = [json.loads(line) for line in run("score", str(path), *columns).output.splitlines()]
        assert [line["problem"] for line in lines] == [PROBLEM, PROBLEM]
        found.append([line["reward"] for line in lines])
        result = CliRunner().invoke(main, ["score", *columns, "--format", suffix], input=path.read_bytes())
        assert [json.loads(line)["reward"] for line in result.output.splitlines()] == found[0]
    assert found[0] == found[1] == found[2]
    assert found[0][0] > found[0][1]
    assert "line 1 has no 'problem'" in run("score", str(tmp_path / "rows.jsonl"), "--model", "demo").stderr
    (tmp_path / "rows.txt").write_text("", encoding="utf-8")
    assert "ends with none of" in run("score", str(tmp_path / "rows.txt"), "--model", "demo").stderr


@pytest.mark.needs("pyarrow")
def test_best_of_n_reads_parquet(run: Run, tmp_path: Path) -> None:
    rows = [{"problem": PROBLEM, "candidates": [WRONG, RIGHT]}]
    path = write(tmp_path / "rows.parquet", rows)
    assert json.loads(run("best-of-n", str(path), "--model", "demo", "--json").output)["index"] == 1


def test_a_conversation_in_the_problems_place(run: Run) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    result = run("score", "--model", "demo", "--json", input=json.dumps({"problem": asked, "response": RIGHT}))
    assert json.loads(result.output)["reward"] == PRM.from_pretrained("demo").score(asked, RIGHT).reward


def all_commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, *names, name)
        else:
            yield (*names, name), command


@pytest.mark.parametrize(("names", "command"), [*all_commands(main)], ids=str)
def test_every_command_has_an_example_and_json(run: Run, names: tuple[str, ...], command: click.Command) -> None:
    assert f"Example: rfprm {' '.join(names)}" in " ".join(run(*names, "--help").output.split())
    assert "--json" in {option for own in command.params for option in own.opts}


def test_demo_json(run: Run) -> None:
    assert json.loads(run("demo", "--json").output)["index"] == 1


def test_completion() -> None:
    words = {"COMP_WORDS": "rfprm filter --per", "COMP_CWORD": "2", "_RFPRM_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", "from rfprm_lite.cli import main; main(prog_name='rfprm')"]
    completed = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=True)
    assert completed.stdout == "plain,--per-problem\n"


def test_scores_are_seen(run: Run, tmp_path: Path) -> None:
    """From rewards to a page."""
    rows = [json.dumps({"problem": PROBLEM, "response": text}) for text in (RIGHT, WRONG)]
    scores = run("score", "--model", "demo", "--json", input="\n".join(rows)).output
    result = run("view", "-", "-o", str(tmp_path / "page.html"), "--json", input=scores)
    assert json.loads(result.output) == {"page": str(tmp_path / "page.html"), "shown": 2, "left_out": 0}
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("Tom has 12 apples") == 1


def test_best_of_n(run: Run, tmp_path: Path) -> None:
    row = json.dumps({"problem": PROBLEM, "candidates": [WRONG, RIGHT.split("\n\n")]})
    result = run("best-of-n", "--model", "demo", "--json", input=row)
    assert result.exit_code == 0
    assert json.loads(result.output)["index"] == 1
    for name, text in (("a", RIGHT), ("b", WRONG)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    result = run("best-of-n", str(tmp_path / "a"), str(tmp_path / "b"), "--problem", PROBLEM, "--model", "demo")
    assert "best: candidate 0" in result.output


@pytest.mark.parametrize("command", [["score"], ["best-of-n"], ["filter", "rows.jsonl", "-o", "kept.jsonl"]])
def test_a_model_has_to_be_named(run: Run, command: list[str]) -> None:
    result = run(*command, input="{}")
    assert result.exit_code == 2
    assert "Missing option '--model'" in result.stderr
    assert "--model demo" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "input", "message"),
    [
        (["score"], "{}", "line 1.*'problem'"),
        (["score"], '{"problem": "p", "response": 3}', "line 1, column 'response': int 3"),
        (["score"], "nonsense", "line 1.*JSON"),
        (["score"], '\n{"problem": "p", "response": ""}', "line 2, column 'response': it has no step"),
        (["score", "--problem", "p", "--aggregate", "mean+final", "--alpha", "-1"], "a", "alpha=-1"),
        (["score", "--problem", "p", "--final", "response"], "<think>a", "response"),
        (["score", "--problem", "p", "--device", "cuda"], "a", "rfprm-lite-gpu"),
        (["best-of-n"], '{"problem": "p", "candidates": []}', "line 1, column 'candidates': no candidates"),
        (["score", "--problem", "p", "--model", "no/such/folder"], "a", "no/such/folder"),
    ],
)
def test_errors_are_a_line_and_exit_code_1(run: Run, arguments: list[str], input: str, message: str) -> None:
    result = run(*arguments, *(() if "--model" in arguments else ("--model", "demo")), input=input)
    assert result.exit_code == 1
    assert not isinstance(result.exception, (ValueError, TypeError))
    assert result.stderr.startswith("error: ")
    assert pytest.raises(AssertionError, match=message).matches(AssertionError(result.stderr))


def test_usage_errors_are_exit_code_2(run: Run) -> None:
    assert run("score", "--threads", "0").exit_code == 2
    assert run("score", "--aggregate", "median").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert run("--version").output.strip().endswith(__version__)


def test_errors_of_plain_text_candidates_name_no_line(run: Run, tmp_path: Path) -> None:
    for problem, candidate, message in ((PROBLEM, " ", "step"), ("", "a", "problem")):
        (tmp_path / "candidate").write_text(candidate, encoding="utf-8")
        result = run("best-of-n", str(tmp_path / "candidate"), "--problem", problem, "--model", "demo")
        assert message in result.stderr
        assert "line" not in result.stderr


def test_doctor(run: Run) -> None:
    result = run("doctor", "--json")
    report = json.loads(result.output)
    assert result.exit_code == bool(report["problems"])
    assert "CPUExecutionProvider" in report["providers"]
    assert report["packages"]["rfprm-lite"] == __version__
    assert "int8 kernels" in run("doctor").output


def test_doctor_knows_wheels_that_clash() -> None:
    assert package_problems({"onnxruntime": "1.32.0"}) == []
    (clash,) = package_problems({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    assert "onnxruntime and onnxruntime-gpu are both installed" in clash
    assert package_problems({"onnxruntime": "1.24.2"}) == []
    assert all(package_problems({"onnxruntime": version}) for version in ("1.23.2", "1.24.1"))


def test_doctor_survives_a_broken_onnxruntime(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("onnxruntime.get_available_providers")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert "onnxruntime" in "".join(json.loads(result.output)["problems"])


def test_a_candidate_can_not_drive_the_terminal(run: Run) -> None:
    assert plain("a\x1b[31mb\u202e[bold]").plain == "a\\x1b[31mb\\x202e[bold]"
    result = run("score", "--problem", PROBLEM, "--model", "demo", input="[red]x[/red] \x1b]0;title\x07")
    assert "[red]x[/red]" in result.output
    assert "\x1b]" not in result.output


def test_a_bundles_recipe_is_shown_for_people(run: Run) -> None:
    shown = run("models", "show", "demo").stdout
    assert "reward        0 to 1, good above 0.5\n" in shown
    assert (
        "<|im_start|>assistant\n3 * 4 = 12.<extra_0>⟦1⟧2 + 12 = 14.<extra_0>⟦2⟧The answer is 14.<extra_0>⟦3⟧\n" in shown
    )
    assert json.loads(run("models", "show", "demo", "--json").stdout)["expect"] == "<extra_0>"
