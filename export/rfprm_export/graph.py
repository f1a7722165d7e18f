"""The graph of a Qwen2 PRM, written node by node.

In: an architecture, the head, and weights by their checkpoint names. Out: an ONNX model that keeps the contract of
rfprm_lite.engine: a segment's tokens on top of a KV cache, rewards at the positions to read, no LM head.

All activations are 2-D, [tokens, features]. Every layer but the last attends with GroupQueryAttention, which rotates
queries and keys and appends to the shared KV buffer. The last layer computes keys and values for all tokens, since
later segments attend to them, and everything else (queries, attention, MLP, norm, head) at the read positions alone.

Whatever the arithmetic of the products, the residual stream, norms, the last layer's softmax, head and rewards are
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.arithmetic import Arithmetic, Weights
from rfprm_export.checkpoint import Architecture
from rfprm_export.floating import FloatArithmetic
from rfprm_export.nodes import Nodes
from rfprm_lite.recipe import Head

OPSETS = {"": 18, "com.microsoft": 1}


@dataclass(frozen=True, slots=True)
class _Segment:
    """What every layer needs to know of the segment."""

    positions: ir.Value
    read_positions: ir.Value
    past_length: ir.Value
    total: ir.Value
    seqlens_k: ir.Value
    total_int32: ir.Value
    cos: ir.Value
    sin: ir.Value


def build(
    architecture: Architecture,
    head: Head,
    head_names: Iterable[tuple[str, str]],
    weights: Weights,
    arithmetic: Callable[[Nodes, Weights], Arithmetic],
    wide: Collection[int] = (),
) -> ir.Model:
    """The graph, its initializers already written by `weights`. wide: the layers whose MLP is float32 all the same."""
    return Writer(architecture, weights, arithmetic, wide).model(head, list(head_names))


class Writer:
    """Each method writes one part of the network."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        arithmetic: Callable[[Nodes, Weights], Arithmetic],
        wide: Collection[int],
    ) -> None:
        self.a = architecture
        self.weights = weights
        self.n = Nodes()
        self.op = self.n.op
        self.arithmetic = arithmetic(self.n, weights)
        self.wide_arithmetic = FloatArithmetic(self.n, weights)
        self.wide = frozenset(wide)

    def model(self, head: Head, head_names: list[tuple[str, str]]) -> ir.Model:
        ids = self.n.input("input_ids", ir.DataType.INT64, ["num_tokens"])
        segment = self.segment(ids)
        hidden = self.arithmetic.lookup("model.embed_tokens.weight", ids)
        delta: ir.Value | None = None
        for i in range(self.a.num_layers - 1):
            self.seam(i, hidden, delta)
            hidden, delta = self.layer(i, hidden, delta, segment)
        self.seam(self.a.num_layers - 1, hidden, delta)
        hidden = self.last_layer(self.a.num_layers - 1, hidden, delta, segment)
        rewards = self.head(head, head_names, hidden)
        self.n.output(rewards, "rewards", ir.DataType.FLOAT, ["num_read"])
        return self.finished()

    def finished(self) -> ir.Model:
        """The model of all that was written."""
        graph = ir.Graph(
            self.n.inputs,
            self.n.outputs,
            nodes=self.n.tape.nodes,
            initializers=self.n.initializers,
            opset_imports=OPSETS,
            name="prm",
        )
        return ir.Model(graph, ir_version=10, producer_name="rfprm-export")

    def seam(self, i: int, hidden: ir.Value, delta: ir.Value | None) -> None:
        """Name what layer i reads, so that the graph can be cut there (rfprm_export.stages)."""
        for name, value in zip(seam(i), (hidden, delta), strict=True):
            if value is not None:
                value.name, value.dtype = name, ir.DataType.FLOAT
                value.shape = ir.Shape(["num_tokens", self.a.hidden_size])

    # --- parts of the network ---------------------------------------------------------------------------------

    def segment(self, tokens: ir.Value) -> _Segment:
        """tokens: anything with a row a token."""
        past_length = self.n.input("past_length", ir.DataType.INT64, [])
        read_positions = self.n.input("read_positions", ir.DataType.INT64, ["num_read"])
        length = self.op("Squeeze", [self.op("Shape", [tokens], start=0, end=1)])
        total = self.op("Add", [past_length, length])
        total_int32 = self.op("Cast", [total], to=ir.DataType.INT32)
        seqlens_k = self.op("Reshape", [self.op("Sub", [total_int32, self.n.int32(1)]), self.n.int64([1])])
        cos, sin = rotary_tables(self.a)
        return _Segment(
            positions=self.op("Range", [past_length, total, self.n.int64(1)]),
            read_positions=read_positions,
            past_length=past_length,
            total=total,
            seqlens_k=seqlens_k,
            total_int32=total_int32,
            cos=self.n.keep(self.weights.constant("rotary.cos", cos, self.arithmetic.working)),
            sin=self.n.keep(self.weights.constant("rotary.sin", sin, self.arithmetic.working)),
        )

    def layer(self, i: int, hidden: ir.Value, delta: ir.Value | None, segment: _Segment) -> tuple[ir.Value, ir.Value]:
        """hidden, delta: the residual stream, and what is still to be added to it. Returns the same."""
        name = f"model.layers.{i}"
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        x = self.arithmetic.operand(self.arithmetic.enter(normed))
        qkv = self.arithmetic.linear(f"{name}.self_attn.qkv_proj", x, _attention(name, "qkv"), bias=True)
        projected = self.projected(name, self.attention(i, qkv, segment))
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, projected)
        return hidden, self.mlp(i, normed)

    def last_layer(self, i: int, hidden: ir.Value, delta: ir.Value | None, segment: _Segment) -> ir.Value:
        """The final hidden states at the read positions, normed: [num_read, hidden_size]."""
        name = f"model.layers.{i}"
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        keys, values = self.last_keys_and_values(i, normed, segment)
        hidden, normed = (self.op("Gather", [x, segment.read_positions]) for x in (hidden, normed))
        x = self.arithmetic.operand(self.arithmetic.enter(normed))
        queries = self.arithmetic.linear(f"{name}.self_attn.q_proj", x, _attention(name, "q"), bias=True)
        attended = self.arithmetic.enter(self.read_attention(queries, keys, values, segment))
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, self.projected(name, attended))
        return self.norm("model.norm.weight", hidden, self.mlp(i, normed))[1]

    def projected(self, layer: str, attended: ir.Value) -> ir.Value:
        """What attention adds to the residual stream, float32."""
        x = self.arithmetic.operand(attended)
        return self.arithmetic.leave(self.arithmetic.linear(f"{layer}.self_attn.o_proj", x, _attention(layer, "o")))

    def attention(self, i: int, qkv: ir.Value, segment: _Segment) -> ir.Value:
        """Causal attention of all tokens, from packed projections [tokens, (q + 2 kv) * head_size]."""
        cache: list[int | str] = [1, self.a.num_kv_heads, "capacity", self.a.head_size]
        kept = self.arithmetic.working
        past = [self.n.input(f"past.{i}.{kind}", kept, cache) for kind in ("key", "value")]
        attended, key, value = self.n.ops(
            "GroupQueryAttention",
            [
                self.op("Unsqueeze", [qkv, self.n.int64([0])]),
                None,
                None,
                *past,
                segment.seqlens_k,
                segment.total_int32,
                segment.cos,
                segment.sin,
            ],
            3,
            domain="com.microsoft",
            num_heads=self.a.num_heads,
            kv_num_heads=self.a.num_kv_heads,
            do_rotary=1,
        )
        self.n.output(key, f"present.{i}.key", kept, cache)
        self.n.output(value, f"present.{i}.value", kept, cache)
        return self.op("Squeeze", [attended, self.n.int64([0])])

    def last_keys_and_values(self, i: int, normed: ir.Value, segment: _Segment) -> tuple[ir.Value, ir.Value]:
        """Keys and values of all tokens, cached and new: [total, kv_size] each. The new ones are outputs."""
        name, size = f"model.layers.{i}", self.a.kv_size
        x = self.arithmetic.operand(self.arithmetic.enter(normed))
        projected = self.arithmetic.linear(f"{name}.self_attn.kv_proj", x, _attention(name, "kv"), bias=True)
        key, value = self.n.ops("Split", [projected, self.n.int64([size, size])], 2, axis=1)
        key = self.rotate(key, segment.positions, segment)
        whole = []
        for kind, new in (("key", key), ("value", value)):
            past = self.n.input(f"past.{i}.{kind}", self.arithmetic.working, ["past_length", size])
            whole.append(self.arithmetic.leave(self.op("Concat", [past, new], axis=0)))
            self.n.output(new, f"present.{i}.{kind}", self.arithmetic.working, ["num_tokens", size])
        return whole[0], whole[1]

    def read_attention(self, queries: ir.Value, keys: ir.Value, values: ir.Value, segment: _Segment) -> ir.Value:
        """Causal attention from the read positions alone. queries: working type [num_read, q_size]; keys and values
        float32. Returns float32 [num_read, q_size]."""
        groups, group, size = self.a.num_kv_heads, self.a.num_heads // self.a.num_kv_heads, self.a.head_size
        positions = self.op("Add", [segment.read_positions, segment.past_length])
        queries = self.arithmetic.leave(self.rotate(queries, positions, segment))
        queries = self.op("Mul", [queries, self.n.float32(size**-0.5)])
        # [num_read, q_size] -> [groups, num_read, group, size] -> [groups, num_read * group, size]
        queries = self.op("Reshape", [queries, self.n.int64([-1, groups, group * size])])
        queries = self.op("Transpose", [queries], perm=[1, 0, 2])
        queries = self.op("Reshape", [queries, self.n.int64([groups, -1, size])])
        keys = self.op("Transpose", [self.op("Reshape", [keys, self.n.int64([-1, groups, size])])], perm=[1, 2, 0])
        values = self.op("Transpose", [self.op("Reshape", [values, self.n.int64([-1, groups, size])])], perm=[1, 0, 2])
        scores = self.op("MatMul", [queries, keys])
        # [groups, num_read * group, total] -> [groups, num_read, group, total], to mask each read position
        key_positions = self.op("Range", [self.n.int64(0), segment.total, self.n.int64(1)])
        future = self.op("Greater", [key_positions, self.op("Unsqueeze", [positions, self.n.int64([1, 2])])])
        mask = self.op("Where", [future, self.n.float32(-np.inf), self.n.float32(0)])
        total = self.op("Reshape", [segment.total, self.n.int64([1])])
        split = self.op("Concat", [self.n.int64([groups, -1, group]), total], axis=0)
        scores = self.op("Add", [self.op("Reshape", [scores, split]), mask])
        weights = self.op("Softmax", [scores], axis=-1)
        weights = self.op("Reshape", [weights, self.op("Concat", [self.n.int64([groups, -1]), total], axis=0)])
        attended = self.op("MatMul", [weights, values])
        attended = self.op("Reshape", [attended, self.n.int64([groups, -1, group * size])])
        attended = self.op("Transpose", [attended], perm=[1, 0, 2])
        return self.op("Reshape", [attended, self.n.int64([-1, self.a.q_size])])

    def mlp(self, i: int, normed: ir.Value) -> ir.Value:
        """What the MLP adds to the residual stream, float32."""
        name, arithmetic = f"model.layers.{i}.mlp", self.wide_arithmetic if i in self.wide else self.arithmetic
        x = arithmetic.operand(arithmetic.enter(normed))
        gate = arithmetic.linear(f"{name}.gate_proj", x, [f"{name}.gate_proj"])
        # The scale of `up` can wait until after the next product: no node for it over [tokens, intermediate_size].
        up = arithmetic.raw(f"{name}.up_proj", x, [f"{name}.up_proj"])
        # QuickGelu is x * sigmoid(alpha * x): with alpha 1, SiLU in one kernel.
        activated = self.op("QuickGelu", [gate], domain="com.microsoft", alpha=1.0)
        inner = arithmetic.mixed(self.op("Mul", [activated, up]), self.a.intermediate_size)
        x = arithmetic.operand(inner, pending=x.scale)
        return arithmetic.leave(arithmetic.linear(f"{name}.down_proj", x, [f"{name}.down_proj"]))

    def head(self, head: Head, names: list[tuple[str, str]], x: ir.Value) -> ir.Value:
        """[num_read, hidden_size] -> rewards [num_read]."""
        for i, (weight, bias) in enumerate(names):
            if i:
                x = self.op("Relu", [x])
            x = self.op(
                "Gemm", [x, self.weight(weight, f"head.{i}.weight"), self.weight(bias, f"head.{i}.bias")], transB=1
            )
        if head.activation == "softmax":
            return self.op("Gather", [self.op("Softmax", [x], axis=-1), self.n.int64(head.positive)], axis=1)
        return self.op("Squeeze", [self.op("Sigmoid", [x]), self.n.int64([1])])

    def norm(self, weight: str, hidden: ir.Value, delta: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """hidden + delta, and the RMS norm of that, in one kernel."""
        scale = self.weight(weight)
        if delta is None:
            normed = self.op("SimplifiedLayerNormalization", [hidden, scale], epsilon=self.a.norm_epsilon, axis=-1)
            return hidden, normed
        normed, mean, deviation, summed = self.n.ops(
            "SkipSimplifiedLayerNormalization",
            [hidden, delta, scale],
            4,
            domain="com.microsoft",
            epsilon=self.a.norm_epsilon,
        )
        mean.name = deviation.name = ""  # left out
        return summed, normed

    def rotate(self, x: ir.Value, positions: ir.Value, segment: _Segment) -> ir.Value:
        """Rotary embedding of [tokens, heads * head_size] at absolute positions [tokens]."""
        batch = self.n.int64([0])
        inputs = [self.op("Unsqueeze", [x, batch]), self.op("Unsqueeze", [positions, batch]), segment.cos, segment.sin]
        return self.op("Squeeze", [self.op("RotaryEmbedding", inputs, domain="com.microsoft"), batch])

    def weight(self, source: str, name: str | None = None) -> ir.Value:
        return self.n.keep(self.weights.stacked(name or source, [source]))


def seam(i: int) -> tuple[str, str]:
    """The names of the residual stream before layer i, and of what is still to be added to it (from layer 1 on)."""
    return f"layer.{i}.hidden", f"layer.{i}.delta"


def _attention(layer: str, parts: str) -> list[str]:
    return [f"{layer}.self_attn.{part}_proj" for part in parts]


def rotary_tables(architecture: Architecture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, float32 [max_positions, head_size / 2] each, in the float32 arithmetic of transformers."""
    import torch

    steps = torch.arange(0, architecture.head_size, 2, dtype=torch.int64).float() / architecture.head_size
    frequencies = 1.0 / (architecture.rope_theta**steps)
    angles = torch.outer(torch.arange(architecture.max_positions).float(), frequencies)
    return angles.cos().numpy(), angles.sin().numpy()
