"""Bundles from a hub, against a server that speaks its protocol; and `rfprm models`."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import file_download

from hub_server import HubServer, Repository, serve_as_the_hub
from rfprm_lite import PRM, BundleFileError, BundleFormatError, ModelNotFoundError
from rfprm_lite.bundle.cached import cached_bundles, plan_removal
from rfprm_lite.bundle.hub import HubOptions, _Progress
from rfprm_lite.bundle.open import DEMO_FOLDER, open_hub_bundle, sha256
from rfprm_lite.cli.models import models
from rfprm_lite.errors import DiskSpaceError

FIRST, SECOND = "1" * 40, "2" * 40
INT8 = ["int8/model.onnx", "int8/model.onnx.data", "manifest.json", "tokenizer.json"]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_bundle(folder: Path) -> Path:
    """The demo's int8, and a variant fp32 that has the same graph and one byte more of weights."""
    shutil.copytree(DEMO_FOLDER, folder)
    shutil.copytree(folder / "int8", folder / "fp32")
    weights = folder / "fp32" / "model.onnx.data"
    weights.write_bytes(weights.read_bytes() + b"\0")

    def add(manifest: dict[str, Any]) -> None:
        (int8,) = manifest["variants"]
        graph = {**int8["files"][0], "path": "fp32/model.onnx"}
        data = {"path": "fp32/model.onnx.data", "sha256": sha256(weights), "bytes": weights.stat().st_size}
        manifest["variants"].append({**int8, "name": "fp32", "files": [graph, data]})

    edit(folder, add)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with org/prm: a tag v1 on the first commit, main on the second, that has another card alone."""
    first = make_bundle(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    edit(second, lambda manifest: manifest["source"].update(name="second"))
    with serve_as_the_hub(monkeypatch) as server:
        server.repositories["org/prm"] = Repository({FIRST: first, SECOND: second}, {"v1": FIRST, "main": SECOND})
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def load(cache: Path) -> Callable[..., PRM]:
    return lambda repo="org/prm", **options: PRM.from_pretrained(repo, cache_dir=cache, threads=1, **options)


Load = Callable[..., PRM]


# --- what is downloaded ------------------------------------------------------------------------------------------


def test_just_the_files_of_one_variant(hub: HubServer, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rfprm_lite"):
        prm = load()
    assert prm.score("p?", "a").step_rewards.shape == (1,)
    assert hub.downloaded() == INT8
    size = sum(file.stat().st_size for file in (DEMO_FOLDER / name for name in INT8) if file.name != "manifest.json")
    files = "tokenizer.json, int8/model.onnx, int8/model.onnx.data"
    assert f"downloading {files} of org/prm, {size} bytes, from {hub.url} at commit {SECOND}" in caplog.text


def test_what_is_there_is_not_downloaded_again(hub: HubServer, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    load()
    hub.requests.clear()
    caplog.clear()
    with caplog.at_level("INFO", "rfprm_lite"):
        load()
    assert {method for method, _ in hub.requests} == {"HEAD"}
    assert "downloading" not in caplog.text
    hub.requests.clear()
    load(revision=SECOND)
    assert hub.requests == []
    load(variant="fp32")
    assert hub.downloaded() == ["fp32/model.onnx.data"]  # its graph is int8's
    load(revision=FIRST)
    assert hub.downloaded() == ["manifest.json"]  # the other commit's files are these


@pytest.mark.parametrize(("revision", "name"), [(None, "second"), ("main", "second"), ("v1", "demo-prm")])
def test_revisions(hub: HubServer, load: Load, revision: str | None, name: str) -> None:
    assert load(revision=revision).manifest.source.name == name
    commit = {"second": SECOND, "demo-prm": FIRST}[name]
    assert load(revision=commit, local_files_only=True).manifest.source.name == name


def _read_terminal(terminal: int) -> Iterator[bytes]:
    """What was written to a terminal whose other end is closed."""
    with os.fdopen(terminal, "rb", buffering=0) as file, suppress(OSError):  # there is no end, but an error
        while data := file.read(4096):
            yield data


def test_progress_is_one_bar_on_a_terminal(hub: HubServer, tmp_path: Path) -> None:
    code = "from rfprm_lite import PRM; [PRM.from_pretrained('org/prm') for _ in range(2)]"

    def shown(home: str, **variables: str) -> str:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (25, 80))
        with os.fdopen(theirs, "wb") as terminal:
            run(code, hub, tmp_path / home, stderr=terminal, **variables)
        return b"".join(_read_terminal(ours)).decode()

    text = shown("a")
    # Older huggingface-hub shows its own bars, one a file.
    one = "tqdm_class" in inspect.signature(file_download.hf_hub_download).parameters
    assert text.count("\n") == (1 if one else len(INT8))
    assert ("org/prm: 100%" in text) == one
    assert shown("b", HF_HUB_DISABLE_PROGRESS_BARS="1") == ""


def test_progress_of_hf_xet_moves_the_same_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    reporting = pytest.importorskip("huggingface_hub.utils._xet_progress_reporting")
    reporter = getattr(reporting, "XetDownloadProgressReporter", None)
    if reporter is None:
        pytest.skip("this huggingface-hub moves the bar itself")
    progress, moved = _Progress("org/prm", 1000), list[int]()
    monkeypatch.setattr(progress._bar, "update", moved.append)
    with reporter(reconstruction_desc="f", total=1000, log_level=0, tqdm_class=progress.file_class) as report:
        for done in (400, 1000):
            rates = {"total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0}
            counts = {"total_bytes": 1000, "total_bytes_completed": done, "total_transfer_bytes_completed": done // 2}
            report.update_progress(SimpleNamespace(**counts, **rates))
    assert moved == [0, 400, 600]


# --- the environment ---------------------------------------------------------------------------------------------


def run(code: str, hub: HubServer, home: Path, *, stderr: Any = subprocess.PIPE, **variables: str) -> Any:
    """Python on its own, since huggingface-hub reads its environment once. The hub is a mirror: HF_ENDPOINT."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=False, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60
    )


def test_home_mirror_token_and_offline(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["org/prm"].token = "secret"
    code = "from rfprm_lite.cli import main; main(['score', '--problem', 'p', '--json', '--model', '%s'])"
    code = "import io, sys; sys.stdin = io.TextIOWrapper(io.BytesIO(b'a')); " + code
    online = run(code % "org/prm", hub, tmp_path / "home", HF_TOKEN="secret")
    assert online.returncode == 0, online.stderr
    assert online.stderr == ""  # no bar where there is no terminal
    assert (tmp_path / "home" / "hub" / "models--org--prm").is_dir()
    assert "secret" in hub.tokens
    hub.requests.clear()
    offline = run(code % "org/prm", hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout
    doctor = "from rfprm_lite.cli.examine import examine; print(examine().cached_models)"
    assert run(doctor, hub, tmp_path / "home").stdout == "['org/prm']\n"
    absent = run(code % "org/other", hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert "org/other" in absent.stderr
    assert "HF_HUB_OFFLINE" in absent.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "gated", "message"),
    [
        (None, False, "no org/prm.*HF_TOKEN"),
        (None, True, "gated.*http.*/org/prm"),
        ("wrong", False, "org/prm.*403"),
        ("wrong", True, "org/prm.*gated"),
    ],
)
def test_a_repository_that_needs_a_token(
    hub: HubServer, load: Load, monkeypatch: pytest.MonkeyPatch, token: str | None, gated: bool, message: str
) -> None:
    hub.repositories["org/prm"].token, hub.repositories["org/prm"].gated = "secret", gated
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelNotFoundError, match=message):
        load()
    monkeypatch.setenv("HF_TOKEN", "secret")
    load()


def test_what_the_hub_does_not_have(hub: HubServer, load: Load) -> None:
    with pytest.raises(ModelNotFoundError, match="org/other"):
        load("org/other")
    with pytest.raises(ModelNotFoundError, match="v9"):
        load(revision="v9")
    folder = hub.repositories["org/prm"].commits[SECOND]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleFileError, match=r"org/prm.*tokenizer\.json"):
        load()
    (folder / "manifest.json").unlink()
    hub.repositories["org/none"] = Repository({FIRST: folder}, {"main": FIRST})
    with pytest.raises(BundleFormatError, match=r"org/none.*manifest\.json"):
        load("org/none")


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off(hub: HubServer, load: Load) -> None:
    hub.cut.add("int8/model.onnx.data")
    with pytest.raises(ModelNotFoundError, match=r"int8/model.onnx.data of org/prm.* broke off"):
        load()
    with pytest.raises(ModelNotFoundError, match=r"int8/model.onnx.data of org/prm.*local cache"):
        load(local_files_only=True)
    hub.cut.clear()
    hub.requests.clear()
    load()
    assert hub.downloaded() == ["int8/model.onnx.data"]


def test_a_hub_that_is_down(hub: HubServer, load: Load) -> None:
    load()
    hub.down = True
    assert load().variant.name == "int8"
    with pytest.raises(ModelNotFoundError, match=r"fp32/model.onnx of org/prm.*http.*50"):
        load(variant="fp32")


def test_a_file_altered_on_the_server(hub: HubServer, load: Load, cache: Path) -> None:
    weights = hub.repositories["org/prm"].commits[SECOND] / "int8" / "model.onnx.data"
    right = weights.read_bytes()
    for wrong, message in ((right[:-1] + b"?", "altered"), (right[:-1], str(len(right) - 1))):
        weights.write_bytes(wrong)
        with pytest.raises(BundleFileError, match=rf"{message}.*`rfprm models remove org/prm --cache-dir {cache}`"):
            load()
        plan_removal("org/prm", cache_dir=cache).execute()
    weights.write_bytes(right)
    load()


def test_a_disk_that_is_full(hub: HubServer, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    message = r"org/prm.*2\.3 MB.*1\.0 MB.*1\.3 MB.*HF_HOME"
    with pytest.raises(DiskSpaceError, match=message) as caught:
        load()
    assert hub.downloaded() == ["manifest.json"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- caches of other shapes --------------------------------------------------------------------------------------


def test_a_cache_without_symlinks(hub: HubServer, load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *folder: False)
    rewards = load().score("p?", "a").step_rewards
    assert not [path for path in cache.rglob("*") if path.is_symlink()]
    hub.requests.clear()
    assert load(revision=SECOND).score("p?", "a").step_rewards == rewards
    assert hub.requests == []
    (bundle,) = cached_bundles(cache)
    assert bundle.variants == ("int8",)
    plan_removal("org/prm", cache_dir=cache).execute()
    assert cached_bundles(cache) == []


def test_copies_of_a_cache(hub: HubServer, load: Load, cache: Path, tmp_path: Path) -> None:
    rewards = load().score("p?", "a").step_rewards
    shutil.copytree(cache / "models--org--prm" / "snapshots" / SECOND, tmp_path / "folder")
    shutil.copytree(cache, tmp_path / "copy", symlinks=True)
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    shutil.rmtree(cache)
    for prm in (
        PRM.from_pretrained(tmp_path / "folder"),
        PRM.from_pretrained("org/prm", cache_dir=tmp_path / "link", local_files_only=True),
    ):
        assert prm.score("p?", "a").step_rewards == rewards


# --- rfprm models ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(cache: Path) -> Callable[..., Result]:
    def call(name: str, *arguments: str, input: str = "") -> Result:
        return CliRunner().invoke(models, [name, *arguments, "--cache-dir", str(cache)], input=input)

    return call


def test_models_end_to_end(hub: HubServer, command: Callable[..., Result], cache: Path) -> None:
    assert command("list").output == "no bundles are cached\n"
    result = command("download", "org/prm", "--json")
    assert json.loads(result.stdout)["variant"] == "int8"
    assert hub.downloaded() == INT8
    assert command("download", "org/prm", "--revision", "v1", "--variant", "fp32").exit_code == 0
    listed = {row["commit"]: row for row in map(json.loads, command("list", "--json").stdout.splitlines())}
    assert [listed[SECOND][key] for key in ("refs", "variants", "incomplete")] == [["main"], ["int8"], []]
    assert [listed[FIRST][key] for key in ("refs", "variants")] == [["v1"], ["fp32"]]
    assert "222222222222 (main)" in command("list").stdout

    refused = command("remove", "org/prm", input="n\n")
    assert refused.exit_code == 1
    assert "Remove org/prm at" in refused.stderr
    assert len(cached_bundles(cache)) == 2
    kept = json.loads(command("remove", "org/prm", "--revision", "v1", "--yes", "--json").stdout)
    assert kept["commits"] == [FIRST]
    assert PRM.from_pretrained("org/prm", cache_dir=cache, local_files_only=True)
    assert command("remove", "org/prm", input="y\n").exit_code == 0
    assert not (cache / "models--org--prm").exists()
    again = command("remove", "org/prm", "--yes")
    assert (again.exit_code, "org/prm" in again.stderr) == (1, True)
    wrong = command("download", "nonsense")
    assert (wrong.exit_code, "nonsense" in wrong.stderr) == (1, True)


def test_half_a_download_is_listed_and_removed(hub: HubServer, command: Callable[..., Result], cache: Path) -> None:
    hub.cut.add("int8/model.onnx.data")
    assert command("download", "org/prm").exit_code == 1
    (bundle,) = cached_bundles(cache)
    assert (bundle.variants, bundle.incomplete) == ((), ("int8",))
    assert "int8 (incomplete)" in command("list").stdout
    assert command("remove", "org/prm", "--yes").exit_code == 0
    assert not (cache / "models--org--prm").exists()


def test_what_is_no_bundle_is_not_touched(hub: HubServer, command: Callable[..., Result], cache: Path) -> None:
    open_hub_bundle("org/prm", None, None, HubOptions(cache_dir=cache), verify=True)
    repository = cache / "models--org--prm"
    mirror = shutil.copytree(repository, cache / "models--mirror--prm", symlinks=True)
    others = [cache / "datasets--org--prm" / "snapshots" / SECOND, cache / "models--org--app" / "snapshots" / FIRST]
    others.append(repository / "snapshots" / ("3" * 40))
    for folder in others:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text('{"short_name": "a web app"}')
    assert {bundle.repo for bundle in cached_bundles(cache)} == {"org/prm", "mirror/prm"}
    for repo in ("org/app", "org/pr"):
        assert command("remove", repo, "--yes").exit_code == 1
    assert command("remove", "org/prm", "--yes").exit_code == 0
    assert not (repository / "snapshots" / SECOND).exists()
    assert all((folder / "manifest.json").is_file() for folder in others)
    assert (mirror / "snapshots" / SECOND / "int8" / "model.onnx.data").is_file()


def test_a_bundle_of_another_format_can_be_removed(hub: HubServer, command: Callable[..., Result], cache: Path) -> None:
    edit(hub.repositories["org/prm"].commits[SECOND], lambda manifest: manifest.update(format_version=99))
    assert "upgrade" in command("download", "org/prm").stderr
    (line,) = command("list", "--json").stdout.splitlines()
    assert "upgrade" in json.loads(line)["problem"]
    assert command("remove", "org/prm", "--yes").exit_code == 0
    assert cached_bundles(cache) == []
