"""The reward head: float32, fused into the graph of every variant."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Weights
from rfprm_lite.bundle.recipe import Head


def write_head(
    nodes: Nodes, weights: Weights, head: Head, names: Iterable[tuple[str, str]], hidden: ir.Value
) -> ir.Value:
    """Write the head's nodes.

    Args:
        nodes: Where to.
        weights: Declares the head's tensors as `head.0.weight`, `head.0.bias` and so on.
        head: Its activation, and which output is the reward.
        names: Weight and bias of each linear layer, in the checkpoint's words.
        hidden: The final norm's output at the read-outs, float32 [num_read, hidden_size].

    Returns:
        Rewards, float32 [num_read].
    """
    x = hidden
    for i, (weight, bias) in enumerate(names):
        if i:
            x = nodes.op("Relu", [x])
        tensors = (weights.stacked(f"head.{i}.weight", [weight]), weights.stacked(f"head.{i}.bias", [bias]))
        x = nodes.op("Gemm", [x, *map(nodes.keep, tensors)], transB=1)
    if head.activation == "softmax":
        return nodes.op("Gather", [nodes.op("Softmax", [x], axis=-1), nodes.int64(head.positive)], axis=1)
    return nodes.op("Squeeze", [nodes.op("Sigmoid", [x]), nodes.int64([1])])
