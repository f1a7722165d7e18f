"""The engine for CPUs: one method, prefill. `rfprm_lite.engine.paged` has that for GPUs.

In: token ids on top of a lane's KV cache, and positions, for one or more lanes. Out: rewards at those positions. Knows
nothing of text, recipes, steps or plans.

The graph has a number of lanes, each with a cache of its own. For T tokens in all its L lanes, R of them read out:

    input_ids        int64 [T]      lane after lane
    positions        int64 [T]      each token's place in its own sequence
    lane_tokens      int64 [L]      at least 1 each
    lane_totals      int64 [L]      tokens in each lane's cache after the run
    read_rows        int64 [R]      which of the T tokens are read out, ascending
    lane_reads       int64 [L]      read-outs of each lane
    past.i.key.l, past.i.value.l                    present.i.key.l, present.i.value.l, the same buffers
    rewards          float32 [R]

Layer i but the last: past and present are one buffer [1, num_kv_heads, capacity, head_size]. The last layer: past is
[cached tokens, num_kv_heads * head_size] and present [lane's tokens, num_kv_heads * head_size], which the engine binds
to the two neighbouring parts of one buffer.

Products run over all rows at once, which is what short segments need: weights come from memory once a run. Nothing
else mixes rows, so that what stands in one lane changes no reward of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.kv import KVCache, Layout
from rfprm_lite.engine.run import check_numbers, run_session
from rfprm_lite.engine.session import open_session
from rfprm_lite.errors import BundleFormatError
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.plan.sequence import Rewards

if TYPE_CHECKING:
    import onnxruntime as ort

ROWS = 16
"""Rows of a block of ONNX Runtime's attention kernel; see `_not_one_row`."""
KINDS = ("key", "value")


class KVLanes:
    """The KV caches of one call, and what binds them to the graph. Owned by one call, used by one thread.

    Attributes:
        caches: One a lane.
        idle: An empty cache for the lanes that a run does not use.
        binding: ONNX Runtime's, kept between runs.
        bound: The cache that each lane of the graph is bound to, by lane.
    """

    def __init__(self, caches: Sequence[KVCache], idle: KVCache, binding: ort.IOBinding) -> None:
        self.caches = caches
        self.idle = idle
        self.binding = binding
        self.bound: dict[int, KVCache] = {}


class Engine:
    """Runs a bundle's graph. Has no state of its own: several threads may use it, each with its own lanes."""

    def __init__(self, session: ort.InferenceSession, layout: Layout, lanes: int, least_readouts: int) -> None:
        """An engine on an open session.

        Args:
            session: The graph's session.
            layout: Shapes of its keys and values.
            lanes: Lanes of the graph.
            least_readouts: Rows that the last layer's attention computes at least for a lane; see `least_readouts`.

        Raises:
            BundleFormatError: If the graph is not of this layout or has other lanes.
        """
        _check_contract(session, layout, lanes)
        self._session = session
        self._layout = layout
        self._place = ("cpu", 0, layout.dtype)
        self._least_readouts = least_readouts
        self.max_lanes = lanes

    @classmethod
    def open(
        cls,
        graph: Path,
        layout: Layout,
        lanes: int,
        threads: int | None,
        least_readouts: int,
        *,
        sums_fit_16_bits: bool = False,
    ) -> Engine:
        """The engine of a graph file.

        Args:
            graph: The file.
            layout: Shapes of its keys and values.
            lanes: Lanes of the graph.
            threads: Within an operator; None for as many as this process has processors for.
            least_readouts: Rows that the last layer's attention computes at least for a lane; see `least_readouts`.
            sums_fit_16_bits: What the manifest says of the graph's weights.

        Raises:
            DeviceError: If `threads` is no count.
            BundleFileError: If ONNX Runtime refuses the graph.
            BundleFormatError: If the graph is not of this layout or has other lanes.
        """
        session = open_session(graph, DeviceSpec("cpu"), threads, sums_fit_16_bits=sums_fit_16_bits)
        return cls(session, layout, lanes, least_readouts)

    def new_lanes(self, count: int, capacity: int) -> KVLanes:
        """New lanes, with empty caches.

        Args:
            count: How many, from 1 to `max_lanes`.
            capacity: Tokens that each has room for.
        """
        caches = [KVCache(self._layout, capacity) for _ in range(count)]
        return KVLanes(caches, KVCache(self._layout, 0), self._session.io_binding())

    def prefill(self, lanes: KVLanes, chunks: Sequence[Chunk], cancel: Cancellation) -> list[Rewards]:
        """Append each chunk to the cache of its lane, and compute its rewards.

        Args:
            lanes: The lanes of the call.
            chunks: At least one, at most one a lane.
            cancel: Ends the run from another thread.

        Returns:
            The rewards at each chunk's read-outs, float32 [R].

        Raises:
            ValueError: If a cache is too small.
            NumericalError: If a reward is no number.
            EngineError: If ONNX Runtime failed.
            StoppedError: If the call was cancelled.

        After any error the caches are as they were.
        """
        caches = [lanes.caches[chunk.lane] for chunk in chunks]
        pasts = [cache.length for cache in caches]
        try:
            for cache, chunk in zip(caches, chunks, strict=True):
                cache.advance(len(chunk.ids))
            return self._run(lanes, {c.lane: (past, c) for past, c in zip(pasts, chunks, strict=True)}, cancel)
        except BaseException:
            for cache, past in zip(caches, pasts, strict=True):
                cache.trim(past)
            raise

    def _run(self, lanes: KVLanes, chunks: dict[int, tuple[int, Chunk]], cancel: Cancellation) -> list[Rewards]:
        appended = {lane: (past, c.ids, c.read_at) for lane, (past, c) in chunks.items()}
        inputs = run_inputs(self.max_lanes, appended, self._least_readouts)
        for name, value in inputs.items():
            lanes.binding.bind_cpu_input(name, value)
        for lane in range(self.max_lanes):
            cache = lanes.caches[lane] if lane in chunks else lanes.idle
            self._bind(lanes, lane, cache, int(inputs["lane_tokens"][lane]), int(inputs["lane_totals"][lane]))
        lanes.binding.bind_output("rewards", "cpu")
        run_session(self._session, lanes.binding, cancel)
        rewards: Rewards = lanes.binding.get_outputs()[-1].numpy()
        check_numbers(rewards, inputs["positions"][inputs["read_rows"]])
        starts = np.cumsum(inputs["lane_reads"]) - inputs["lane_reads"]
        return [rewards[starts[lane] :][: len(c.read_at)] for lane, (_, c) in chunks.items()]

    def _bind(self, lanes: KVLanes, lane: int, cache: KVCache, tokens: int, total: int) -> None:
        """Bind past and present of a lane; what is bound since an earlier run is left alone."""
        last = self._layout.num_layers - 1
        if lanes.bound.get(lane) is not cache:
            lanes.bound.pop(lane, None)  # an error or interrupt may leave it half bound
            shape = [1, *self._layout.inner_shape(cache.arrays.capacity)[1:]]
            for i, name in enumerate(f"{i}.{kind}.{lane}" for i in range(last) for kind in KINDS):
                lanes.binding.bind_input(f"past.{name}", *self._place, shape, cache.inner_address(i))
                lanes.binding.bind_output(f"present.{name}", *self._place, shape, cache.inner_address(i))
            lanes.bound[lane] = cache
        past, features = total - tokens, self._layout.last_shape(0)[-1]
        for i, name in enumerate(f"{last}.{kind}.{lane}" for kind in KINDS):
            lanes.binding.bind_input(f"past.{name}", *self._place, [past, features], cache.last_address(i, 0))
            lanes.binding.bind_output(f"present.{name}", *self._place, [tokens, features], cache.last_address(i, past))


def run_inputs(
    lanes: int, chunks: Mapping[int, tuple[int, NDArray[np.int64], NDArray[np.int64]]], least: int
) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs but for the caches.

    Other lanes get a token 0 at position 0, at which nothing is read out. A chunk may get a token and read-outs more
    than it has: only its first ones count.

    Args:
        lanes: Lanes of the graph.
        chunks: Cached tokens, ids and read_at, by lane.
        least: Read-outs of a lane that has any, at least.

    Returns:
        The arrays of the module's table, by name.
    """
    idle = (0, np.zeros(1, np.int64), np.zeros(0, np.int64))
    used = {at: (past, _not_one_row(ids), _repeated(read_at, least)) for at, (past, ids, read_at) in chunks.items()}
    filled = [used.get(lane, idle) for lane in range(lanes)]
    tokens = np.array([len(ids) for _, ids, _ in filled], np.int64)
    pasts = np.array([past for past, _, _ in filled], np.int64)
    starts = np.cumsum(tokens) - tokens
    return {
        "input_ids": np.concatenate([ids for _, ids, _ in filled]),
        "positions": np.concatenate([np.arange(past, past + len(ids)) for past, ids, _ in filled]),
        "lane_tokens": tokens,
        "lane_totals": pasts + tokens,
        "read_rows": np.concatenate([start + read_at for start, (_, _, read_at) in zip(starts, filled, strict=True)]),
        "lane_reads": np.array([len(read_at) for _, _, read_at in filled], np.int64),
    }


# ONNX Runtime computes a product of few rows by other arithmetic than one of many: as good, but not the same to the
# last bit. Rows are added where it would, so that a reward does not depend on how its text was cut into runs.


def _not_one_row(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same ids, with a token behind them that nobody sees where one row would be left over.

    GroupQueryAttention takes rows in blocks of a multiple of ROWS.
    """
    return np.append(ids, 0) if len(ids) % ROWS == 1 else ids


def least_readouts(head_size: int, num_heads: int, num_kv_heads: int) -> int:
    """The read-outs that a lane needs at least for the same bits whatever their number.

    In the last layer the product of attention's weights and values has group rows a read-out, [read-outs * group,
    tokens] x [tokens, head_size]. ONNX Runtime divides it among threads by columns if it has more columns than rows,
    and then sums over tokens in other blocks (MlasGemmBatch). With as many rows as columns it divides it by rows, and a
    row's sum is always the same. A lone row is another kernel's: two at least.
    """
    return max(2, -(-head_size // (num_heads // num_kv_heads)))


def _repeated(read_at: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """The same read-outs, the last repeated until there are `least`; none stays none."""
    return np.append(read_at, np.repeat(read_at[-1:], max(0, least - len(read_at))))


def _check_contract(session: ort.InferenceSession, layout: Layout, lanes: int) -> None:
    """Raise BundleFormatError unless the graph's KV inputs are what the manifest says."""
    kind = {"float32": "tensor(float)", "float16": "tensor(float16)"}[layout.dtype.name]
    inner = (kind, [1, layout.num_kv_heads, layout.head_size])
    last = (kind, [layout.num_kv_heads * layout.head_size])
    expected = {
        f"past.{i}.{part}.{lane}": inner if i < layout.num_layers - 1 else last
        for i in range(layout.num_layers)
        for part in KINDS
        for lane in range(lanes)
    }
    inputs = {i.name: (i.type, [n for n in i.shape if isinstance(n, int)]) for i in session.get_inputs()}
    cache = {name: value for name, value in inputs.items() if name.startswith("past.")}
    if cache != expected:
        wrong = sorted(name for name in cache.keys() | expected if cache.get(name) != expected.get(name))
        raise BundleFormatError(
            f"the graph is not the one that the manifest describes: {wrong[0]} is {cache.get(wrong[0])}, "
            f"the dimensions, lanes and kv_dtype say {expected.get(wrong[0])}"
        )
