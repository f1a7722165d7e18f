"""Files of a checkpoint made to harm: each is refused by name, before memory or time is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import LAYOUTS, make_checkpoint
from rfprm_export.checkpoint import head, shards
from rfprm_export.checkpoint.adapter import base_of
from rfprm_export.checkpoint.pickles import LONGEST_NAME, unpickled
from rfprm_export.checkpoint.tensors import load_architecture
from rfprm_export.errors import CheckpointError, ExportError
from rfprm_export.families.options import family_from
from rfprm_lite.bundle.contract import OPERATORS
from rfprm_lite.bundle.graph import parse
from rfprm_lite.bundle.open import DEMO_FOLDER


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = make_checkpoint(tmp_path_factory.mktemp("plain") / "checkpoint", LAYOUTS["reasonflux-prm-7b"])
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


YARN = {"type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": {"a": 1}}, "model_type is {'a': 1}"),
        ({"architectures": 5}, "not as expected"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, which is no whole number from 1 to 1000"),
        ({"hidden_size": 1e999}, "hidden_size is inf, which is no whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, which is no whole number"),
        ({"vocab_size": "7"}, "vocab_size is '7', which is no whole number"),
        ({"max_position_embeddings": True}, "max_position_embeddings is True"),
        ({"rope_theta": 1.0}, "rope_theta of rotary embeddings is 1.0"),
        ({"rope_theta": float("nan")}, "rope_theta of rotary embeddings is nan"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings of rot"),
        ({"rope_scaling": {**YARN, "factor": 1e999}}, "factor of rotary embeddings is inf"),
    ],
)
def test_a_config_of_odd_values(config: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    with pytest.raises(ExportError, match=said):
        load_architecture(tmp_path)


def test_a_head_of_parameters_is_loaded(tmp_path: Path) -> None:
    """As `torch.save(dict(module.named_parameters()))` writes it."""
    weight = torch.nn.Parameter(torch.arange(4.0, dtype=torch.bfloat16).reshape(2, 2))
    torch.save({"score.weight": weight}, tmp_path / "head.pt")
    (loaded,) = head._tensors(tmp_path / "head.pt").values()
    np.testing.assert_array_equal(loaded.float().numpy(), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"w": torch.zeros(1).expand(2**40)}, "'w' is no plain tensor, or shows more numbers than the file holds"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "'w' is no plain tensor"),
        ({"w": torch.zeros(2, device="meta")}, "'w' is no plain tensor"),
        ({"w": torch.eye(2).to_sparse()}, "'w' is no plain tensor"),
        ({3: torch.zeros(2)}, "3 is no plain tensor"),
        ([torch.zeros(2)], "holds no tensors by name"),
    ],
)
def test_tensors_that_are_none(held: object, said: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "head.pt")
    with pytest.raises(CheckpointError, match=f"head.pt.*{said}"):
        unpickled(tmp_path / "head.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_that_pytorchs_message_takes_hours_for(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "head.pt"
    name = b"_rebuild_tensor_v2"
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    if legacy:
        path.write_bytes(data.replace(name, name + b"x" * 2**20))
    else:
        import zipfile

        with zipfile.ZipFile(path) as archive:
            parts = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for file, part in parts.items():
                archive.writestr(file, part.replace(name, name + b"x" * 2**20))
    with pytest.raises(CheckpointError, match="it asks for 'torch._utils _rebuild_tensor_v2xxx.*, which is no class"):
        unpickled(path)
    assert len(name) < LONGEST_NAME


@pytest.mark.parametrize("data", [b"", b"\x80", b"PK\x03\x04", b"\x80\x02\x8e\x00\x00\x00\x7f.", b"{" * 5000])
def test_pickles_that_are_none(data: bytes, tmp_path: Path) -> None:
    for name in ("head.pt", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{name} is no PyTorch file of plain tensors"):
            unpickled(tmp_path / name, mapped=name.endswith(".bin"))


@pytest.mark.parametrize("file", ["", ".", "..", "a/b", "a\ud800", "a\x00b", "a\nb", 5])
def test_an_index_that_names_no_file(file: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": file}}), encoding="utf-8")
    with pytest.raises(CheckpointError):
        shards.find_files(tmp_path)


@pytest.mark.parametrize(("base", "said"), [("a" * 5000, "can't be looked for"), ("org/x", "revision is 7, no text")])
def test_an_adapter_with_an_odd_base(base: str, said: str, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "lora_alpha": 1, "base_model_name_or_path": base, "revision": 7}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        base_of(tmp_path)


def test_files_that_are_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is no JSON"):
        shards.load_json(tmp_path / "config.json")
    (tmp_path / "recipe.toml").write_text("a = " + "[" * 100_000, encoding="utf-8")
    with pytest.raises(ExportError, match=r"recipe\.toml is no recipe"):
        family_from(str(tmp_path / "recipe.toml"))


def test_the_runtime_allows_what_is_written(exported: Any) -> None:
    """All variants were opened as they were written; and no operator is allowed that none of them has."""
    graphs = [DEMO_FOLDER / "int8" / "model.onnx", *exported("gemma2").bundle.glob("*/model.onnx")]
    graphs += exported("llama").bundle.glob("*/model.onnx")
    written = {node.kind for path in graphs for node in parse(path.read_bytes(), str(path)).nodes}
    of_other_heads = {("", name) for name in ("Clip", "Div", "ReduceSum", "Sigmoid")}
    assert written <= OPERATORS
    assert OPERATORS - written <= of_other_heads
