"""Bundles from a hub, against a server that speaks its protocol; and `rfprm models`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import file_download

from hub_server import HubServer, Repository, serve_as_the_hub
from rfprm_lite import PRM, ModelNotFoundError
from rfprm_lite.bundle.open import DEMO_FOLDER, sha256
from rfprm_lite.cli.models import models
from rfprm_lite.errors import BundleFileError, BundleFormatError

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


# --- the environment ---------------------------------------------------------------------------------------------


def run(code: str, hub: HubServer, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python on its own, since huggingface-hub reads its environment once. The hub is a mirror: HF_ENDPOINT."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)


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
        advice = f"remove it by `hf cache rm model/org/prm --cache-dir {cache}`, then get it again"
        with pytest.raises(BundleFileError, match=f"{message}.*{advice}"):
            load()
        shutil.rmtree(cache)
    weights.write_bytes(right)
    load()


def test_a_disk_that_is_full(hub: HubServer, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(file_download, "_download_to_tmp_and_move", full)
        with pytest.raises(ModelNotFoundError, match=r"manifest\.json of .* broke off: .*No space left"):
            load()
    load()


# --- caches of other shapes --------------------------------------------------------------------------------------


def test_a_cache_without_symlinks(hub: HubServer, load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *folder: False)
    rewards = load().score("p?", "a").step_rewards
    assert not [path for path in cache.rglob("*") if path.is_symlink()]
    hub.requests.clear()
    assert load(revision=SECOND).score("p?", "a").step_rewards == rewards
    assert hub.requests == []


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


def test_models_download(hub: HubServer, cache: Path) -> None:
    def download(*arguments: str) -> Result:
        return CliRunner().invoke(models, ["download", *arguments, "--cache-dir", str(cache)])

    result = json.loads(download("org/prm", "--json").stdout)
    assert (result["variant"], result["commit"]) == ("int8", SECOND)
    assert hub.downloaded() == INT8
    assert "org/prm fp32 (" in download("org/prm", "--revision", "v1", "--variant", "fp32").stdout
    assert PRM.from_pretrained(result["folder"]).variant.name == "int8"
    wrong = download("nonsense")
    assert (wrong.exit_code, wrong.stderr) == (1, "error: nonsense is no hub id of the form org/name\n")


def test_a_bundle_of_another_format(hub: HubServer, load: Load) -> None:
    edit(hub.repositories["org/prm"].commits[SECOND], lambda manifest: manifest.update(format_version=99))
    with pytest.raises(BundleFormatError, match="upgrade rfprm-lite"):
        load()
