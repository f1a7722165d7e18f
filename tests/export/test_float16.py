"""Variants for CUDA: numerics as the CPU emulates them, what overflows, and a CUDA kernel for every node."""

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
from rfprm_export.parity import stages
from rfprm_export.parity.emulate_float16 import emulating_cuda
from rfprm_export.parity.probes import PROBES
from rfprm_export.pipeline import Request, export
from rfprm_export.variants import FP16, VARIANTS
from rfprm_export.write.variant import write_variant
from rfprm_lite import PRM
from rfprm_lite.bundle.manifest import FILE_NAME, encode
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.engine.kv import SPARE
from rfprm_lite.engine.paged import PAGE_TOKENS
from rfprm_lite.errors import NumericalError, VariantError
from rfprm_lite.plan.sequence import TokenSequence

Get = Callable[[str], Exported]
SEVEN = "reasonflux-prm-7b"
KERNELS = json.loads((Path(__file__).parent / "data" / "cuda_kernels.json").read_text(encoding="utf-8"))["kernels"]
FLOAT = "float"
CUDA = [name for name, variant in VARIANTS.items() if "cuda" in variant.devices]
ATTENTION = (
    "qkv", "", "", "keys", "values", "token_starts", "pasts", "pages", "cos", "sin", "slots", "", "", "", "", "",
    "bounds",
)  # fmt: skip
"""The inputs of PagedAttention, in its schema's order."""


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
@pytest.mark.parametrize(("variant", "most"), [("fp16", 5e-3), ("bf16", 4e-2)])
def test_rewards_are_near_pytorchs(exported: Get, recipe: str, variant: str, most: float) -> None:
    """By the twin of the graph, whole and layer by layer. They differ from FP32's: values are rounded."""
    made = exported(recipe)
    expected = np.concatenate(made.reference.step_rewards(PROBES))
    with emulating_cuda(made.opened(variant)) as twin:
        ways = [stages.step_rewards(twin, made.encoder, PROBES, by_layer=by_layer) for by_layer in (False, True)]
    whole, cut = (np.concatenate(way) for way in ways)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert most / 500 < np.abs(whole - expected).max() < most


def test_the_report_says_that_it_was_emulated(exported: Get) -> None:
    parities = {name: exported(SEVEN).opened(name).variant.parity for name in CUDA}
    said = {name: (parity.by, parity.tokens_per_second) for name, parity in parities.items() if parity}
    assert said == {
        "fp16": ("float16 emulated on a CPU", None),
        "bf16": ("bfloat16 emulated on a CPU", None),
        "int8-fp16": ("float16 emulated on a CPU", None),
        "int4-fp16": ("float16 emulated on a CPU", None),
        "int4-bf16": ("bfloat16 emulated on a CPU", None),
    }


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
@pytest.mark.parametrize("variant", CUDA)
def test_cuda_has_a_kernel_for_every_node(exported: Get, recipe: str, variant: str) -> None:
    opened = exported(recipe).opened(variant)
    model = onnx.load(opened.graph, load_external_data=False)
    kinds = check_kernels(model)
    rewards = model.graph.output[-1]
    assert kinds[rewards.name] == FLOAT
    caches = {name: kind for name, kind in kinds.items() if name.startswith(("past.", "present."))}
    assert set(caches.values()) == {opened.variant.kv_dtype}
    assert len(caches) == 4 * opened.manifest.dimensions.num_layers
    # The products are in 16 bits but for the head's.
    wide = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul") and kinds[n.input[0]] == FLOAT]
    assert len(wide) == (1 if ALL_LAYOUTS[recipe].pickled_head else 2)


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
        in_cpu_memory = {node.input[list(rows[0]["inputs"]).index(name)] for name in rows[0].get("cpu_inputs", ())}
        assert in_cpu_memory <= {"bounds"}  # which the engine keeps there
        if node.op_type == "PagedAttention":
            assert in_cpu_memory == {"bounds"}
            check_attention(node, graph)
        if node.op_type == "MatMulNBits":
            check_weights(node, graph, rows[0]["bits"])
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
    """What paged_attention.cc and its helper ask for, beside types, and what FlashAttention asks for to be chosen."""
    inputs = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in graph.input
    }
    tables = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    attributes = {a.name: a.i for a in node.attribute}
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    assert attributes["do_rotary"] == 1
    assert heads % kv_heads == 0
    assert len({bool(name) for name in node.input[1:3]}) == 1  # queries, keys and values are packed, or each alone
    assert heads <= 1024  # threads of a block
    given = dict(zip(ATTENTION, node.input, strict=True))
    assert {name for name in given.values() if name in inputs} >= {"token_starts", "pasts", "pages", "slots", "bounds"}
    assert [given[name] for name in ("token_starts", "pasts", "pages", "slots", "bounds")] == [
        "token_starts", "pasts", "pages", "slots", "bounds"
    ]  # fmt: skip
    keys, values = inputs[given["keys"]], inputs[given["values"]]
    assert keys == values
    head_size = keys[3]
    assert keys == ["num_pages", "page_tokens", kv_heads, head_size]
    assert head_size % 16 == 0  # for a rotary embedding
    assert head_size <= max(largest for largest, _ in PAGE_TOKENS) == 256
    for largest, tokens in PAGE_TOKENS:
        assert tokens >= 16
        assert tokens & (tokens - 1) == 0
        assert tokens % {64: 256, 128: 128, 256: 64}[largest] == 0
    assert tables[given["cos"]] == tables[given["sin"]] == [4096 + SPARE, head_size // 2]
    assert all(node.output)
    assert len(node.output) == 3
    # In the CPU's memory: nobody else may read it, or it would be copied to the card and back in each layer.
    assert all(n.op_type == "PagedAttention" for n in graph.node if "bounds" in n.input)


def check_weights(node: onnx.NodeProto, graph: onnx.GraphProto, bits: list[int]) -> None:
    """What matmul_nbits.cc for CUDA asks for, beside types."""
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    a = {attribute.name: attribute.i for attribute in node.attribute}
    blocks = -(-a["K"] // a["block_size"])
    assert a["bits"] in bits
    assert a["block_size"] in (16, 32, 64, 128)
    assert len(node.input) == 3  # symmetric
    assert shapes[node.input[1]] == [a["N"], blocks, a["block_size"] * a["bits"] // 8]
    cast = {other.output[0]: other.input[0] for other in graph.node if other.op_type == "Cast"}
    assert shapes[cast.get(node.input[2], node.input[2])] == [a["N"], blocks]


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
    with (
        emulating_cuda(Bundle(tmp_path, manifest, variant)) as twin,
        pytest.raises(NumericalError, match="'fp16' gave a reward that is no number"),
    ):
        stages.rewards(twin, [TokenSequence(np.arange(5, 9), np.array([1, 3]))], by_layer=False)


@pytest.mark.parametrize("name", ["int8-fp16", "int4-fp16"])
def test_a_layer_in_blocks_that_would_overflow_is_bfloat16(tmp_path: Path, name: str) -> None:
    """On the same data file, to the bit: which layers are wide is known when it is written."""
    checkpoint = scaled(make_checkpoint(tmp_path / "c", LAYOUTS[SEVEN]), "model.layers.1.mlp.up_proj.weight", 3e4)
    manifest = export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=[name, "fp32"], most_traces=4))
    variant = manifest.variant(name)
    assert any(said.startswith("the MLP of layers 1 in bfloat16") for said in variant.made_by)
    graph = onnx.load(tmp_path / "b" / name / "model.onnx", load_external_data=False)
    kinds = check_kernels(graph)
    products = [
        (node.input[1].rsplit(".", 1)[0], kinds[node.input[0]])
        for node in graph.graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert len(products) == 3 * 5
    wide = {f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert {product for product, kind in products if kind == "bfloat16"} == wide
    assert {kind for product, kind in products if product not in wide} == {"float16"}
    assert not [tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16]
    assert variant.parity is not None
    assert variant.parity.max_abs_difference < (0.5 if name == "int4-fp16" else 0.1)


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
