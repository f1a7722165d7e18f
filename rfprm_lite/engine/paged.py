"""The engine for GPUs: keys and values in pages, any number of sequences packed into one run.

It has the one method of `rfprm_lite.engine.engine`, prefill. For T tokens of B sequences, R of them read out:

    input_ids        int64 [T]      sequence after sequence
    token_starts     int32 [B + 1]  where each sequence's tokens begin, then T
    pasts            int32 [B]      tokens of each sequence before these
    pages            int32 [B, P]   the pages of each sequence, in order; what is behind its last one is never read
    slots            int32 [T]      where each token's keys and values are written, counted over all pages
    bounds           int32 [3]      in the CPU's memory: the most tokens of a sequence here; the most with those before;
                                    what the latter is at least
    read_rows        int64 [R]      which of the T tokens are read out, ascending, R >= 1
    past.i.key, past.i.value        present.i.key, present.i.value, the same buffers for every layer i:
                                    [pages, page_tokens, num_kv_heads, head_size]
    rewards          float32 [R], in [0, 1]

These are the inputs of PagedAttention (com.microsoft) in ONNX Runtime for CUDA. UNMEASURED: this has run with a
reference implementation of the operator on CPUs, and never on a GPU.

Who may touch pages when, whatever streams ONNX Runtime and the driver use:

1. One copy or run at a time. A GPU is full with one, and its arrays have room once.
2. Each has ended on the card when it returns or raises. So nothing is read before it is written, and a page that a
   stopped run wrote into is at rest before it is given away.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.engine.pages import TICK, Copy, Extension, PageCache, PagePool, slots
from rfprm_lite.engine.run import check_numbers, run_session
from rfprm_lite.engine.session import open_session
from rfprm_lite.errors import BundleFormatError
from rfprm_lite.plan.budget import pages_of_call
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.plan.sequence import Rewards

KINDS = ("key", "value")
PAGE_TOKENS = ((64, 256), (128, 128), (256, 64))
"""FlashAttention reads a page only if its tokens are a multiple of what stands here, for heads up to a size
(onnxruntime contrib_ops/cuda/bert/paged_attention.cc, 1.31.1)."""
ELEMENTS = {"float16": 10, "bfloat16": 16}
"""ONNX's numbers of the types that keys and values can have."""
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The shapes of keys and values in pages. All layers stand in one buffer, keys and values of each in turn.

    Attributes:
        num_layers: Decoder layers.
        num_kv_heads: Key and value heads of a layer.
        head_size: Features of a head.
        dtype: The type of keys and values: "float16" or "bfloat16".
        page_tokens: Tokens of a page.
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    dtype: str
    page_tokens: int

    @classmethod
    def of(cls, num_layers: int, num_kv_heads: int, head_size: int, dtype: str) -> PageLayout:
        """The layout with the smallest pages that FlashAttention reads."""
        page_tokens = next(tokens for largest, tokens in PAGE_TOKENS if head_size <= largest)
        return cls(num_layers, num_kv_heads, head_size, dtype, page_tokens)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.num_layers * self._slot_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of a page in all layers."""
        return self.token_bytes * self.page_tokens

    @property
    def part_bytes(self) -> int:
        """Bytes of a page's keys, or values, in one layer."""
        return self._slot_bytes * self.page_tokens

    @property
    def most_pages(self) -> int:
        """Pages that the driver can copy between, and that slots can be counted over."""
        return min(cuda.MOST_PITCH // self.part_bytes, (2**31 - 1) // self.page_tokens)

    def shape(self, pages: int) -> list[int]:
        """The shape of a layer's keys, or values."""
        return [pages, self.page_tokens, self.num_kv_heads, self.head_size]

    @property
    def _slot_bytes(self) -> int:
        return self.num_kv_heads * self.head_size * 2


class Runner(Protocol):
    """What runs the graph on pages, and copies between them. Several threads may use it, one at a time."""

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy slots of pages in all layers; done when it returns."""

    def new_lanes(self) -> Any:
        """What runs of one call keep between them."""

    def run(self, kept: Any, inputs: Inputs, cancel: Cancellation) -> Rewards:
        """One run; nothing is written any more when it returns or raises."""


class PagedLanes:
    """The caches of one call. Owned by one call, used by one thread.

    Attributes:
        caches: One a lane.
        kept: What the runner keeps for it.
        entered: Whether it was let in among the calls under way.
    """

    def __init__(self, caches: Sequence[PageCache], kept: Any, pages: int) -> None:
        self.caches = caches
        self.kept = kept
        self._pages = pages
        self._entered = False

    def enter(self, pool: PagePool, cancel: Cancellation) -> None:
        """Wait, once, until there is room for the call among those under way. Raises StoppedError if cancelled."""
        if not self._entered:
            number = pool.enter(self._pages, cancel)
            self._entered = True
            weakref.finalize(self, pool.leave, number).atexit = False


class PagedEngine:
    """Runs a paged graph. Several threads may use it, each with its own lanes.

    Args:
        runner: What runs it.
        layout: Shapes of its keys and values.
        pages: How many there are.
        lanes: Sequences that one run can hold.

    Attributes:
        pool: The pages.
        max_lanes: Sequences that one run can hold.
        copied: Tokens that were copied into pages of their own since the engine was opened.
    """

    def __init__(self, runner: Runner, layout: PageLayout, pages: int, lanes: int) -> None:
        self.pool = PagePool(pages, layout.page_tokens, layout.page_bytes)
        self.max_lanes = lanes
        self.copied = 0
        self._runner = runner
        self._turn = threading.Lock()

    def new_lanes(self, count: int, capacity: int) -> PagedLanes:
        """New lanes with empty caches, which take pages as they grow.

        Args:
            count: How many, from 1 to `max_lanes`.
            capacity: Tokens that each has room for.
        """
        caches = [PageCache(self.pool, capacity) for _ in range(count)]
        return PagedLanes(caches, self._runner.new_lanes(), pages_of_call(capacity, count, self.pool.page_tokens))

    def warm_up(self, tokens: int) -> None:
        """Run once with so many tokens, in as many sequences as a run holds, each of one page at most; forget them.

        Then what arrays of runs need is taken, and grows no more; if there is too little of it, this shows now.

        Raises:
            EngineError: If ONNX Runtime failed.
        """
        size, count = self.pool.page_tokens, min(self.max_lanes, self.pool.count, tokens)
        lengths = map(len, np.array_split(np.zeros(min(tokens, count * size)), count))
        chunks = [Chunk(lane, np.zeros(n, np.int64), np.arange(n)) for lane, n in enumerate(lengths)]
        caches = [PageCache(self.pool, size) for _ in chunks]
        with Extension(self.pool, [(cache, len(chunk.ids)) for cache, chunk in zip(caches, chunks, strict=True)]):
            self._runner.run(self._runner.new_lanes(), run_inputs(caches, chunks, size), Cancellation())
        for cache in caches:
            cache.trim(0)

    def prefill(self, lanes: PagedLanes, chunks: Sequence[Chunk], cancel: Cancellation) -> list[Rewards]:
        """Append each chunk to the cache of its lane, and compute its rewards.

        Args:
            lanes: The lanes of the call.
            chunks: At least one, at most one a lane.
            cancel: Ends the run from another thread.

        Returns:
            The rewards at each chunk's read-outs, float32 [R] in [0, 1].

        Raises:
            ValueError: If a cache is too small.
            NumericalError: If a reward is no number.
            EngineError: If ONNX Runtime failed, or if there are too few pages.
            StoppedError: If the call was cancelled.

        After any error the caches are as they were.
        """
        lanes.enter(self.pool, cancel)
        caches = [lanes.caches[chunk.lane] for chunk in chunks]
        appended = [(cache, len(chunk.ids)) for cache, chunk in zip(caches, chunks, strict=True)]
        with Extension(self.pool, appended, cancel) as extension, self.pool.working(), self._in_turn(cancel):
            if extension.copies:
                self._runner.copy(extension.copies)
                self.copied += sum(copy.slots for copy in extension.copies)
            inputs = run_inputs(caches, chunks, self.pool.page_tokens)
            rewards = self._runner.run(lanes.kept, inputs, cancel)
            reads = [len(chunk.read_at) for chunk in chunks]
            rewards = rewards[: sum(reads)]
            positions = [
                cache.length - len(chunk.ids) + chunk.read_at for cache, chunk in zip(caches, chunks, strict=True)
            ]
            check_numbers(rewards, np.concatenate(positions))
        return np.split(rewards, np.cumsum(reads)[:-1])

    @contextmanager
    def _in_turn(self, cancel: Cancellation) -> Iterator[None]:
        """Within this context no other thread copies or runs. Raises StoppedError if cancelled before its turn."""
        while not self._turn.acquire(timeout=TICK):
            cancel.check()
        try:
            yield
        finally:
            self._turn.release()


def run_inputs(caches: Sequence[PageCache], chunks: Sequence[Chunk], page_tokens: int) -> Inputs:
    """The graph's inputs but for the keys and values.

    Args:
        caches: Of each chunk, with the chunk's tokens already.
        chunks: What is appended.
        page_tokens: Tokens of a page.

    Returns:
        The arrays of the module's table, by name. Where nothing is read out, the first row is, for nobody.
    """
    tokens = np.array([len(chunk.ids) for chunk in chunks], np.int32)
    totals = np.array([cache.length for cache in caches], np.int32)
    ends = np.cumsum(tokens, dtype=np.int32)
    table = np.zeros((len(caches), max(len(cache.pages) for cache in caches)), np.int32)
    for row, cache in zip(table, caches, strict=True):
        row[: len(cache.pages)] = cache.pages
        row[len(cache.pages) :] = cache.pages[-1]  # a page that exists: kernels look ids up before they count tokens
    rows = [end - len(chunk.ids) + chunk.read_at for end, chunk in zip(ends, chunks, strict=True)]
    read_rows = np.concatenate(rows).astype(np.int64)
    return {
        "input_ids": np.concatenate([chunk.ids for chunk in chunks]),
        "token_starts": np.append(np.int32(0), ends),
        "pasts": totals - tokens,
        "pages": table,
        "slots": np.concatenate(
            [slots(c, c.length - int(t), page_tokens) for c, t in zip(caches, tokens, strict=True)]
        ),
        "bounds": np.array([tokens.max(), totals.max(), totals.max()], np.int32),
        "read_rows": read_rows if len(read_rows) else np.zeros(1, np.int64),
    }


class CudaRunner:
    """Runs the graph by ONNX Runtime on a GPU. UNMEASURED: never run."""

    def __init__(self, graph: Path, layout: PageLayout, device: DeviceSpec, threads: int | None) -> None:
        """Open the session; the pages follow by `allocate`, when it is known what the weights left.

        Raises:
            DeviceError: If the device can't be had.
            BundleFileError: If ONNX Runtime refuses the graph.
            BundleFormatError: If the graph is not of this layout.
        """
        self._session = open_session(graph, device, threads)
        check_contract([(i.name, i.type, i.shape) for i in self._session.get_inputs()], layout)
        self._layout, self._device = layout, device
        self._pages = 0
        self._buffer: cuda.Buffer | None = None

    def allocate(self, pages: int) -> None:
        """Take the pages, all of them and once.

        Raises:
            DeviceError: If the card has no room for them.
        """
        self._pages = pages
        self._buffer = cuda.Buffer(self._device.index, pages * self._layout.page_bytes)

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy slots of pages in all layers, on the card; see `Runner.copy`."""
        part, slot = self._layout.part_bytes, self._layout.part_bytes // self._layout.page_tokens
        self._taken.copy(
            [(copy.target * part, copy.source * part, copy.slots * slot) for copy in copies],
            pitch=self._pages * part,
            rows=2 * self._layout.num_layers,
        )

    def new_lanes(self) -> Any:
        """A binding in which all keys and values are bound: their addresses never change."""
        binding, shape = self._session.io_binding(), self._layout.shape(self._pages)
        place = ("cuda", self._device.index, ELEMENTS[self._layout.dtype], shape)
        address = self._taken.address
        for name in (f"{i}.{kind}" for i in range(self._layout.num_layers) for kind in KINDS):
            binding.bind_input(f"past.{name}", *place, address)
            binding.bind_output(f"present.{name}", *place, address)
            address += self._pages * self._layout.part_bytes
        return binding

    def run(self, kept: Any, inputs: Inputs, cancel: Cancellation) -> Rewards:
        """One run; see `Runner.run`."""
        try:
            for name, value in inputs.items():
                kept.bind_cpu_input(name, value)
            kept.bind_output("rewards", "cpu")
            kept.synchronize_inputs()  # they may be copied by another stream than the run's
            run_session(self._session, kept, cancel)
            kept.synchronize_outputs()
        except BaseException:
            self._taken.synchronise()  # what was under way still writes into pages
            raise
        rewards: Rewards = kept.get_outputs()[-1].numpy()
        return rewards

    @property
    def _taken(self) -> cuda.Buffer:
        if self._buffer is None:
            raise RuntimeError("pages are used before they were taken")
        return self._buffer


def check_contract(inputs: Sequence[tuple[str, str, Sequence[object]]], layout: PageLayout) -> None:
    """Check a graph's keys and values.

    Args:
        inputs: Name, type and shape of each input, as ONNX Runtime tells them.
        layout: What the manifest says.

    Raises:
        BundleFormatError: If they are not what the manifest says.
    """
    wanted = (f"tensor({layout.dtype})", layout.shape(0)[2:])
    expected = {f"past.{i}.{kind}": wanted for i in range(layout.num_layers) for kind in KINDS}
    found = {name: (kind, [*shape[2:]]) for name, kind, shape in inputs if name.startswith("past.")}
    if found != expected:
        wrong = min(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        raise BundleFormatError(
            f"the graph is not the one that the manifest describes: {wrong} is {found.get(wrong)}, "
            f"the dimensions, kv_layout and kv_dtype say {expected.get(wrong)}"
        )
