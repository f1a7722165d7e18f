"""A float16 graph that the CPU computes as CUDA would: with every value rounded to float16.

ONNX Runtime's CPU provider has float32 kernels for most of its nodes. It casts, and drops the casts between two such
nodes: what they hand on is never rounded and never overflows, so that its rewards would flatter the variant.

In: a bundle's float16 variant. Out: the same whose graph has nodes behind each float16 value that change
nothing and that the CPU has in float16, so that no cast can be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rfprm_lite.bundle.manifest import File
from rfprm_lite.bundle.open import Bundle

FIRST_AXIS = "rounding.first_axis"
ROUNDED = ("Cast", "FastGelu", "Gemm", "Mul", "QuickGelu")
"""Nodes that the CPU computes in float32."""


@contextmanager
def emulating_float16(bundle: Bundle) -> Iterator[Bundle]:
    """Open a float16 variant with a graph that rounds every value; the graph is removed at the end."""
    model = onnx.load(bundle.graph, load_external_data=False)
    path = bundle.graph.with_name(".rounded.onnx")
    file = File(path.relative_to(bundle.folder).as_posix(), "", 0)
    try:
        path.write_bytes(_round_values(model).SerializeToString())
        variant = msgspec.structs.replace(bundle.variant, files=(file, *bundle.variant.files[1:]))
        yield Bundle(bundle.folder, bundle.manifest, variant)
    finally:
        path.unlink(missing_ok=True)


def _round_values(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    half |= {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Cast":
            makes_half = node.attribute[0].i == TensorProto.FLOAT16
        else:
            makes_half = any(name in half for name in node.input)
        graph.node.append(node)
        if makes_half:
            half.update(node.output)
        if makes_half and node.op_type in ROUNDED:
            (name,) = node.output
            graph.node[-1].output[0] = f"{name}.unrounded"
            # Two, since ONNX Runtime moves a lone one to float32.
            graph.node.append(helper.make_node("Unsqueeze", [f"{name}.unrounded", FIRST_AXIS], [f"{name}.rounded"]))
            graph.node.append(helper.make_node("Squeeze", [f"{name}.rounded", FIRST_AXIS], [name]))
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), FIRST_AXIS))
    return model
