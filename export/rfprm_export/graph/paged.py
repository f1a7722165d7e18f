"""Attention on pages, for CUDA: one PagedAttention a layer for all sequences of a run.

In: packed projections of a run's tokens, sequence after sequence. Out: what each token attended to; new keys and values
are written into the pages, which are inputs and outputs of the graph in one buffer. The inputs are described in
rfprm_lite.engine.paged.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.graph.arithmetic import Arithmetic
from rfprm_export.graph.attention import HeadNorms, Rotary
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Weights

KINDS = ("key", "value")


@dataclass(frozen=True, slots=True)
class PagedRun:
    """What every layer needs to know of a run; all but `read_rows` are inputs of PagedAttention.

    Attributes:
        token_starts: int32 [sequences + 1], where each sequence's tokens begin, then how many there are.
        pasts: int32 [sequences], tokens of each sequence before these.
        pages: int32 [sequences, most pages], the pages of each sequence.
        slots: int32 [tokens], where each token's keys and values are written.
        bounds: int32 [3], in the CPU's memory: the largest lengths.
        read_rows: int64 [num_read], the rows of the read-outs.
        cos: Cosines of the rotary embedding, [positions, head_size / 2].
        sin: Sines of it.
    """

    token_starts: ir.Value
    pasts: ir.Value
    pages: ir.Value
    slots: ir.Value
    bounds: ir.Value
    read_rows: ir.Value
    cos: ir.Value
    sin: ir.Value


def declare_pages(nodes: Nodes, weights: Weights, rotary: Rotary, working: ir.DataType) -> PagedRun:
    """Declare the inputs that describe a run, and the tables of rotary embedding in the working type."""
    int32 = ir.DataType.INT32
    return PagedRun(
        token_starts=nodes.input("token_starts", int32, ["num_sequences_1"]),
        pasts=nodes.input("pasts", int32, ["num_sequences"]),
        pages=nodes.input("pages", int32, ["num_sequences", "most_pages"]),
        slots=nodes.input("slots", int32, ["num_tokens"]),
        bounds=nodes.input("bounds", int32, [3]),
        read_rows=nodes.input("read_rows", ir.DataType.INT64, ["num_read"]),
        cos=nodes.keep(weights.constant("rotary.cos", rotary[0], working)),
        sin=nodes.keep(weights.constant("rotary.sin", rotary[1], working)),
    )


class PagedAttention(HeadNorms):
    """Writes the node between the projections of a layer."""

    def __init__(
        self, nodes: Nodes, weights: Weights, architecture: Architecture, arithmetic: Arithmetic, run: PagedRun
    ) -> None:
        super().__init__(nodes, weights, architecture, arithmetic)
        self.run, self.working = run, arithmetic.working

    def causal(self, i: int, qkv: ir.Value) -> ir.Value:
        """Attend from all tokens of layer i: packed projections [tokens, q + 2 kv] -> [tokens, q], working type."""
        a, run = self.architecture, self.run
        shape: list[int | str] = ["num_pages", "page_tokens", a.num_kv_heads, a.head_size]
        past = [self.nodes.input(f"past.{i}.{kind}", self.working, shape) for kind in KINDS]
        rows = self.packed_or_normed(i, qkv)
        absent = [None] * 5  # of a sink, of norms of queries and keys, of scales for a quantised cache
        attended, *present = self.nodes.ops(
            "PagedAttention",
            [
                *rows, *[None] * (3 - len(rows)), *past, run.token_starts, run.pasts, run.pages, run.cos, run.sin,
                run.slots, *absent, run.bounds,
            ],
            3,
            domain="com.microsoft",
            num_heads=a.num_heads,
            kv_num_heads=a.num_kv_heads,
            do_rotary=1,
            **self.of_scores(i),
        )  # fmt: skip
        for kind, value in zip(KINDS, present, strict=True):
            self.nodes.output(value, f"present.{i}.{kind}", self.working, shape)
        return attended
