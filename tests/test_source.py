"""Checkpoints on the hub: planned without their weights, then exported; against a server that speaks its protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from checkpoints import LAYOUTS, make_checkpoint
from hub_server import HubServer, Repository, serve_as_the_hub
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.pipeline import Request, export, plan, verify
from rfprm_lite import PRM

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
    with pytest.raises(RecipeError, match="the checkpoint is a Qwen2For"):
        export(Request(repo, tmp_path / "bundle", next(name for name in NAMES.values() if name != NAMES[repo])))
    second = shutil.copytree(tmp_path / repo, tmp_path / "second")
    (second / "tokenizer.json").unlink()
    hub.repositories[repo] = Repository({OTHER: second}, {"main": OTHER})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        export(request(repo, tmp_path))
    assert not weights(tmp_path)


def test_an_export_takes_the_commit_that_was_planned(hub: HubServer, tmp_path: Path) -> None:
    manifest = export(request("org/7b", tmp_path))
    assert (manifest.source.name, manifest.source.revision) == ("org/7b", COMMIT)
    assert len(weights(tmp_path)) == 2
    assert PRM.from_pretrained(tmp_path / "bundle", variant="fp32").score("p?", "a").step_rewards.shape == (1,)
    ((variant, parity),) = [found for found in verify(tmp_path / "bundle", "org/7b") if found[0].name == "fp32"]
    assert parity.max_abs_difference < 1e-4
    assert variant.name == "fp32"


def test_what_is_cached_needs_no_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(request("org/7b", tmp_path))
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=r"org/7b.*offline"):
            plan(request("org/7b", tmp_path))
    export(request("org/7b", tmp_path))
    shutil.rmtree(tmp_path / "bundle")
    hub.down = True
    assert plan(request("org/7b", tmp_path)).variants == planned.variants


def test_what_the_hub_does_not_give(hub: HubServer, tmp_path: Path) -> None:
    for source in ("org/none", "no/such/id"):
        with pytest.raises(CheckpointError, match=f"{source} is no folder, and the hub gives no such checkpoint"):
            plan(request(source, tmp_path))
    hub.cut = {"model-00002-of-00002.safetensors"}
    with pytest.raises(CheckpointError, match="org/7b broke off.*call again"):
        export(request("org/7b", tmp_path))
    for shard in (tmp_path / "org/7b").glob("*.safetensors*"):
        shard.unlink()
    with pytest.raises(CheckpointError, match="org/7b is no folder, and the hub gives no such checkpoint"):
        plan(request("org/7b", tmp_path))
    hub.down = True
    with pytest.raises(CheckpointError, match="the hub gives no such checkpoint"):
        plan(request("org/1.5b", tmp_path))
    assert not (tmp_path / "bundle").exists()


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder: a revision is for hub ids"):
        plan(Request(str(tmp_path), tmp_path / "bundle", revision="main"))
