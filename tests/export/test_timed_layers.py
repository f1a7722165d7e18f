"""`rfprm doctor --bench` times layers like those that are exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
import onnx.utils
import pytest

from exporting import Exported
from rfprm_export.graph.network import cut_names
from rfprm_lite.engine import speed
from rfprm_lite.engine.speed import Dtype, Shape

Get = Callable[[str], Exported]
COUNTED = (
    "Gemm",
    "MatMul",
    "MatMulIntegerToFloat",
    "QuantizeLinear",
    "QuickGelu",
    "ReduceMax",
    "ReduceMin",
    "SkipSimplifiedLayerNormalization",
)
"""Nodes that take time in every layer. The rest of attention depends on lanes."""


@pytest.mark.parametrize("dtype", ["int8", "fp32"])
def test_a_timed_layer_has_the_nodes_of_an_exported_one(exported: Get, dtype: Dtype) -> None:
    model = onnx.load(exported("reasonflux-prm-7b").opened(dtype).graph, load_external_data=False)
    inputs = [value.name for value in model.graph.input]
    part = onnx.utils.Extractor(model).extract_model([*inputs, *cut_names(1)], list(cut_names(2)))
    expected = Counter(node.op_type for node in part.graph.node)
    timed = onnx.load_from_string(speed.layer(dtype, Shape("", 1, 64, 96, 4, 2, 16)).model)
    found = Counter(node.op_type for node in timed.graph.node)
    assert {kind: found[kind] for kind in COUNTED} == {kind: expected[kind] for kind in COUNTED}
    assert sum(found[kind] for kind in COUNTED) > 5
