"""FP16, for CUDA: its numerics on the CPU, what overflows, and that CUDA has a kernel for every node of the graph."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import ALL_LAYOUTS, LAYOUTS, make_checkpoint
from exporting import Exported
from rfprm_export.checkpoint.head import load_head
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import ParityError
from rfprm_export.families.options import family_from
from rfprm_export.parity.emulate_float16 import emulating_float16
from rfprm_export.parity.probes import PROBES
from rfprm_export.pipeline import Request, export
from rfprm_export.variants import FP16
from rfprm_export.write.variant import write_variant
from rfprm_lite import PRM
from rfprm_lite.bundle.manifest import FILE_NAME, encode
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.engine import Engine
from rfprm_lite.engine.kv import SPARE
from rfprm_lite.engine.session import open_session
from rfprm_lite.errors import NumericalError, VariantError
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.scoring.wiring import layout_of

Get = Callable[[str], Exported]
SEVEN = "reasonflux-prm-7b"
KERNELS = json.loads((Path(__file__).parent / "data" / "cuda_kernels.json").read_text(encoding="utf-8"))["kernels"]
FLOAT, FLOAT16 = "float", "float16"


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_rewards_are_near_pytorchs(exported: Get, recipe: str) -> None:
    made = exported(recipe)
    expected = np.concatenate(made.reference.step_rewards(PROBES))
    with emulating_float16(made.opened("fp16")) as bundle:
        prm = PRM(bundle, LoadOptions(threads=2))
    found = np.concatenate([score.step_rewards for score in prm.score_many(PROBES)])
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 5e-3


def test_the_cpu_refuses_it_and_names_int8(exported: Get, tmp_path: Path) -> None:
    """Of a bundle whose INT8 kept its bound; the fixture's was compared on too few rewards to tell."""
    bundle = shutil.copytree(exported(SEVEN).bundle, tmp_path / "bundle")
    manifest = exported(SEVEN).prm.manifest
    kept = tuple(msgspec.structs.replace(variant, missed=None) for variant in manifest.variants)
    (bundle / FILE_NAME).write_bytes(encode(msgspec.structs.replace(manifest, variants=kept)))
    with pytest.raises(VariantError, match="'fp16'.*cuda.*cpu.*'int8'"):
        PRM.from_pretrained(bundle, variant="fp16")
    with pytest.raises(VariantError, match="cuda.*variant='fp16'"):
        manifest.default_variant("cuda")


# --- every node has a kernel for CUDA ----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_cuda_has_a_kernel_for_every_node(exported: Get, recipe: str) -> None:
    model = onnx.load(exported(recipe).opened("fp16").graph, load_external_data=False)
    kinds = check_kernels(model)
    rewards = model.graph.output[-1]
    assert kinds[rewards.name] == FLOAT
    caches = {name: kind for name, kind in kinds.items() if name.startswith(("past.", "present."))}
    assert set(caches.values()) == {FLOAT16}
    # The products are float16 but for the head's two and those of attention at the read-outs.
    wide = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul") and kinds[n.input[0]] == FLOAT]
    assert len(wide) == (1 if ALL_LAYOUTS[recipe].pickled_head else 2) + 2


def test_the_check_finds_what_cuda_lacks(exported: Get) -> None:
    """GroupQueryAttention of float32 and integer products have no CUDA kernel."""
    for variant, missing in (("fp32", "GroupQueryAttention"), ("int8", "ReduceM|MatMulIntegerToFloat|QuantizeLinear")):
        model = onnx.load(exported(SEVEN).opened(variant).graph, load_external_data=False)
        with pytest.raises(AssertionError, match=missing):
            check_kernels(model)


def check_kernels(model: onnx.ModelProto) -> dict[str, str]:
    """The type of every value, found by the kernels' own table; an AssertionError where a node has no kernel."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    graph = model.graph
    kinds = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in graph.initializer}
    for value in graph.input:
        kinds[value.name] = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    for node in graph.node:
        domain = node.domain or "ai.onnx"
        # ONNX Runtime keeps this one in the default domain, where ONNX has no such operator.
        version = 1 if node.op_type == "SimplifiedLayerNormalization" else opsets[domain]
        rows = [row for row in KERNELS[domain].get(node.op_type, []) if row["since"] <= version <= (row["until"] or 99)]
        assert rows, f"{node.op_type} has no CUDA kernel in opset {version}"
        kinds |= output_kinds(node, rows[0], [kinds.get(name, "") for name in node.input])
        if node.op_type == "GroupQueryAttention":
            check_attention(node, graph)
    return kinds


def output_kinds(node: onnx.NodeProto, row: dict[str, Any], given: list[str]) -> dict[str, str]:
    bound: dict[str, str] = {}
    for variable, kind in zip(variables(row["inputs"]), given, strict=False):
        if kind:
            wanted = [variable[1:]] if variable.startswith("=") else row["types"][variable]
            assert kind in wanted, f"{node.op_type}: {kind} as {variable} has no CUDA kernel, {wanted} have"
            assert bound.setdefault(variable, kind) == kind, (
                f"{node.op_type}: {variable} is {bound[variable]} and {kind}"
            )
    if node.op_type == "Cast":
        bound["T2"] = onnx.TensorProto.DataType.Name(node.attribute[0].i).lower()
        assert bound["T2"] in row["types"]["T2"]
    found = {}
    for variable, name in zip(variables(row["outputs"]), node.output, strict=False):
        if name:
            found[name] = bound.get(variable) or row["types"][variable][0]
    return found


def variables(named: dict[str, str]) -> Any:
    """In order; the last one again for all that follow, as in Concat and Split."""
    yield from named.values()
    yield from repeat(list(named.values())[-1])


def check_attention(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    """What group_query_attention.cc for CUDA asks for, beside types."""
    inputs = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in graph.input
    }
    tables = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    attributes = {a.name: a.i for a in node.attribute}
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    assert heads % kv_heads == 0
    assert len({bool(name) for name in node.input[1:3]}) == 1  # queries, keys and values are packed, or each alone
    assert len(node.input) == 9  # neither position_ids nor attention_bias
    past = inputs[node.input[3]]
    head_size = past[3]
    assert past[:3] == [1, kv_heads, "capacity.0"]
    assert head_size % 16 == 0
    assert head_size <= 256
    assert tables[node.input[7]] == tables[node.input[8]] == [4096 + SPARE, head_size // 2]
    assert all(node.output)
    assert len(node.output) == 3


# --- overflow ----------------------------------------------------------------------------------------------------


def scaled(checkpoint: Path, name: str, by: float) -> Path:
    """The checkpoint with one tensor multiplied."""
    for shard in checkpoint.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            tensors[name] *= torch.tensor(by)
            save_file(tensors, shard, metadata={"format": "pt"})
    return checkpoint


def test_a_layer_that_would_overflow_is_float32(tmp_path: Path) -> None:
    checkpoint = scaled(make_checkpoint(tmp_path / "c", LAYOUTS[SEVEN]), "model.layers.1.mlp.up_proj.weight", 3e4)
    manifest = export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp16", "fp32"], most_traces=4))
    fp16 = manifest.variant("fp16")
    assert fp16.made_by[0].startswith("the MLP of layers 1 in float32")
    assert fp16.parity is not None
    assert fp16.parity.max_abs_difference < 5e-3
    assert check_kernels(onnx.load(tmp_path / "b" / "fp16" / "model.onnx", load_external_data=False))

    opened = Checkpoint.open(checkpoint)
    spec = family_from(SEVEN).resolve(None, {}, ())
    files = write_variant(tmp_path, FP16, opened, spec, load_head(opened, spec))
    variant = msgspec.structs.replace(fp16, files=files)
    device = DeviceSpec("cpu")
    with emulating_float16(Bundle(tmp_path, manifest, variant)) as bundle:
        session = open_session(bundle.graph, device, 2)
    narrow = Engine(session, layout_of(manifest, manifest.variant("fp16")), device, 1, 2)
    lanes = narrow.new_lanes(1, 8)
    with pytest.raises(NumericalError, match="2 of 2 .*token 1:"):
        narrow.prefill(lanes, [Chunk(0, np.arange(5, 9), np.array([1, 3]))], Cancellation())
    assert lanes.caches[0].length == 0


@pytest.mark.parametrize(
    ("tensor", "factor", "reason"),
    [
        ("embed_tokens.weight", 1e7, r"model.embed_tokens.weight.* FLOAT16"),
        (
            "layers.1.self_attn.v_proj.bias",
            2e4,
            r"model.layers.1.self_attn.[vo]_proj.* 8188",
        ),
    ],
)
def test_what_float16_can_not_hold_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tensor: str, factor: float, reason: str
) -> None:
    """With its reason; an error where nothing else is made."""
    checkpoint = scaled(make_checkpoint(tmp_path / "c", LAYOUTS[SEVEN]), f"model.{tensor}", factor)
    request = Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp16"], most_traces=4)
    with pytest.raises(ParityError, match=f"fp16: {reason}"):
        export(request)
    assert not request.output.exists()
    manifest = export(replace(request, variants=["fp32", "fp16"]))
    assert [variant.name for variant in manifest.variants] == ["fp32"]
    assert not (request.output / "fp16").exists()
    assert re.search(f"fp16.*: {reason}", caplog.text)
