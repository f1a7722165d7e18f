"""The command line, as a script sees it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result
from huggingface_hub.errors import LocalTokenNotFoundError

from checkpoints import DEMO_CHECKPOINT
from conftest import EXPORT, Exported
from hub_server import serve_as_the_hub
from rfprm_export.cli import main as export_main
from rfprm_export.families.recipes import RECIPES
from rfprm_export.pipeline import Request, plan
from rfprm_lite import PRM, Aggregate, __version__
from rfprm_lite.cli import examine, main
from rfprm_lite.data import tables
from rfprm_lite.show.terminal import plain

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


def test_score_json_lines(run: Run) -> None:
    prm = PRM.from_pretrained("demo")
    rows = [{"problem": PROBLEM, "response": RIGHT, "extra": 1}, {"problem": PROBLEM, "response": WRONG.split("\n\n")}]
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
    assert "line 2 is no JSON" in result.stderr
    assert json.loads(result.stdout)["line"] == 1
    result = CliRunner().invoke(main, ["score", "--model", "demo", "--problem", "p"], input=b"\xff")
    assert "is no UTF-8 text" in result.stderr


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


def test_rows_in_every_format_with_columns_by_option(run: Run, tmp_path: Path) -> None:
    rows = [{"q": PROBLEM, "a": RIGHT}, {"q": PROBLEM, "a": WRONG}]
    columns = ("--problem-column", "q", "--response-column", "a", "--model", "demo", "--json")
    found = []
    for suffix in ("jsonl", "csv", "parquet"):
        tables.write(path := tmp_path / f"rows.{suffix}", lambda: rows, tables.format_of(path))
        lines = [json.loads(line) for line in run("score", str(path), *columns).output.splitlines()]
        assert [line["problem"] for line in lines] == [PROBLEM, PROBLEM]
        found.append([line["reward"] for line in lines])
        result = CliRunner().invoke(main, ["score", *columns, "--format", suffix], input=path.read_bytes())
        assert [json.loads(line)["reward"] for line in result.output.splitlines()] == found[0]
    assert found[0] == found[1] == found[2]
    assert found[0][0] > found[0][1]
    assert "line 1 has no 'problem'" in run("score", str(tmp_path / "rows.jsonl")).stderr
    (tmp_path / "rows.txt").write_text("", encoding="utf-8")
    assert "ends with none of" in run("score", str(tmp_path / "rows.txt")).stderr


def test_best_of_n_reads_parquet(run: Run, tmp_path: Path) -> None:
    rows = [{"problem": PROBLEM, "candidates": [WRONG, RIGHT]}]
    tables.write(path := tmp_path / "rows.parquet", lambda: rows, "parquet")
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
    assert "--json" in {option for own in command.params for option in own.opts} or names == ("completion",)


def test_demo_json(run: Run) -> None:
    assert json.loads(run("demo", "--json").output)["index"] == 1


def test_completion(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_RFPRM_COMPLETE" in run("completion", shell).output
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


def test_the_demo_model_says_so_where_nobody_named_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run("score", "--problem", PROBLEM, input=RIGHT)
    assert "not ReasonFlux-PRM" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "input", "message"),
    [
        (["score"], "{}", "line 1 has no 'problem' and no 'response': it has nothing"),
        (["score"], '{"problem": "p", "response": 3}', "line 1 .*Expected `str | array`, got `int`"),
        (["score"], "nonsense", "line 1 is no JSON"),
        (["score"], '\n{"problem": "p", "response": ""}', r"no step.*markers \(line 2\)$"),
        (["score", "--problem", "p", "--aggregate", "mean+final", "--alpha", "-1"], "a", "alpha=-1"),
        (["score", "--problem", "p", "--final", "response"], "<think>a", "needs a response"),
        (["score", "--problem", "p", "--device", "cuda"], "a", "install rfprm-lite-gpu"),
        (["best-of-n"], '{"problem": "p", "candidates": []}', "no candidates.*line 1"),
        (["score", "--problem", "p", "--model", "no/such/folder"], "a", "neither a folder nor a hub id"),
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
    for problem, candidate, message in ((PROBLEM, " ", "no step"), ("", "a", "problem is empty")):
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
    assert "cached models" in run("doctor").output


def test_doctor_knows_wheels_that_clash() -> None:
    assert examine.problems({"onnxruntime": "1.32.0"}) == []
    (clash,) = examine.problems({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    assert "onnxruntime and onnxruntime-gpu are both installed" in clash
    assert examine.problems({"onnxruntime": "1.24.1"})


def test_doctor_survives_a_broken_onnxruntime(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("onnxruntime.get_available_providers")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert "onnxruntime does not work" in "".join(json.loads(result.output)["problems"])


def test_a_candidate_can_not_drive_the_terminal(run: Run) -> None:
    assert plain("a\x1b[31mb\u202e[bold]").plain == "a\\x1b[31mb\\x202e[bold]"
    result = run("score", "--problem", PROBLEM, "--model", "demo", input="[red]x[/red] \x1b]0;title\x07")
    assert "[red]x[/red]" in result.output
    assert "\x1b]" not in result.output


def test_the_exporters_command(tmp_path: Path) -> None:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(export_main, list(arguments))

    result = call(str(DEMO_CHECKPOINT), str(tmp_path / "bundle"), "--recipe", "reasonflux-prm-7b")
    assert result.exit_code == 0
    manifest = PRM.from_pretrained(tmp_path / "bundle").manifest
    assert manifest.source.name == "demo-prm"
    assert result.stdout.strip() == f"{tmp_path / 'bundle'}: {', '.join(v.name for v in manifest.variants)}"
    assert {v.name for v in manifest.variants} == {"fp32", "int8", "fp16", "int4"}
    result = call(str(DEMO_CHECKPOINT), str(tmp_path / "other"))
    assert result.exit_code == 1
    assert "--recipe reasonflux-prm-7b or --recipe qwen2.5-math-prm" in result.stderr


def test_a_dry_run_shows_tensors_and_bytes(tmp_path: Path) -> None:
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "int8", "--dry-run"]
    result = CliRunner().invoke(export_main, ["export", str(DEMO_CHECKPOINT), str(tmp_path / "bundle"), *options])
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if "int8" in line]
    (variant,) = plan(Request(str(DEMO_CHECKPOINT), tmp_path / "b", "reasonflux-prm-7b", variants=["int8"])).variants
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["int8", str(variant.tensors), f"{variant.bytes:,}"]
    assert not (tmp_path / "bundle").exists()


def test_recipes_are_listed() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(export_main, ["recipes"])
    assert result.exit_code == 0
    for recipe in RECIPES:
        (row,) = [line for line in result.stdout.splitlines() if f" {recipe.recipe.name} " in line]
        assert recipe.architecture in row
        assert recipe.recipe.aggregate.name in row


def start_export(tmp_path: Path, *before: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The command, when it has begun to write; and where it will put the bundle."""
    output = tmp_path / "out" / "bundle"
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "fp32", "--traces", "2"]
    process = subprocess.Popen(
        [*before, *EXPORT, str(DEMO_CHECKPOINT), str(output), *options], stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("out/.bundle.*.partial")):
        assert process.poll() is None
        time.sleep(0.02)
    return process, output


@pytest.mark.parametrize(("ending", "codes"), [(signal.SIGTERM, [143]), (signal.SIGINT, [1])])
def test_an_export_that_is_ended_leaves_nothing(tmp_path: Path, ending: signal.Signals, codes: list[int]) -> None:
    process, output = start_export(tmp_path)
    with process:
        process.send_signal(ending)
        if ending is signal.SIGTERM:
            process.send_signal(ending)  # the first may be under way: nothing disturbs its cleaning up
        assert process.wait(60) in codes
    assert list(output.parent.iterdir()) == []


def test_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    process, output = start_export(tmp_path, "nohup")
    with process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    assert PRM.from_pretrained(output).variant.name == "fp32"


def test_a_disk_that_does_not_take_it_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of a file stands for a full disk: writing fails by the same kind of error."""
    output = tmp_path / "out" / "bundle"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    command = [sys.executable, "-c", f"{limited}; from rfprm_export.cli import main; main()"]
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "fp32", "--traces", "1"]
    ended = subprocess.run(
        [*command, str(DEMO_CHECKPOINT), str(output), *options], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "error: [Errno 27] File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(output.parent.iterdir()) == []


class Hub:
    """Stands in for huggingface-hub's client, and remembers what it was asked."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.calls: list[tuple[str, list[str]]] = []

    def create_repo(self, repository: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        if self.refuses == "create":
            raise LocalTokenNotFoundError("no token")
        assert (repo_type, private, exist_ok) == ("model", True, True)
        self.calls.append((repository, []))

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> SimpleNamespace:
        if self.refuses == "upload":
            raise type("ConnectError", (Exception,), {})  # httpx's is no OSError, and has no words of its own
        self.calls.append((repo_id, sorted(p.relative_to(folder_path).as_posix() for p in folder_path.rglob("*.*"))))
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


@pytest.mark.parametrize(
    ("refuses", "left", "said"),
    [
        ("", True, "hub.example/me/mine"),
        ("create", False, "does not let you write me/mine: no token"),
        ("upload", True, "is complete, but the hub did not take it: ConnectError"),
    ],
)
def test_a_bundle_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str, left: bool, said: str
) -> None:
    hub, bundle = Hub(refuses), tmp_path / "bundle"
    monkeypatch.setattr("rfprm_export.hub.HfApi", lambda: hub)
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "fp32", "--push-to-hub", "me/mine", "--private"]
    result = CliRunner().invoke(export_main, [str(DEMO_CHECKPOINT), str(bundle), *options])
    assert said in result.output
    assert result.exit_code == (1 if refuses else 0)
    assert bundle.exists() == left
    if not refuses:
        files = [
            "README.md",
            "fp32/model.onnx",
            "fp32/model.onnx.data",
            "manifest.json",
            "parity.json",
            "tokenizer.json",
        ]
        assert hub.calls == [("me/mine", []), ("me/mine", files)]


def test_a_hub_that_is_not_there_costs_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_as_the_hub(monkeypatch) as hub:
        hub.down = True
        options = ["--recipe", "reasonflux-prm-7b", "--push-to-hub", "me/mine"]
        result = CliRunner().invoke(export_main, [str(DEMO_CHECKPOINT), str(tmp_path / "bundle"), *options])
    assert result.exit_code == 1
    assert result.output.startswith("error: me/mine could not be made on the hub:")
    assert not (tmp_path / "bundle").exists()


def test_verify_measures_a_bundle_again(exported: Callable[[str], Exported]) -> None:
    made, other = exported("reasonflux-prm-7b"), exported("qwen2.5-math-prm")

    def verify(reference: Path) -> Result:
        return CliRunner().invoke(export_main, ["verify", str(made.bundle), "--reference", str(reference)])

    result = verify(made.checkpoint)
    assert "fp32" in result.stdout
    assert result.exit_code == (1 if "where" in result.stdout else 0)
    wrong = verify(DEMO_CHECKPOINT)
    assert wrong.exit_code == 1
    assert "is allowed" in " ".join(wrong.stdout.split()) or "where" in wrong.stdout
    refused = verify(other.checkpoint.parent)
    assert refused.exit_code == 1
    assert "config.json is missing" in refused.stderr
    command = ["verify", str(made.checkpoint), "--reference", str(made.checkpoint)]
    no_bundle = CliRunner().invoke(export_main, command)
    assert no_bundle.exit_code == 1
    assert "has no manifest.json: it is no bundle" in no_bundle.stderr
