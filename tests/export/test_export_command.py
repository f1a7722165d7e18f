"""The exporter's command line: what it prints, its exit codes, and what it leaves behind however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from huggingface_hub.errors import LocalTokenNotFoundError

from checkpoints import DEMO_CHECKPOINT
from exporting import EXPORT, Exported
from hub_server import serve_as_the_hub
from rfprm_export.cli import main as export_main
from rfprm_export.families.family import Family
from rfprm_export.families.options import family_from
from rfprm_export.families.recipes import FAMILIES
from rfprm_export.pipeline import Request, plan
from rfprm_lite import PRM


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


def test_an_evaluation_goes_into_the_card(tmp_path: Path) -> None:
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "int8,fp32", "--evaluate", "demo:first-errors"]
    result = CliRunner().invoke(export_main, [str(DEMO_CHECKPOINT), str(tmp_path / "bundle"), *options])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    document = json.loads((tmp_path / "bundle" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["sets"]["demo:first-errors"]["processbench"]["f1"] > 0.95
    (compared,) = document["comparisons"]
    assert {compared["judge"], compared["against"]} == {"int8", "fp32"}
    assert compared["sentence"] in card
    assert compared["sentence"] in result.stdout
    assert "## Variants and parity" in card
    result = CliRunner().invoke(export_main, [str(DEMO_CHECKPOINT), str(tmp_path / "b"), *options[:-1], "no/such:set"])
    assert result.exit_code == 1
    assert not (tmp_path / "b").exists()


def test_a_dry_run_shows_tensors_and_bytes(tmp_path: Path) -> None:
    options = ["--recipe", "reasonflux-prm-7b", "--variants", "int8", "--dry-run"]
    result = CliRunner().invoke(export_main, ["export", str(DEMO_CHECKPOINT), str(tmp_path / "bundle"), *options])
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if "int8" in line]
    (variant,) = plan(Request(str(DEMO_CHECKPOINT), tmp_path / "b", "reasonflux-prm-7b", variants=["int8"])).variants
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["int8", str(variant.tensors), f"{variant.bytes:,}"]
    assert not (tmp_path / "bundle").exists()


def test_recipes_are_listed() -> None:
    result = CliRunner(env={"COLUMNS": "260"}).invoke(export_main, ["recipes"])
    assert result.exit_code == 0
    for family in FAMILIES:
        (row,) = [line for line in result.stdout.splitlines() if line.startswith(f"│ {family.name} ")]
        assert str(family.aggregate) in row
        assert family.models[0] in row


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_printed_recipe_is_read_as_the_same(tmp_path: Path, family: Family) -> None:
    result = CliRunner().invoke(export_main, ["recipes", family.name])
    (tmp_path / "mine.toml").write_text(result.stdout, encoding="utf-8")
    assert family_from(str(tmp_path / "mine.toml")) == family


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
    assert f"{output} could not be written: [Errno 27] File too large" in ended.stderr
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
        ("create", False, "me/mine: no token"),
        ("upload", True, "ConnectError"),
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
    assert result.output.startswith("error: me/mine")
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
    assert "config.json" in refused.stderr
    command = ["verify", str(made.checkpoint), "--reference", str(made.checkpoint)]
    no_bundle = CliRunner().invoke(export_main, command)
    assert no_bundle.exit_code == 1
    assert "manifest.json" in no_bundle.stderr
