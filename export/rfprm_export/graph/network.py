"""The graph of a PRM, written node by node.

In: an architecture, the head, and the shapes of a checkpoint's tensors. Out: an ONNX model that keeps the contract of
rfprm_lite.engine.engine (a segment's tokens on top of a KV cache, rewards at the read-outs, no LM head), and the list
of weights to fill its data file with.

All activations are 2-D, [tokens, features]: one row a token, whatever lane it belongs to. The last layer computes keys
and values for all tokens, since later segments attend to them, and everything else (queries, attention, MLP, norm,
head) at the read-outs alone.

Whatever the arithmetic of the products, the residual stream, norms, the last layer's softmax, head and rewards are
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.families.backbones import ATTENTION_POST_NORM, MLP_POST_NORM
from rfprm_export.graph.arithmetic import Arithmetic
from rfprm_export.graph.attention import Attention, Rotary, declare_run
from rfprm_export.graph.head import write_head
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.paged import PagedAttention, declare_pages
from rfprm_export.graph.weights import Shape, Weights, WeightSpec
from rfprm_lite.bundle.recipe import Head

OPSETS = {"": 18, "com.microsoft": 1}
# QuickGelu is x * sigmoid(alpha * x): with alpha 1, SiLU in one kernel. FastGelu is GELU by a hyperbolic tangent.
ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "silu": ("QuickGelu", {"alpha": 1.0}),
    "gelu_pytorch_tanh": ("FastGelu", {}),
}
"""The node of each activation, and its attributes."""
KVLayout = Literal["lanes", "paged"]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph whose weights are declared, not yet written.

    Attributes:
        model: The ONNX model; its weights are initializers without values.
        weights: What fills them, in the order of the data file.
    """

    model: ir.Model
    weights: list[WeightSpec]


def build(
    architecture: Architecture,
    head: Head,
    shapes: Mapping[str, Shape],
    arithmetic: Callable[[Nodes, Weights], Arithmetic],
    num_lanes: int,
    rotary: Rotary,
    wide: Collection[int] = (),
    kv_layout: KVLayout = "lanes",
) -> Graph:
    """Write the graph of a variant.

    Args:
        architecture: The backbone.
        head: The reward head.
        shapes: Of the backbone's tensors and of the head's (`head.0.weight` and so on), by name.
        arithmetic: The variant's.
        num_lanes: Segments that one run can hold.
        rotary: Cosines and sines, float32 [positions, head_size / 2] each.
        wide: Layers whose MLP has the widened arithmetic.
        kv_layout: Where keys and values are, which says who attends: see `Attention` and `PagedAttention`.
    """
    nodes, weights = Nodes(), Weights(shapes)
    writer = Writer(architecture, nodes, weights, arithmetic(nodes, weights), wide)
    hidden = writer.paged_backbone(rotary) if kv_layout == "paged" else writer.backbone(num_lanes, rotary)
    rewards = write_head(nodes, weights, head, hidden)
    nodes.output(rewards, "rewards", ir.DataType.FLOAT, ["num_read"])
    graph = ir.Graph(
        nodes.inputs,
        nodes.outputs,
        nodes=nodes.tape.nodes,
        initializers=nodes.initializers,
        opset_imports=OPSETS,
        name="prm",
    )
    return Graph(ir.Model(graph, ir_version=10, producer_name="rfprm-export"), weights.specs)


class Writer:
    """Writes the backbone, layer by layer."""

    def __init__(
        self, architecture: Architecture, nodes: Nodes, weights: Weights, arithmetic: Arithmetic, wide: Collection[int]
    ) -> None:
        self.architecture, self.nodes, self.weights, self.arithmetic = architecture, nodes, weights, arithmetic
        self.wide = dict.fromkeys(wide, arithmetic.widened())
        self.op = nodes.op

    def backbone(self, num_lanes: int, rotary: Rotary) -> ir.Value:
        """Write everything below the head; returns the final norm at the read-outs, float32 [num_read, hidden_size]."""
        ids = self.nodes.input("input_ids", ir.DataType.INT64, ["num_tokens"])
        run = declare_run(self.nodes, self.weights, num_lanes, rotary, self.arithmetic.working)
        attention = Attention(self.nodes, self.weights, self.architecture, self.arithmetic, run)
        hidden = self._embedded(ids)
        delta: ir.Value | None = None
        for i in range(self.architecture.num_layers - 1):
            self._name_cut(i, hidden, delta)
            hidden, delta = self.layer(i, hidden, delta, attention, ids)
        self._name_cut(self.architecture.num_layers - 1, hidden, delta)
        return self.last_layer(self.architecture.num_layers - 1, hidden, delta, attention, ids)

    def paged_backbone(self, rotary: Rotary) -> ir.Value:
        """Write everything below the head, on pages; see `backbone`.

        The last layer attends from all tokens, too, by the kernel of the others: its own would have to find the
        read-outs' keys in their pages. What comes behind its attention is computed at the read-outs alone.
        """
        ids = self.nodes.input("input_ids", ir.DataType.INT64, ["num_tokens"])
        run = declare_pages(self.nodes, self.weights, rotary, self.arithmetic.working)
        attention = PagedAttention(self.nodes, self.weights, self.architecture, self.arithmetic, run)
        hidden = self._embedded(ids)
        delta: ir.Value | None = None
        last = self.architecture.num_layers - 1
        for i in range(last):
            self._name_cut(i, hidden, delta)
            hidden, delta = self.layer(i, hidden, delta, attention, ids)
        self._name_cut(last, hidden, delta)
        hidden, delta = self.layer(last, hidden, delta, attention, ids, read_rows=run.read_rows)
        return self.norm("model.norm.weight", hidden, delta)[1]

    def _embedded(self, ids: ir.Value) -> ir.Value:
        hidden = self.arithmetic.lookup("model.embed_tokens.weight", ids, self.architecture.hidden_size)
        if self.architecture.embedding_scale is not None:
            hidden = self.op("Mul", [hidden, self.nodes.float32(self.architecture.embedding_scale)])
        return hidden

    def _name_cut(self, i: int, hidden: ir.Value, delta: ir.Value | None) -> None:
        for name, value in zip(cut_names(i), (hidden, delta), strict=True):
            if value is not None:
                value.name, value.dtype = name, ir.DataType.FLOAT
                value.shape = ir.Shape(["num_tokens", self.architecture.hidden_size])

    def layer(
        self,
        i: int,
        hidden: ir.Value,
        delta: ir.Value | None,
        attention: Attention | PagedAttention,
        rows: ir.Value,
        read_rows: ir.Value | None = None,
    ) -> tuple[ir.Value, ir.Value]:
        """Write layer i: the residual stream, and what is still to be added to it -> the same behind the layer.

        `rows` is an input with as many rows. With `read_rows`, behind its attention only these rows go on.
        """
        name, bias = f"model.layers.{i}", self.architecture.kind.qkv_bias
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        x = self.arithmetic.operand(self._mix(self.arithmetic, normed), rows)
        qkv = self.arithmetic.linear(f"{name}.self_attn.qkv_proj", x, _projections(name, "qkv"), bias=bias)
        attended = attention.causal(i, qkv)
        if read_rows is not None:
            hidden, attended = (self.op("Gather", [of_all, read_rows]) for of_all in (hidden, attended))
            rows = read_rows
        projected = self._project(name, attended, rows)
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, projected)
        return hidden, self.mlp(i, normed, rows)

    def last_layer(
        self, i: int, hidden: ir.Value, delta: ir.Value | None, attention: Attention, rows: ir.Value
    ) -> ir.Value:
        """Write the last layer and the final norm, float32 [num_read, hidden_size]."""
        name, bias = f"model.layers.{i}", self.architecture.kind.qkv_bias
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        mixed = self._mix(self.arithmetic, normed)
        x = self.arithmetic.operand(mixed, rows)
        kv = self.arithmetic.linear(f"{name}.self_attn.kv_proj", x, _projections(name, "kv"), bias=bias)
        keys, values = attention.cached_and_new(i, kv)
        read_rows = attention.run.read_rows
        hidden, mixed = (self.op("Gather", [of_all, read_rows]) for of_all in (hidden, mixed))
        x = self.arithmetic.operand(mixed, read_rows)
        queries = self.arithmetic.linear(f"{name}.self_attn.q_proj", x, _projections(name, "q"), bias=bias)
        attended = self.arithmetic.enter(attention.from_read_outs(i, queries, keys, values))
        projected = self._project(name, attended, read_rows)
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, projected)
        return self.norm("model.norm.weight", hidden, self.mlp(i, normed, read_rows))[1]

    def _mix(self, arithmetic: Arithmetic, normed: ir.Value) -> ir.Value:
        """A norm's output, float32 -> the input of products, working type."""
        return arithmetic.mix_channels(arithmetic.enter(normed), self.architecture.hidden_size)

    def _project(self, layer: str, attended: ir.Value, rows: ir.Value) -> ir.Value:
        """What attention adds to the residual stream, float32."""
        x = self.arithmetic.operand(attended, rows)
        projected = self.arithmetic.linear(f"{layer}.self_attn.o_proj", x, _projections(layer, "o"))
        return self._post_norm(f"{layer}.{ATTENTION_POST_NORM}", self.arithmetic.leave(projected))

    def mlp(self, i: int, normed: ir.Value, rows: ir.Value) -> ir.Value:
        """Write the MLP of layer i: what it adds to the residual stream, float32."""
        name, arithmetic = f"model.layers.{i}.mlp", self.wide.get(i, self.arithmetic)
        x = arithmetic.operand(self._mix(arithmetic, normed), rows)
        # Two products, since only gate's needs its scale now: one for both would be split, which is a copy.
        gate = arithmetic.linear(f"{name}.gate_proj", x, [f"{name}.gate_proj"])
        # The scale of `up` can wait until after the next product: no node for it over [tokens, intermediate_size].
        up = arithmetic.raw(f"{name}.up_proj", x, [f"{name}.up_proj"])
        kind, attributes = ACTIVATIONS[self.architecture.activation]
        activated = self.op(kind, [gate], domain="com.microsoft", **attributes)
        inner = arithmetic.mix_channels(self.op("Mul", [activated, up]), self.architecture.intermediate_size)
        x = arithmetic.operand(inner, rows, pending=x.scale)
        product = arithmetic.leave(arithmetic.linear(f"{name}.down_proj", x, [f"{name}.down_proj"]))
        return self._post_norm(f"model.layers.{i}.{MLP_POST_NORM}", product)

    def _post_norm(self, name: str, added: ir.Value) -> ir.Value:
        """Norm what is added to the residual stream, where the backbone does so; float32."""
        return self.norm(f"{name}.weight", added, None)[1] if self.architecture.kind.post_norms else added

    def norm(self, weight: str, hidden: ir.Value, delta: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Write hidden + delta, and the RMS norm of that, in one kernel."""
        scale, epsilon = self.nodes.keep(self.weights.stacked(weight, [weight])), self.architecture.norm_epsilon
        if delta is None:
            return hidden, self.op("SimplifiedLayerNormalization", [hidden, scale], epsilon=epsilon, axis=-1)
        normed, mean, deviation, summed = self.nodes.ops(
            "SkipSimplifiedLayerNormalization", [hidden, delta, scale], 4, domain="com.microsoft", epsilon=epsilon
        )
        mean.name = deviation.name = ""  # left out
        return summed, normed


def cut_names(i: int) -> tuple[str, str]:
    """Name the residual stream before layer i, and what is still to be added to it (from layer 1 on).

    The graph can be cut there (rfprm_export.parity.stages).
    """
    return f"layer.{i}.hidden", f"layer.{i}.delta"


def _projections(layer: str, parts: str) -> list[str]:
    return [f"{layer}.self_attn.{part}_proj" for part in parts]
