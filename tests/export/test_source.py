"""Checkpoints on the hub: planned without their weights, then exported; against a server that speaks its protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from checkpoints import LAYOUTS, make_checkpoint
from exporting import EXPORT
from hub_server import HubServer, Repository, serve_as_the_hub
from rfprm_export.errors import CheckpointError, ExportError, RecipeError
from rfprm_export.pipeline import Request, carry_out, export, fetch, plan
from rfprm_export.verification import verify
from rfprm_lite import PRM
from rfprm_lite.bundle.open import sha256

COMMIT, OTHER = "1" * 40, "2" * 40
NAMES = {"org/7b": "reasonflux-prm-7b", "org/1.5b": "reasonflux-prm-1.5b"}
"""The first has two shards, the second one and a pickle."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve_as_the_hub(monkeypatch) as server:
        for repo, recipe in NAMES.items():
            folder = make_checkpoint(tmp_path / repo, LAYOUTS[recipe])
            server.repositories[repo] = Repository({COMMIT: folder}, {"main": COMMIT})
        yield server


def request(source: str, tmp_path: Path) -> Request:
    return Request(source, tmp_path / "bundle", NAMES.get(source), variants=["fp32", "int8"], most_traces=1)


def weights(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("repo", NAMES)
def test_a_plan_downloads_no_weights(hub: HubServer, repo: str, tmp_path: Path) -> None:
    planned = plan(request(repo, tmp_path))
    local = plan(Request(str(tmp_path / repo), tmp_path / "bundle", NAMES[repo], variants=["fp32", "int8"]))
    assert planned.variants == local.variants
    assert planned.outline.shapes == local.outline.shapes
    assert not weights(tmp_path)


@pytest.mark.parametrize("repo", NAMES)
def test_what_can_not_be_exported_is_refused_before_weights_come(hub: HubServer, repo: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"score\.0\.weight|reward_head\.pt"):
        export(Request(repo, tmp_path / "bundle", next(name for name in NAMES.values() if name != NAMES[repo])))
    second = shutil.copytree(tmp_path / repo, tmp_path / "second")
    (second / "tokenizer.json").unlink()
    hub.repositories[repo] = Repository({OTHER: second}, {"main": OTHER})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        export(request(repo, tmp_path))
    assert not weights(tmp_path)


def test_an_export_takes_the_commit_that_was_planned(hub: HubServer, tmp_path: Path) -> None:
    planned = plan(request("org/7b", tmp_path))
    other = make_checkpoint(tmp_path / "other", LAYOUTS["qwen2.5-math-prm"])
    hub.repositories["org/7b"].commits[OTHER] = other
    hub.repositories["org/7b"].refs["main"] = OTHER
    manifest = carry_out(planned, fetch(planned))
    assert (manifest.source.name, manifest.source.revision) == ("org/7b", COMMIT)
    assert len(weights(tmp_path)) == 2
    assert PRM.from_pretrained(tmp_path / "bundle", variant="fp32").score("p?", "a").step_rewards.shape == (1,)
    found = {v.name: parity for v, parity in verify(tmp_path / "bundle", str(tmp_path / "org/7b"))}
    assert found["fp32"].max_abs_difference < 1e-4


def test_a_recipe_that_the_template_does_not_follow_costs_no_download(hub: HubServer, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "math", LAYOUTS["qwen2.5-math-prm"])
    hub.repositories["org/7b"] = Repository({OTHER: folder}, {"main": OTHER})
    with pytest.raises(RecipeError, match="template"):
        plan(request("org/7b", tmp_path))
    assert not weights(tmp_path)


def test_what_is_cached_needs_no_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(request("org/7b", tmp_path))
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        for again in (lambda: plan(request("org/7b", tmp_path)), lambda: fetch(planned)):
            with pytest.raises(CheckpointError, match="model-00001.*, model-00002.*org/7b.*OFFLINE"):
                again()
    fetch(planned)
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert plan(request("org/7b", tmp_path)).variants == planned.variants
    hub.down = True
    cached = plan(request("org/7b", tmp_path))
    assert cached.variants == planned.variants
    assert cached.outline.still_to_come == 0
    assert fetch(cached).outline() == cached.outline


def test_what_the_hub_does_not_know(hub: HubServer, tmp_path: Path) -> None:
    for source in ("org/none", "no/such/id"):
        with pytest.raises(CheckpointError, match=source):
            plan(request(source, tmp_path))
    with pytest.raises(CheckpointError, match="org/7b"):
        plan(replace(request("org/7b", tmp_path), revision="v7"))


def test_a_hub_that_breaks_off(hub: HubServer, tmp_path: Path) -> None:
    """Whichever words huggingface-hub has for it: the message names the checkpoint and what was wrong."""
    planned = plan(request("org/7b", tmp_path))
    assert planned.outline.still_to_come > 0
    hub.cut = {"model-00002-of-00002.safetensors"}
    with pytest.raises(CheckpointError, match="^org/7b.*again"):
        fetch(planned)
    hub.cut.clear()
    hub.down = True
    with pytest.raises(CheckpointError, match="^org/7b.* hub"):
        fetch(planned)
    with pytest.raises(CheckpointError, match="^org/1.5b.*cached"):
        plan(request("org/1.5b", tmp_path))


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_download_ends_at_once(hub: HubServer, tmp_path: Path, ending: signal.Signals) -> None:
    """huggingface-hub's own threads would go on to the end of each file."""
    command = [*EXPORT, "org/7b", str(tmp_path / "out" / "b"), "--recipe", NAMES["org/7b"]]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN": ""}
    shard = "model-00001-of-00002.safetensors"
    hub.stalled = {shard}
    stalled = ("GET", f"/cdn/{sha256(tmp_path / 'org/7b' / shard)}/{shard}")
    with subprocess.Popen(command, env=environment) as process:
        while hub.requests.count(stalled) < 2:  # the first is for its head
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(ending)
        assert process.wait(20) == -ending
    assert not (tmp_path / "out").exists()


def test_a_repository_that_is_not_whole(hub: HubServer, tmp_path: Path) -> None:
    index = tmp_path / "org/7b" / "model.safetensors.index.json"
    whole = json.loads(index.read_text())

    def commit(name: str, **weight_map: object) -> None:
        folder = shutil.copytree(tmp_path / "org/7b", tmp_path / name)
        (folder / index.name).write_text(json.dumps({"weight_map": {**whole["weight_map"], **weight_map}}))
        hub.repositories["org/7b"] = Repository({name * 40: folder}, {"main": name * 40})

    commit("3", extra="model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="model-00002.*org/7b.* extra"):
        plan(request("org/7b", tmp_path))
    commit("4", extra="model-00003.safetensors")
    with pytest.raises(CheckpointError, match="org/7b.*404"):
        plan(request("org/7b", tmp_path))
    commit("5", extra=None)
    with pytest.raises(CheckpointError, match="extra.*None"):
        plan(request("org/7b", tmp_path))


def test_a_checkpoint_that_changes_after_the_plan(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", LAYOUTS["reasonflux-prm-7b"])
    planned = plan(Request(str(folder), tmp_path / "bundle", "reasonflux-prm-7b"))
    (folder / "model.safetensors.index.json").unlink()
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="planned"):
        fetch(planned)


def test_room_for_weights_that_are_still_to_come(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(request("org/7b", tmp_path))
    needed = sum(variant.bytes for variant in planned.variants) + planned.outline.still_to_come
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=needed))
    plan(request("org/7b", tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(ExportError, match="GB.*download"):
        plan(request("org/7b", tmp_path))


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        plan(Request(str(tmp_path), tmp_path / "bundle", revision="main"))
