"""A paged graph without a GPU: onnx's reference evaluator, with ONNX Runtime's own operators written out in numpy.

PagedAttention follows the schema of onnxruntime-gpu 1.31.1 and what its kernel checks (contrib_ops/cuda/bert:
paged_attention.cc, paged_attention_helper.h), as far as our graphs use it. Sums are float32, as on a GPU; results have
the type of the inputs. Pages are numpy arrays, written in place; what nobody wrote is NaN, so that reading it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from rfprm_lite.engine.paged import PagedEngine, PageLayout, check_contract
from rfprm_lite.engine.pages import Copy
from rfprm_lite.plan.cancel import Cancellation

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"


def wide(x: Array) -> Array:
    return x.astype(np.float32)


class Gemm(OpRun):
    op_domain = ""

    def _run(self, a: Array, b: Array, c: Array | None = None, transB: int = 0, **_: Any) -> tuple[Array]:
        product = wide(a) @ (wide(b).T if transB else wide(b))
        return ((product if c is None else product + wide(c)).astype(a.dtype),)


class MatMul(OpRun):
    op_domain = ""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return ((wide(a) @ wide(b)).astype(a.dtype),)


def normed(x: Array, scale: Array, epsilon: float) -> Array:
    return (x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon)) * scale).astype(np.float32)


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x: Array, scale: Array, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> tuple[Array]:
        assert axis == -1
        return (normed(x, scale, epsilon),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = MICROSOFT

    def _run(self, x: Array, skip: Array, gamma: Array, epsilon: float = 1e-12) -> tuple[Array | None, ...]:
        total = x + skip
        none = np.zeros(0, np.float32)
        return normed(total, gamma, epsilon), none, none, total


class QuickGelu(OpRun):
    op_domain = MICROSOFT

    def _run(self, x: Array, alpha: float = 1.702) -> tuple[Array]:
        with np.errstate(over="ignore"):
            return ((wide(x) / (1 + np.exp(-alpha * wide(x)))).astype(x.dtype),)


class FastGelu(OpRun):
    op_domain = MICROSOFT

    def _run(self, x: Array) -> tuple[Array]:
        w = wide(x)
        return ((w * 0.5 * (1 + np.tanh(0.7978845608 * (w + 0.044715 * w**3)))).astype(x.dtype),)


class MatMulNBits(OpRun):
    op_domain = MICROSOFT

    def _run(
        self,
        a: Array,
        b: Array,
        scales: Array,
        K: int = 0,
        N: int = 0,
        bits: int = 4,
        block_size: int = 32,
        **_: Any,
    ) -> tuple[Array]:
        assert bits in (4, 8)
        unsigned = np.stack([b & 15, b >> 4], axis=-1) if bits == 4 else b
        centred = unsigned.reshape(N, -1, block_size).astype(np.float32) - (1 << (bits - 1))
        weights = centred * wide(scales)[..., None]
        return ((wide(a) @ wide(weights.reshape(N, -1)[:, :K].astype(a.dtype)).T).astype(a.dtype),)


class PagedAttention(OpRun):
    op_domain = MICROSOFT

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        key_cache: Array,
        value_cache: Array,
        starts: Array,
        pasts: Array,
        table: Array,
        cos: Array,
        sin: Array,
        slot_mapping: Array,
        *absent_and_metadata: Any,
        num_heads: int = 0,
        kv_num_heads: int = 0,
        do_rotary: int = 0,
        scale: float = 0.0,
        softcap: float = 0.0,
        local_window_size: int = -1,
        **_: Any,
    ) -> tuple[Array, Array, Array]:
        *absent, metadata = absent_and_metadata
        assert do_rotary and all(one is None or not one.size for one in absent)
        if key is not None and key.size:
            query = np.concatenate([query, key, value], axis=1)
        tokens, (_pages, size, kv_heads, head) = len(query), key_cache.shape
        assert kv_heads == kv_num_heads and head % 16 == 0 and size >= 16 and size & (size - 1) == 0
        assert query.shape[1] == (num_heads + 2 * kv_heads) * head
        assert starts[0] == 0 and starts[-1] == tokens == len(slot_mapping) and (np.diff(starts) >= 0).all()
        assert all(x.dtype == np.int32 for x in (starts, pasts, table, slot_mapping, metadata))
        lengths = pasts + np.diff(starts)
        assert metadata[0] >= np.diff(starts).max() and metadata[1] >= lengths.max() >= metadata[2]
        assert (lengths <= table.shape[1] * size).all() and table.min() >= 0 and table.max() < len(key_cache)
        q, k, v = np.split(query.reshape(tokens, -1, head), [num_heads, num_heads + kv_heads], axis=1)
        positions = np.concatenate([past + np.arange(n) for past, n in zip(pasts, np.diff(starts), strict=True)])
        assert positions.max() < len(cos)  # CUDA's kernel does not look
        q, k = (rotated(x, cos[positions], sin[positions]) for x in (q, k))
        rows = [cache.reshape(-1, kv_heads, head) for cache in (key_cache, value_cache)]
        stored = slot_mapping >= 0
        for cache, new in zip(rows, (k, v), strict=True):
            cache[slot_mapping[stored]] = new[stored]
        out = np.empty((tokens, num_heads * head), query.dtype)
        for row, start, end, length in zip(table, starts, starts[1:], lengths, strict=False):
            at = np.arange(length)
            where = row[at // size] * size + at % size
            keys, values = (wide(cache[where]).repeat(num_heads // kv_heads, axis=1) for cache in rows)
            scores = np.einsum("qhd,khd->hqk", wide(q[start:end]), keys) * np.float32(scale or head**-0.5)
            if softcap:
                scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
            own = (length - (end - start) + np.arange(end - start))[:, None]
            hidden = at[None] > own
            if local_window_size > 0:
                hidden |= at[None] <= own - local_window_size
            scores = np.where(hidden, -np.inf, scores)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[start:end] = np.einsum("hqk,khd->qhd", weights, values).reshape(end - start, -1)
        return out, key_cache, value_cache


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """[tokens, heads, head_size], by the tables' rows of its tokens."""
    first, second = np.split(wide(x), 2, axis=-1)
    c, s = wide(cos)[:, None], wide(sin)[:, None]
    return np.concatenate([first * c - second * s, second * c + first * s], axis=-1).astype(x.dtype)


OPERATORS = (
    Gemm,
    MatMul,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    QuickGelu,
    FastGelu,
    MatMulNBits,
    PagedAttention,
)


class ReferenceRunner:
    """Runs a paged graph by the reference evaluator. runs: tokens of each run."""

    def __init__(self, graph: Path, layout: PageLayout, pages: int) -> None:
        model = onnx.load(graph)
        types = onnx.TensorProto.DataType
        check_contract(
            [
                (
                    value.name,
                    f"tensor({types.Name(value.type.tensor_type.elem_type).lower()})",
                    [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
                )
                for value in model.graph.input
            ],
            layout,
        )
        dtype = np.dtype(layout.dtype) if layout.dtype == "float16" else onnx.helper.tensor_dtype_to_np_dtype(16)
        self._evaluator = ReferenceEvaluator(model, new_ops=list(OPERATORS))
        names = [value.name for value in model.graph.input if value.name.startswith("past.")]
        self.pages: dict[str, Array] = {name: np.full(layout.shape(pages), np.nan, dtype) for name in names}
        self.runs: list[int] = []

    def copy(self, copies: Sequence[Copy]) -> None:
        for array in self.pages.values():
            for one in copies:
                array[one.target, : one.slots] = array[one.source, : one.slots]

    def new_lanes(self) -> None:
        return None

    def run(self, kept: None, inputs: dict[str, Array], cancel: Cancellation) -> Array:
        with cancel.interrupting(lambda: None):
            self.runs.append(len(inputs["input_ids"]))
            found = self._evaluator.run(["rewards"], {**inputs, **self.pages})
        cancel.check()
        return np.asarray(found[0])


def reference_engine(graph: Path, layout: PageLayout, pages: int, lanes: int) -> tuple[PagedEngine, ReferenceRunner]:
    runner = ReferenceRunner(graph, layout, pages)
    return PagedEngine(runner, layout, pages, lanes), runner
