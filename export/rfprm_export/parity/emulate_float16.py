"""A variant for CUDA that the CPU computes in its stead, with every value rounded to 16 bits as a GPU would.

ONNX Runtime's CPU provider has no PagedAttention, and float32 kernels for most other nodes. So the twin of a graph is
float32 throughout, and behind each node whose output had 16 bits there is a cast to them and one back, which overflows
where a GPU would. Attention is GroupQueryAttention on a whole sequence: nothing is cached and no prefix is shared.

In: a bundle's variant for CUDA. Out: its twin for the CPU, which reads the same data file. Its inputs are `input_ids`
and `read_rows` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rfprm_lite.bundle.manifest import File, Variant
from rfprm_lite.bundle.open import Bundle

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
INPUTS = ("input_ids", "read_rows")
PROJECTIONS = 3
"""The inputs of PagedAttention that are queries, keys and values: the first alone, where it holds all of them."""
COS, SIN = 8, 9
"""The inputs of PagedAttention that its twin has, too."""
TOTAL, LAST, FIRST_AXIS, ONE = "twin.total", "twin.last", "twin.first_axis", "twin.one"
CONSTANTS: dict[str, NDArray[Any]] = {FIRST_AXIS: np.array([0], np.int64), ONE: np.array([1], np.int32)}


@contextmanager
def emulating_cuda(bundle: Bundle) -> Iterator[Bundle]:
    """Open a variant for CUDA with its twin for the CPU, which is removed at the end."""
    model = onnx.load(bundle.graph, load_external_data=False)
    path = bundle.graph.with_name(".twin.onnx")
    file = File(path.relative_to(bundle.folder).as_posix(), "", 0)
    try:
        path.write_bytes(_twin(model).SerializeToString())
        variant: Variant = msgspec.structs.replace(
            bundle.variant,
            files=(file, *bundle.variant.files[1:]),
            lanes=1,
            devices=("cpu",),
            kv_layout="lanes",
            kv_dtype="float32",
        )
        yield Bundle(bundle.folder, bundle.manifest, variant)
    finally:
        path.unlink(missing_ok=True)


def _twin(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    halves = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.data_type in HALVES}
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*_lengths(), *(_cast(name, f"{name}.float32", TensorProto.FLOAT) for name in sorted(halves))])
    for node in nodes:
        inputs = [f"{name}.float32" if name in halves else name for name in node.input]
        made = (
            node.attribute[0].i if node.op_type == "Cast" else next((halves[n] for n in node.input if n in halves), 0)
        )
        name = node.output[0]
        output = f"{name}.exact" if made in HALVES else name
        graph.node.extend(_in_float32(node, inputs, output))
        if made in HALVES:
            halves[name] = made
            graph.node.append(_cast(output, f"{name}.half", made))
            graph.node.append(_cast(f"{name}.half", f"{name}.float32", TensorProto.FLOAT))
    for values, wanted in ((graph.input, INPUTS), (graph.output, ("rewards",))):
        kept = [value for value in values if value.name in wanted]
        del values[:]
        values.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    return model


def _in_float32(node: NodeProto, inputs: list[str], output: str) -> list[NodeProto]:
    if node.op_type == "PagedAttention":
        return _attention(node, inputs, output)
    if node.op_type == "Cast" and (inputs[0] != node.input[0] or output != node.output[0]):
        return [helper.make_node("Identity", inputs, [output])]  # one side had 16 bits: now both are float32
    node.input[:] = inputs
    node.output[0] = output
    return [node]


def _attention(node: NodeProto, inputs: list[str], output: str) -> list[NodeProto]:
    """GroupQueryAttention on a sequence of which nothing is cached."""
    attended = f"{output}.attended"
    batches = {name: f"{name}.batch.{output}" for name in inputs[:PROJECTIONS] if name}
    attention = helper.make_node(
        "GroupQueryAttention",
        [*(batches.get(name, "") for name in inputs[:PROJECTIONS]), "", "", LAST, TOTAL, inputs[COS], inputs[SIN]],
        [attended, f"{output}.key", f"{output}.value"],
        domain="com.microsoft",
    )
    attention.attribute.extend(node.attribute)
    return [
        *(helper.make_node("Unsqueeze", [name, FIRST_AXIS], [batch]) for name, batch in batches.items()),
        attention,
        helper.make_node("Squeeze", [attended, FIRST_AXIS], [output]),
    ]


def _lengths() -> list[NodeProto]:
    """TOTAL: the tokens, int32 []. LAST: the place of the last one, int32 [1]."""
    return [
        helper.make_node("Shape", ["input_ids"], ["twin.shape"]),
        _cast("twin.shape", "twin.tokens", TensorProto.INT32),
        helper.make_node("Squeeze", ["twin.tokens", FIRST_AXIS], [TOTAL]),
        helper.make_node("Sub", ["twin.tokens", ONE], [LAST]),
    ]


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=kind)
