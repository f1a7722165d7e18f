"""Attention, the one part of the network that knows of lanes.

In: projections of a run's tokens. Out: what each token attended to; new keys and values become outputs of the graph.

Every layer but the last attends with a GroupQueryAttention a lane, which rotates queries and keys and appends to the
lane's KV buffer. The last layer attends from the read-outs alone, with plain nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.families.backbones import KEY_NORM, QUERY_NORM
from rfprm_export.graph.arithmetic import Arithmetic
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Weights

Rotary = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Cosines and sines, float32 [positions, head_size / 2] each."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Tokens on top of a KV buffer of their own.

    Attributes:
        total: int64 [1], tokens in the buffer after the run.
        total_int32: The same, int32 [], for GroupQueryAttention.
        seqlens_k: total - 1, int32 [1], for GroupQueryAttention.
        read_at: int64 [num_read of the lane], positions of the read-outs in the lane's sequence.
    """

    total: ir.Value
    total_int32: ir.Value
    seqlens_k: ir.Value
    read_at: ir.Value


@dataclass(frozen=True, slots=True)
class Run:
    """What every layer needs to know of a run.

    Attributes:
        positions: int64 [tokens], where each token stands in its sequence.
        read_rows: int64 [num_read], the rows of the read-outs.
        lane_tokens: int64 [lanes], rows of each lane.
        lane_reads: int64 [lanes], read-outs of each lane.
        lanes: The lanes.
        cos: Cosines of the rotary embedding, [positions, head_size / 2].
        sin: Sines of it.
    """

    positions: ir.Value
    read_rows: ir.Value
    lane_tokens: ir.Value
    lane_reads: ir.Value
    lanes: Sequence[Lane]
    cos: ir.Value
    sin: ir.Value


def declare_run(nodes: Nodes, weights: Weights, num_lanes: int, rotary: Rotary, working: ir.DataType) -> Run:
    """Declare the inputs that describe a run, and the tables of rotary embedding in the working type."""
    positions = nodes.input("positions", ir.DataType.INT64, ["num_tokens"])
    lane_tokens = nodes.input("lane_tokens", ir.DataType.INT64, [num_lanes])
    lane_totals = nodes.input("lane_totals", ir.DataType.INT64, [num_lanes])
    read_rows = nodes.input("read_rows", ir.DataType.INT64, ["num_read"])
    lane_reads = nodes.input("lane_reads", ir.DataType.INT64, [num_lanes])
    read_at = _split(nodes, nodes.op("Gather", [positions, read_rows]), lane_reads, num_lanes)
    return Run(
        positions=positions,
        read_rows=read_rows,
        lane_tokens=lane_tokens,
        lane_reads=lane_reads,
        lanes=[_lane(nodes, i, lane_totals, positions_of_lane) for i, positions_of_lane in enumerate(read_at)],
        cos=nodes.keep(weights.constant("rotary.cos", rotary[0], working)),
        sin=nodes.keep(weights.constant("rotary.sin", rotary[1], working)),
    )


class HeadNorms:
    """What attention does to queries and keys, and to scores, wherever keys and values are."""

    def __init__(self, nodes: Nodes, weights: Weights, architecture: Architecture, arithmetic: Arithmetic) -> None:
        self.architecture, self.arithmetic, self.nodes, self.weights = architecture, arithmetic, nodes, weights
        self.op = nodes.op

    def packed_or_normed(self, i: int, qkv: ir.Value) -> Sequence[ir.Value]:
        """What attention takes: packed projections; or queries, keys and values, where a norm comes between."""
        if not self.architecture.kind.qk_norm:
            return [qkv]
        sizes = self.nodes.int64([self.architecture.q_size, self.architecture.kv_size, self.architecture.kv_size])
        queries, keys, values = self.nodes.ops("Split", [qkv, sizes], 3, axis=1)
        return [self.head_norm(i, QUERY_NORM, queries), self.head_norm(i, KEY_NORM, keys), values]

    def head_norm(self, i: int, norm: str, x: ir.Value) -> ir.Value:
        """Norm each head of [tokens, heads * head_size], where the backbone does so; working type."""
        if not self.architecture.kind.qk_norm:
            return x
        size = self.architecture.q_size if norm == QUERY_NORM else self.architecture.kv_size
        name = f"model.layers.{i}.{norm}.weight"
        scale = self.nodes.keep(self.weights.stacked(name, [name]))
        heads = self.op("Reshape", [self.arithmetic.leave(x), self.nodes.int64([-1, self.architecture.head_size])])
        epsilon = self.architecture.norm_epsilon
        normed = self.op("SimplifiedLayerNormalization", [heads, scale], epsilon=epsilon, axis=-1)
        return self.arithmetic.enter(self.op("Reshape", [normed, self.nodes.int64([-1, size])]))

    def of_scores(self, i: int) -> dict[str, float]:
        """The attributes by which a layer's scores differ from plain ones."""
        a, attributes = self.architecture, dict[str, float]()
        if (window := a.windows[i]) is not None:
            attributes["local_window_size"] = window
        if a.query_scale != a.head_size**-0.5:
            attributes["scale"] = a.query_scale
        if a.softcap is not None:
            attributes["softcap"] = a.softcap
        return attributes


class Attention(HeadNorms):
    """Writes the nodes between the projections of a layer."""

    def __init__(
        self, nodes: Nodes, weights: Weights, architecture: Architecture, arithmetic: Arithmetic, run: Run
    ) -> None:
        super().__init__(nodes, weights, architecture, arithmetic)
        self.run = run

    def causal(self, i: int, qkv: ir.Value) -> ir.Value:
        """Attend from all tokens of layer i: packed projections [tokens, q + 2 kv] -> [tokens, q], working type."""
        batch = self.nodes.int64([0])
        taken = [self.op("Unsqueeze", [rows, batch]) for rows in self.packed_or_normed(i, qkv)]
        parts = [self._split(rows, self.run.lane_tokens, axis=1) for rows in taken]
        lanes = [self._lane_causal(i, lane, rows) for lane, rows in enumerate(zip(*parts, strict=True))]
        return self.op("Squeeze", [self._join(lanes, axis=1), batch])

    def _lane_causal(self, i: int, index: int, rows: Sequence[ir.Value]) -> ir.Value:
        cache: list[int | str] = [1, self.architecture.num_kv_heads, f"capacity.{index}", self.architecture.head_size]
        dtype, lane = self.arithmetic.working, self.run.lanes[index]
        past = [self.nodes.input(f"past.{i}.{kind}.{index}", dtype, cache) for kind in ("key", "value")]
        attended, key, value = self.nodes.ops(
            "GroupQueryAttention",
            [
                *rows,
                *[None] * (3 - len(rows)),
                *past,
                lane.seqlens_k,
                lane.total_int32,
                self.run.cos,
                self.run.sin,
            ],
            3,
            domain="com.microsoft",
            num_heads=self.architecture.num_heads,
            kv_num_heads=self.architecture.num_kv_heads,
            do_rotary=1,
            **self.of_scores(i),
        )
        self.nodes.output(key, f"present.{i}.key.{index}", dtype, cache)
        self.nodes.output(value, f"present.{i}.value.{index}", dtype, cache)
        return attended

    def cached_and_new(self, i: int, keys_and_values: ir.Value) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        """Put the last layer's new keys and values behind the cached ones; the new ones are outputs.

        Args:
            i: The last layer.
            keys_and_values: Projections of all tokens, [tokens, 2 kv].

        Returns:
            Each lane's keys and its values, float32 [total, kv] each.
        """
        size = self.architecture.kv_size
        key, value = self.nodes.ops("Split", [keys_and_values, self.nodes.int64([size, size])], 2, axis=1)
        rotated = self._rotate(self.head_norm(i, KEY_NORM, key), self.run.positions)
        return self._append(i, "key", rotated), self._append(i, "value", value)

    def _append(self, i: int, kind: str, new: ir.Value) -> Sequence[ir.Value]:
        size, dtype, whole = self.architecture.kv_size, self.arithmetic.working, []
        for lane, part in enumerate(self._split(new, self.run.lane_tokens)):
            past = self.nodes.input(f"past.{i}.{kind}.{lane}", dtype, [f"past.{lane}", size])
            whole.append(self.arithmetic.leave(self.op("Concat", [past, part], axis=0)))
            self.nodes.output(part, f"present.{i}.{kind}.{lane}", dtype, [f"tokens.{lane}", size])
        return whole

    def from_read_outs(
        self, i: int, queries: ir.Value, keys: Sequence[ir.Value], values: Sequence[ir.Value]
    ) -> ir.Value:
        """Attend from the read-outs alone.

        Args:
            i: The last layer.
            queries: Working type, [num_read, q].
            keys: Of each lane, float32 [total, kv].
            values: Of each lane, float32 [total, kv].

        Returns:
            float32 [num_read, q].
        """
        positions = self.op("Gather", [self.run.positions, self.run.read_rows])
        queries = self.arithmetic.leave(self._rotate(self.head_norm(i, QUERY_NORM, queries), positions))
        scaled = self.op("Mul", [queries, self.nodes.float32(self.architecture.query_scale)])
        parts = zip(self._split(scaled, self.run.lane_reads), keys, values, self.run.lanes, strict=True)
        window = self.architecture.windows[i]
        return self._join([self._lane_from_read_outs(*part, window) for part in parts])

    def _lane_from_read_outs(
        self, queries: ir.Value, keys: ir.Value, values: ir.Value, lane: Lane, window: int | None
    ) -> ir.Value:
        groups, size = self.architecture.num_kv_heads, self.architecture.head_size
        group, int64 = self.architecture.num_heads // groups, self.nodes.int64
        # [num_read, q] -> [groups, num_read, group, size] -> [groups, num_read * group, size]
        queries = self.op("Reshape", [queries, int64([-1, groups, group * size])])
        queries = self.op("Transpose", [queries], perm=[1, 0, 2])
        queries = self.op("Reshape", [queries, int64([groups, -1, size])])
        keys = self.op("Transpose", [self.op("Reshape", [keys, int64([-1, groups, size])])], perm=[1, 2, 0])
        values = self.op("Transpose", [self.op("Reshape", [values, int64([-1, groups, size])])], perm=[1, 0, 2])
        scores = self._softcapped(self.op("MatMul", [queries, keys]))
        # [groups, num_read * group, total] -> [groups, num_read, group, total], to mask each read-out
        mask = self._mask(lane, window)
        split = self.op("Concat", [int64([groups, -1, group]), lane.total], axis=0)
        scores = self.op("Add", [self.op("Reshape", [scores, split]), mask])
        weights = self.op("Softmax", [scores], axis=-1)
        weights = self.op("Reshape", [weights, self.op("Concat", [int64([groups, -1]), lane.total], axis=0)])
        attended = self.op("MatMul", [weights, values])
        attended = self.op("Reshape", [attended, int64([groups, -1, group * size])])
        attended = self.op("Transpose", [attended], perm=[1, 0, 2])
        return self.op("Reshape", [attended, int64([-1, self.architecture.q_size])])

    def _softcapped(self, scores: ir.Value) -> ir.Value:
        if (bound := self.architecture.softcap) is None:
            return scores
        within = self.op("Tanh", [self.op("Mul", [scores, self.nodes.float32(1 / bound)])])
        return self.op("Mul", [within, self.nodes.float32(bound)])

    def _mask(self, lane: Lane, window: int | None) -> ir.Value:
        """What is added to the scores of each read-out's tokens: -inf for those behind it, or beyond its window."""
        int64 = self.nodes.int64
        key_positions = self.op("Range", [int64(0), self.op("Squeeze", [lane.total]), int64(1)])
        read_at = self.op("Unsqueeze", [lane.read_at, int64([1, 2])])
        hidden, shown = self.nodes.float32(-np.inf), self.nodes.float32(0)
        mask = self.op("Where", [self.op("Greater", [key_positions, read_at]), hidden, shown])
        if window is None:
            return mask
        first = self.op("Sub", [read_at, int64(window - 1)])
        return self.op("Where", [self.op("Greater", [first, key_positions]), hidden, mask])

    def _rotate(self, x: ir.Value, positions: ir.Value) -> ir.Value:
        """Rotary embedding of [tokens, heads * head_size] at absolute positions [tokens]."""
        batch = self.nodes.int64([0])
        inputs = [self.op("Unsqueeze", [x, batch]), self.op("Unsqueeze", [positions, batch])]
        rotated = self.op("RotaryEmbedding", [*inputs, self.run.cos, self.run.sin], domain="com.microsoft")
        return self.op("Squeeze", [rotated, batch])

    def _split(self, rows: ir.Value, sizes: ir.Value, axis: int = 0) -> Sequence[ir.Value]:
        return _split(self.nodes, rows, sizes, len(self.run.lanes), axis)

    def _join(self, rows: Sequence[ir.Value], axis: int = 0) -> ir.Value:
        """Put the rows of all lanes together."""
        return rows[0] if len(rows) == 1 else self.op("Concat", rows, axis=axis)


def _lane(nodes: Nodes, i: int, totals: ir.Value, read_at: ir.Value) -> Lane:
    total = nodes.op("Gather", [totals, nodes.int64([i])])
    total_int32 = nodes.op("Cast", [total], to=ir.DataType.INT32)
    seqlens_k = nodes.op("Sub", [total_int32, nodes.int32(1)])
    return Lane(total, nodes.op("Squeeze", [total_int32]), seqlens_k, read_at)


def _split(nodes: Nodes, rows: ir.Value, sizes: ir.Value, num_lanes: int, axis: int = 0) -> Sequence[ir.Value]:
    """Each lane's rows."""
    return [rows] if num_lanes == 1 else nodes.ops("Split", [rows, sizes], num_lanes, axis=axis)
