"""Checkpoints in other files and under other names: PyTorch's shards, prefixes, adapters. The tensors are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from checkpoints import LAYOUTS, make_checkpoint
from hub_server import Repository, serve_as_the_hub
from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.adapter import FILES
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import CheckpointError
from rfprm_export.pipeline import Request, export

SEVEN = "reasonflux-prm-7b"
LAYOUT = LAYOUTS[SEVEN]
Q = "model.layers.1.self_attn.q_proj"


def opened(folder: Path) -> Checkpoint:
    return sources.fetch(str(folder), sources.outline(str(folder), None))


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.outline().shapes == other.outline().shapes
    for name in one.outline().shapes:
        np.testing.assert_array_equal(one.tensor(name), other.tensor(name), err_msg=name)


# --- files and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        replace(LAYOUT, pickled=True),
        replace(LAYOUT, prefix=""),
        replace(LAYOUT, prefix="pretrained_model.model."),
        replace(LAYOUT, pickled=True, prefix="", shards=3),
    ],
    ids=["bin", "no prefix", "wrapped", "bin without prefix"],
)
def test_the_tensors_are_the_same(tmp_path: Path, layout) -> None:  # type: ignore[no-untyped-def]
    plain = Checkpoint.open(make_checkpoint(tmp_path / "plain", LAYOUT))
    assert_equal(Checkpoint.open(make_checkpoint(tmp_path / "other", layout)), plain)


def test_a_single_file_of_pytorchs(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", replace(LAYOUT, pickled=True, shards=1))
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model-00001-of-00001.bin").rename(folder / "pytorch_model.bin")
    assert_equal(Checkpoint.open(folder), Checkpoint.open(make_checkpoint(tmp_path / "plain", LAYOUT)))
    manifest = export(Request(str(folder), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1))
    assert manifest.variants[0].parity is not None


def test_safetensors_come_first(tmp_path: Path) -> None:
    """A repository may have both; the pickle is not even opened."""
    folder = make_checkpoint(tmp_path / "c", LAYOUT)
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert Checkpoint.open(folder).shape(f"{Q}.weight") == (64, 64)


def test_buffers_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", replace(LAYOUT, shards=1))
    (shard,) = folder.glob("*.safetensors")
    tensors = load_file(shard) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    (folder / "model.safetensors.index.json").unlink()
    shard.unlink()
    save_file(tensors, folder / "model.safetensors")
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in Checkpoint.open(folder).outline().shapes


def test_a_pickle_that_would_run_code_or_can_not_be_mapped(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    folder = make_checkpoint(tmp_path / "c", replace(LAYOUT, pickled=True))
    shard = folder / "pytorch_model-00001-of-00002.bin"
    for broken in ({"a": Payload()}, [torch.zeros(1)]):
        torch.save(broken, shard)
        with pytest.raises(CheckpointError, match=r"00001-of-00002.bin (is no PyTorch file|holds no tensors)"):
            Checkpoint.open(folder)
    assert not (tmp_path / "ran").exists()
    torch.save({"a": torch.zeros(1)}, shard, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="mapped, so it was not loaded"):
        Checkpoint.open(folder)
    shard.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not loaded"):
        Checkpoint.open(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        Checkpoint.open(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", LAYOUT)
    for path in folder.glob("model*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"none of model.safetensors.index.json, .*pytorch_model.bin"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("single", [False, True])
def test_pytorchs_shards_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = make_checkpoint(tmp_path / "c", replace(LAYOUT, pickled=True, shards=1 if single else 2))
    if single:
        (folder / "pytorch_model.bin.index.json").unlink()
        (folder / "pytorch_model-00001-of-00001.bin").rename(folder / "pytorch_model.bin")
    with serve_as_the_hub(monkeypatch) as server:
        server.repositories["org/bin"] = Repository({"1" * 40: folder}, {"main": "1" * 40})
        outline = sources.outline("org/bin", None)
        assert_equal(sources.fetch("org/bin", outline), Checkpoint.open(folder))


# --- adapters ----------------------------------------------------------------------------------------------------


def make_adapter(
    folder: Path, base: Path | str, tensors: dict[str, torch.Tensor] | None = None, **config: object
) -> Path:
    """An adapter as PEFT writes it, with the base's tokenizer beside it."""
    folder.mkdir()
    random = torch.Generator().manual_seed(1)
    written = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": False, "bias": "none"}
    written |= {"base_model_name_or_path": str(base), "modules_to_save": ["score"], "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    if tensors is None:
        tensors = {
            f"base_model.model.{Q}.lora_A.weight": torch.randn(4, 64, generator=random),
            f"base_model.model.{Q}.lora_B.weight": torch.randn(64, 4, generator=random),
            "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight": torch.randn(2, 160, generator=random),
            "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight": torch.randn(64, 2, generator=random),
            "base_model.model.score.2.weight": torch.randn(2, 64, generator=random),
        }
    save_file(tensors, folder / FILES[0])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((LAYOUT_FILES / name).read_bytes())
    return folder


LAYOUT_FILES = Path()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_checkpoint(tmp_path / "base", LAYOUT)
    monkeypatch.setattr(f"{__name__}.LAYOUT_FILES", folder)
    return folder


@pytest.mark.parametrize("by_root", [False, True])
def test_an_adapter_is_merged_with_its_base(base: Path, tmp_path: Path, by_root: bool) -> None:
    folder = make_adapter(tmp_path / "adapter", base, use_rslora=by_root)
    merged, plain, learnt = opened(folder), Checkpoint.open(base), load_file(folder / FILES[0])
    changed = {f"{Q}.weight", "model.layers.2.mlp.down_proj.weight"}
    for name in plain.outline().shapes:
        expected = plain.tensor(name)
        if name in changed:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = learnt[f"{stem}.lora_A.weight"], learnt[f"{stem}.lora_B.weight"]
            expected = expected + (b @ a).numpy() * 16 / (len(a) ** 0.5 if by_root else len(a))
        if name == "score.2.weight":
            expected = learnt["base_model.model.score.2.weight"].numpy()
        np.testing.assert_allclose(merged.tensor(name), expected, atol=1e-4, err_msg=name)


def test_an_adapter_is_exported(base: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter", base)
    manifest = export(Request(str(folder), tmp_path / "b", SEVEN, variants=["fp32", "int8"], most_traces=1))
    assert manifest.source.name == "adapter"
    assert {variant.name for variant in manifest.variants} == {"fp32", "int8"}


def test_an_adapter_on_the_hub_with_its_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = make_adapter(tmp_path / "adapter", "org/base")
    with serve_as_the_hub(monkeypatch) as server:
        for repo, where in (("org/base", base), ("org/adapter", folder)):
            server.repositories[repo] = Repository({"1" * 40: where}, {"main": "1" * 40})
        outline = sources.outline("org/adapter", None)
        assert outline.still_to_come > 100_000
        local = opened(make_adapter(tmp_path / "local", base))
        assert_equal(sources.fetch("org/adapter", outline), local)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', which is no plain LoRA: merge it with peft's merge_and_unload"),
        ({"use_dora": True}, "use_dora is True.*merge_and_unload"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"lora_alpha": None}, "lora_alpha is None, no number"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path: merge it"),
        ({"base_model_name_or_path": "/nowhere/x"}, "is an adapter on /nowhere/x"),
    ],
)
def test_what_is_more_than_plain_lora(
    base: Path, tmp_path: Path, config: dict[str, object], match: str, no_network: list[object]
) -> None:
    with pytest.raises(CheckpointError, match=match):
        opened(make_adapter(tmp_path / "adapter", base, **config))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({f"base_model.model.{Q}.lora_A.weight": (4, 32), f"base_model.model.{Q}.lora_B.weight": (64, 4)}, "another"),
        ({f"base_model.model.{Q}.lora_A.weight": (4, 64)}, "another model"),
        ({"base_model.model.model.layers.9.x.lora_A.weight": (4, 64)}, r"layers.9.x.weight, which in the base is \[\]"),
        ({f"base_model.model.{Q}.lora_magnitude_vector": (64,)}, "magnitude_vector is more than plain LoRA"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 64)}, "embedding_A is more than plain"),
    ],
)
def test_an_adapter_that_does_not_fit(
    base: Path, tmp_path: Path, tensors: dict[str, tuple[int, ...]], match: str
) -> None:
    drawn = {name: torch.ones(shape) for name, shape in tensors.items()}
    with pytest.raises(CheckpointError, match=match):
        opened(make_adapter(tmp_path / "adapter", base, drawn))


def test_an_adapter_on_an_adapter(base: Path, tmp_path: Path) -> None:
    first = make_adapter(tmp_path / "first", base)
    with pytest.raises(CheckpointError, match="first is an adapter, and so is what adds to it: merge"):
        opened(make_adapter(tmp_path / "second", first))
    (first / FILES[0]).unlink()
    with pytest.raises(CheckpointError, match="neither adapter_model.safetensors nor"):
        opened(first)
