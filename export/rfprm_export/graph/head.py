"""The reward head: float32, fused into the graph of every variant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Weights
from rfprm_lite.bundle.recipe import Head


def write_head(nodes: Nodes, weights: Weights, head: Head, hidden: ir.Value) -> ir.Value:
    """Write the head's nodes.

    Args:
        nodes: Where to.
        weights: Declares the head's tensors, `head.0.weight`, `head.0.bias` and so on.
        head: Its layers, its activation, and what makes the reward of its outputs.
        hidden: The final norm's output at the read-outs, float32 [num_read, hidden_size].

    Returns:
        Rewards, float32 [num_read].
    """
    x = hidden
    for i in range(1 if head.layers == "linear" else 2):
        if i:
            x = nodes.op("Relu", [x])
        names = (f"head.{i}.weight", f"head.{i}.bias")
        x = nodes.op("Gemm", [x, *(nodes.keep(weights.stacked(name, [name])) for name in names)], transB=1)
    return _scaled(nodes, head, _summed(nodes, head, _activated(nodes, head, x)))


def _activated(nodes: Nodes, head: Head, logits: ir.Value) -> ir.Value:
    if head.activation == "softmax":
        return nodes.op("Softmax", [logits], axis=-1)
    return nodes.op("Sigmoid", [logits]) if head.activation == "sigmoid" else logits


def _summed(nodes: Nodes, head: Head, outputs: ir.Value) -> ir.Value:
    """The weighted sum of the outputs, [num_read, outputs] -> [num_read]."""
    counted = [i for i, weight in enumerate(head.weights) if weight]
    if len(head.weights) == 1 and head.weights == (1.0,):
        return nodes.op("Squeeze", [outputs, nodes.int64([1])])
    if len(counted) == 1 and head.weights[counted[0]] == 1.0:
        return nodes.op("Gather", [outputs, nodes.int64(counted[0])], axis=1)
    weights = nodes.small(np.array(head.weights, np.float32))
    return nodes.op("ReduceSum", [nodes.op("Mul", [outputs, weights]), nodes.int64([1])], keepdims=0)


def _scaled(nodes: Nodes, head: Head, rewards: ir.Value) -> ir.Value:
    """(x - mean) / std, kept within the range, beyond which rounding of a sum may reach."""
    if head.mean:
        rewards = nodes.op("Sub", [rewards, nodes.float32(head.mean)])
    if head.std != 1:
        rewards = nodes.op("Div", [rewards, nodes.float32(head.std)])
    low, high = head.range
    if not np.isfinite((low, high)).all() or sum(weight != 0 for weight in head.weights) < 2:
        return rewards
    return nodes.op("Clip", [rewards, nodes.float32(low), nodes.float32(high)])
