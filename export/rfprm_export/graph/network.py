"""The graph of a Qwen2 PRM, written node by node.

In: an architecture, the head, and weights by their checkpoint names. Out: an ONNX model that keeps the contract of
rfprm_lite.engine.engine: a segment's tokens on top of a KV cache, rewards at the positions to read, no LM head.

All activations are 2-D, [tokens, features]: one row a token, whatever lane it belongs to. Only attention knows of
lanes. Every layer but the last attends with a GroupQueryAttention a lane, which rotates queries and keys and appends to
the lane's KV buffer. The last layer computes keys and values for all tokens, since later segments attend to them, and
everything else (queries, attention, MLP, norm, head) at the read positions alone.

Whatever the arithmetic of the products, the residual stream, norms, the last layer's softmax, head and rewards are
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.checkpoint.tensors import Architecture
from rfprm_export.graph.arithmetic import Arithmetic, Weights
from rfprm_export.graph.floating import FloatArithmetic
from rfprm_export.graph.nodes import Nodes
from rfprm_lite.bundle.recipe import Head

Rotary = tuple[NDArray[np.float32], NDArray[np.float32]]

OPSETS = {"": 18, "com.microsoft": 1}


@dataclass(frozen=True, slots=True)
class _Lane:
    """Tokens on top of a KV buffer of their own.

    total: int64 [1], tokens in the buffer after the run; total_int32 [] and seqlens_k int32 [1] (total - 1) say it
    again for GroupQueryAttention. reads: int64 [num_read of the lane], positions in the lane's sequence.
    """

    total: ir.Value
    total_int32: ir.Value
    seqlens_k: ir.Value
    reads: ir.Value


@dataclass(frozen=True, slots=True)
class _Run:
    """What every layer needs to know of the run: where each token stands in its sequence, which rows are read, and how
    many rows and reads each lane has."""

    positions: ir.Value
    read_rows: ir.Value
    lane_tokens: ir.Value
    lane_reads: ir.Value
    lanes: Sequence[_Lane]
    cos: ir.Value
    sin: ir.Value


def build(
    architecture: Architecture,
    head: Head,
    head_names: Iterable[tuple[str, str]],
    weights: Weights,
    arithmetic: Callable[[Nodes, Weights], Arithmetic],
    lanes: int,
    rotary: Rotary,
    wide: Collection[int] = (),
) -> ir.Model:
    """The graph, its initializers already written by `weights`. lanes: segments that one run can hold. rotary: cosines
    and sines, float32 [positions, head_size / 2]. wide: the layers whose MLP is float32 all the same."""
    return Writer(architecture, weights, arithmetic, lanes, rotary, wide).model(head, list(head_names))


class Writer:
    """Each method writes one part of the network."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        arithmetic: Callable[[Nodes, Weights], Arithmetic],
        lanes: int,
        rotary: Rotary,
        wide: Collection[int],
    ) -> None:
        self.a = architecture
        self.num_lanes = lanes
        self.rotary = rotary
        self.weights = weights
        self.n = Nodes()
        self.op = self.n.op
        self.arithmetic = arithmetic(self.n, weights)
        self.wide_arithmetic = FloatArithmetic(self.n, weights)
        self.wide = frozenset(wide)

    def model(self, head: Head, head_names: list[tuple[str, str]]) -> ir.Model:
        ids = self.n.input("input_ids", ir.DataType.INT64, ["num_tokens"])
        run = self.run()
        hidden = self.arithmetic.lookup("model.embed_tokens.weight", ids, self.a.hidden_size)
        delta: ir.Value | None = None
        for i in range(self.a.num_layers - 1):
            self.seam(i, hidden, delta)
            hidden, delta = self.layer(i, hidden, delta, run)
        self.seam(self.a.num_layers - 1, hidden, delta)
        hidden = self.last_layer(self.a.num_layers - 1, hidden, delta, run)
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
        """Name what layer i reads, so that the graph can be cut there (rfprm_export.parity.stages)."""
        for name, value in zip(seam(i), (hidden, delta), strict=True):
            if value is not None:
                value.name, value.dtype = name, ir.DataType.FLOAT
                value.shape = ir.Shape(["num_tokens", self.a.hidden_size])

    # --- parts of the network ---------------------------------------------------------------------------------

    def run(self) -> _Run:
        positions = self.n.input("positions", ir.DataType.INT64, ["num_tokens"])
        lane_tokens = self.n.input("lane_tokens", ir.DataType.INT64, [self.num_lanes])
        lane_totals = self.n.input("lane_totals", ir.DataType.INT64, [self.num_lanes])
        read_rows = self.n.input("read_rows", ir.DataType.INT64, ["num_read"])
        lane_reads = self.n.input("lane_reads", ir.DataType.INT64, [self.num_lanes])
        reads = self.split(self.op("Gather", [positions, read_rows]), lane_reads)
        return _Run(
            positions=positions,
            read_rows=read_rows,
            lane_tokens=lane_tokens,
            lane_reads=lane_reads,
            lanes=[self.lane(i, lane_totals, own) for i, own in enumerate(reads)],
            cos=self.n.keep(self.weights.constant("rotary.cos", self.rotary[0], self.arithmetic.working)),
            sin=self.n.keep(self.weights.constant("rotary.sin", self.rotary[1], self.arithmetic.working)),
        )

    def lane(self, i: int, totals: ir.Value, reads: ir.Value) -> _Lane:
        total = self.op("Gather", [totals, self.n.int64([i])])
        total_int32 = self.op("Cast", [total], to=ir.DataType.INT32)
        seqlens_k = self.op("Sub", [total_int32, self.n.int32(1)])
        return _Lane(total, self.op("Squeeze", [total_int32]), seqlens_k, reads)

    def split(self, rows: ir.Value, sizes: ir.Value) -> Sequence[ir.Value]:
        """Each lane's rows."""
        if self.num_lanes == 1:
            return [rows]
        return self.n.ops("Split", [rows, sizes], self.num_lanes, axis=0)

    def joined(self, rows: Sequence[ir.Value]) -> ir.Value:
        """The rows of all lanes."""
        return rows[0] if self.num_lanes == 1 else self.op("Concat", rows, axis=0)

    def layer(self, i: int, hidden: ir.Value, delta: ir.Value | None, run: _Run) -> tuple[ir.Value, ir.Value]:
        """hidden, delta: the residual stream, and what is still to be added to it. Returns the same."""
        name = f"model.layers.{i}"
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        x = self.arithmetic.operand(self.entered(self.arithmetic, normed))
        qkv = self.arithmetic.linear(f"{name}.self_attn.qkv_proj", x, _attention(name, "qkv"), bias=True)
        projected = self.projected(name, self.attention(i, qkv, run))
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, projected)
        return hidden, self.mlp(i, normed)

    def last_layer(self, i: int, hidden: ir.Value, delta: ir.Value | None, run: _Run) -> ir.Value:
        """The final hidden states at the read positions, normed: [num_read, hidden_size]."""
        name = f"model.layers.{i}"
        hidden, normed = self.norm(f"{name}.input_layernorm.weight", hidden, delta)
        entered = self.entered(self.arithmetic, normed)
        keys, values = self.last_keys_and_values(i, entered, run)
        hidden, entered = (self.op("Gather", [x, run.read_rows]) for x in (hidden, entered))
        x = self.arithmetic.operand(entered)
        queries = self.arithmetic.linear(f"{name}.self_attn.q_proj", x, _attention(name, "q"), bias=True)
        attended = self.arithmetic.enter(self.read_attention(queries, keys, values, run))
        hidden, normed = self.norm(f"{name}.post_attention_layernorm.weight", hidden, self.projected(name, attended))
        return self.norm("model.norm.weight", hidden, self.mlp(i, normed))[1]

    def entered(self, arithmetic: Arithmetic, normed: ir.Value) -> ir.Value:
        """What a norm gives, float32, as products read it."""
        return arithmetic.mixed(arithmetic.enter(normed), self.a.hidden_size)

    def projected(self, layer: str, attended: ir.Value) -> ir.Value:
        """What attention adds to the residual stream, float32."""
        x = self.arithmetic.operand(attended)
        return self.arithmetic.leave(self.arithmetic.linear(f"{layer}.self_attn.o_proj", x, _attention(layer, "o")))

    def attention(self, i: int, qkv: ir.Value, run: _Run) -> ir.Value:
        """Causal attention of all tokens, from packed projections [tokens, (q + 2 kv) * head_size]."""
        parts = self.split(qkv, run.lane_tokens)
        attended = [
            self.lane_attention(i, at, part, lane, run)
            for at, (part, lane) in enumerate(zip(parts, run.lanes, strict=True))
        ]
        return self.joined(attended)

    def lane_attention(self, i: int, at: int, qkv: ir.Value, lane: _Lane, run: _Run) -> ir.Value:
        cache: list[int | str] = [1, self.a.num_kv_heads, f"capacity.{at}", self.a.head_size]
        kept = self.arithmetic.working
        past = [self.n.input(f"past.{i}.{kind}.{at}", kept, cache) for kind in ("key", "value")]
        attended, key, value = self.n.ops(
            "GroupQueryAttention",
            [
                self.op("Unsqueeze", [qkv, self.n.int64([0])]),
                None,
                None,
                *past,
                lane.seqlens_k,
                lane.total_int32,
                run.cos,
                run.sin,
            ],
            3,
            domain="com.microsoft",
            num_heads=self.a.num_heads,
            kv_num_heads=self.a.num_kv_heads,
            do_rotary=1,
        )
        self.n.output(key, f"present.{i}.key.{at}", kept, cache)
        self.n.output(value, f"present.{i}.value.{at}", kept, cache)
        return self.op("Squeeze", [attended, self.n.int64([0])])

    def last_keys_and_values(
        self, i: int, entered: ir.Value, run: _Run
    ) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        """Each lane's keys and values, cached and new, float32: [total, kv_size] each. The new ones are outputs."""
        name, size = f"model.layers.{i}", self.a.kv_size
        x = self.arithmetic.operand(entered)
        projected = self.arithmetic.linear(f"{name}.self_attn.kv_proj", x, _attention(name, "kv"), bias=True)
        key, value = self.n.ops("Split", [projected, self.n.int64([size, size])], 2, axis=1)
        key = self.rotate(key, run.positions, run)
        return self.whole(i, "key", key, run), self.whole(i, "value", value, run)

    def whole(self, i: int, kind: str, new: ir.Value, run: _Run) -> Sequence[ir.Value]:
        size, kept = self.a.kv_size, self.arithmetic.working
        whole = []
        for at, own in enumerate(self.split(new, run.lane_tokens)):
            past = self.n.input(f"past.{i}.{kind}.{at}", kept, [f"past.{at}", size])
            whole.append(self.arithmetic.leave(self.op("Concat", [past, own], axis=0)))
            self.n.output(own, f"present.{i}.{kind}.{at}", kept, [f"tokens.{at}", size])
        return whole

    def read_attention(
        self, queries: ir.Value, keys: Sequence[ir.Value], values: Sequence[ir.Value], run: _Run
    ) -> ir.Value:
        """Causal attention from the read positions alone. queries: working type [num_read, q_size]; keys and values
        of each lane float32. Returns float32 [num_read, q_size]."""
        positions = self.op("Gather", [run.positions, run.read_rows])
        queries = self.arithmetic.leave(self.rotate(queries, positions, run))
        scaled = self.op("Mul", [queries, self.n.float32(self.a.head_size**-0.5)])
        parts = zip(self.split(scaled, run.lane_reads), keys, values, run.lanes, strict=True)
        return self.joined([self.lane_read_attention(*part) for part in parts])

    def lane_read_attention(self, queries: ir.Value, keys: ir.Value, values: ir.Value, lane: _Lane) -> ir.Value:
        groups, group, size = self.a.num_kv_heads, self.a.num_heads // self.a.num_kv_heads, self.a.head_size
        # [num_read, q_size] -> [groups, num_read, group, size] -> [groups, num_read * group, size]
        queries = self.op("Reshape", [queries, self.n.int64([-1, groups, group * size])])
        queries = self.op("Transpose", [queries], perm=[1, 0, 2])
        queries = self.op("Reshape", [queries, self.n.int64([groups, -1, size])])
        keys = self.op("Transpose", [self.op("Reshape", [keys, self.n.int64([-1, groups, size])])], perm=[1, 2, 0])
        values = self.op("Transpose", [self.op("Reshape", [values, self.n.int64([-1, groups, size])])], perm=[1, 0, 2])
        scores = self.op("MatMul", [queries, keys])
        # [groups, num_read * group, total] -> [groups, num_read, group, total], to mask each read position
        key_positions = self.op("Range", [self.n.int64(0), self.op("Squeeze", [lane.total]), self.n.int64(1)])
        future = self.op("Greater", [key_positions, self.op("Unsqueeze", [lane.reads, self.n.int64([1, 2])])])
        mask = self.op("Where", [future, self.n.float32(-np.inf), self.n.float32(0)])
        split = self.op("Concat", [self.n.int64([groups, -1, group]), lane.total], axis=0)
        scores = self.op("Add", [self.op("Reshape", [scores, split]), mask])
        weights = self.op("Softmax", [scores], axis=-1)
        weights = self.op("Reshape", [weights, self.op("Concat", [self.n.int64([groups, -1]), lane.total], axis=0)])
        attended = self.op("MatMul", [weights, values])
        attended = self.op("Reshape", [attended, self.n.int64([groups, -1, group * size])])
        attended = self.op("Transpose", [attended], perm=[1, 0, 2])
        return self.op("Reshape", [attended, self.n.int64([-1, self.a.q_size])])

    def mlp(self, i: int, normed: ir.Value) -> ir.Value:
        """What the MLP adds to the residual stream, float32."""
        name, arithmetic = f"model.layers.{i}.mlp", self.wide_arithmetic if i in self.wide else self.arithmetic
        x = arithmetic.operand(self.entered(arithmetic, normed))
        # Two products, since only gate's needs its scale now: one for both would be split, which is a copy.
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

    def rotate(self, x: ir.Value, positions: ir.Value, run: _Run) -> ir.Value:
        """Rotary embedding of [tokens, heads * head_size] at absolute positions [tokens]."""
        batch = self.n.int64([0])
        inputs = [self.op("Unsqueeze", [x, batch]), self.op("Unsqueeze", [positions, batch]), run.cos, run.sin]
        return self.op("Squeeze", [self.op("RotaryEmbedding", inputs, domain="com.microsoft"), batch])

    def weight(self, source: str, name: str | None = None) -> ir.Value:
        return self.n.keep(self.weights.stacked(name or source, [source]))


def seam(i: int) -> tuple[str, str]:
    """The names of the residual stream before layer i, and of what is still to be added to it (from layer 1 on)."""
    return f"layer.{i}.hidden", f"layer.{i}.delta"


def _attention(layer: str, parts: str) -> list[str]:
    return [f"{layer}.self_attn.{part}_proj" for part in parts]
