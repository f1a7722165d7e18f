"""The wiring of a bundle's variant: its engine, and the numbers that plan and memory depend on.

A variant's `kv_layout` decides which engine: lanes on a CPU, pages on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.engine.engine import Engine, least_readouts
from rfprm_lite.engine.kv import SPARE, Block, Layout
from rfprm_lite.engine.paged import CudaRunner, PagedEngine, PageLayout
from rfprm_lite.engine.pages import PageBlock
from rfprm_lite.errors import DeviceError, EngineError
from rfprm_lite.plan.budget import Footprint, ModelSizes, PagedFootprint, RunBudget, gpu_budget, gpu_run_bytes
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.packing import ALWAYS, Packing
from rfprm_lite.plan.ports import Prefill

EMBEDDING_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 1}
"""Bytes per embedding value, by variant. Subtracted from the file size, because a run reads only the rows of its
tokens."""
GPU_SHARE = 2
"""Without memory_bytes, runs and pages take the part 1/GPU_SHARE of what the weights leave free on the card."""
LEAST_PAGES = 4
"""With fewer an engine is not opened: a path, the page of a branch, and one more of each."""


@dataclass(frozen=True, slots=True)
class Model:
    """An opened variant, as calls need it.

    Attributes:
        engine: What computes.
        footprint: What calls may take.
        budget: The most that one run computes.
        packing: When a further lane pays.
        split: Makes two kept blocks of one, the first of so many tokens.
    """

    engine: Prefill[Any]
    footprint: Footprint
    budget: RunBudget
    packing: Packing
    split: Callable[[Any, int], tuple[Any, Any]]

    def reclaim_from(self, cache: PrefixCache[Any]) -> None:
        """Let an engine whose memory is short take back what a cache keeps."""
        if isinstance(self.engine, PagedEngine):
            give_back = weakref.WeakMethod(cache.give_back)  # the cache's blocks hold the pool
            self.engine.pool.reclaim = lambda nbytes: (method := give_back()) and method(nbytes)


def open_model(
    bundle: Bundle, device: DeviceSpec, threads: int | None, cache_bytes: int, memory_bytes: int | None
) -> Model:
    """Open a bundle's variant.

    Args:
        bundle: With the variant.
        device: Where it runs.
        threads: Of one run, within an operator; None for as many as this process has processors for.
        cache_bytes: Keys and values kept between calls.
        memory_bytes: What calls may take beside the loaded model; None for no limit on a CPU, and for a part of what is
            free on a GPU.

    Raises:
        DeviceError: If the device can't be had, or has too little memory.
        BundleFileError: If ONNX Runtime refuses the graph.
        BundleFormatError: If the graph is not of the manifest's layout.
    """
    if bundle.variant.kv_layout == "paged":
        return _open_paged(bundle, device, threads, cache_bytes, memory_bytes)
    manifest, variant = bundle.manifest, bundle.variant
    budget = budget_of(manifest)
    footprint = Footprint(sizes_of(manifest, variant), variant.lanes, cache_bytes, memory_bytes, budget)
    return Model(open_engine(bundle, threads), footprint, budget, packing_of(manifest, variant), Block.split)


def _open_paged(
    bundle: Bundle, device: DeviceSpec, threads: int | None, cache_bytes: int, memory_bytes: int | None
) -> Model:
    manifest, variant = bundle.manifest, bundle.variant
    layout = page_layout_of(manifest, variant)
    if device.kind != "cuda":
        raise DeviceError(f"variant {variant.name!r} keeps keys and values in pages, which the CPU has no kernel for")
    if reason := cuda.too_old(cuda.card(device.index)):
        raise DeviceError(reason)
    runner = CudaRunner(bundle.graph, layout, device, threads)
    free = cuda.card(device.index).free_bytes  # what the weights left
    room = room_on_card(free, memory_bytes)
    budget = gpu_budget(manifest.dimensions.hidden_size, room)
    pages = pages_in(room, manifest.dimensions.hidden_size, budget, layout)
    runner.allocate(pages)
    engine = PagedEngine(runner, layout, pages, variant.lanes)
    try:
        engine.warm_up(budget.chunk_tokens)
    except EngineError as error:
        taken = pages * layout.page_bytes
        raise DeviceError(
            f"a run of {budget.chunk_tokens} tokens does not fit beside {taken / 1e9:.2f} GB of pages in the "
            f"{free / 1e9:.2f} GB that the weights leave: give the model a smaller memory_bytes ({error})"
        ) from error
    return paged_model(engine, manifest, variant, budget, cache_bytes)


def paged_model(
    engine: PagedEngine, manifest: Manifest, variant: Variant, budget: RunBudget, cache_bytes: int
) -> Model:
    """The model of an engine whose pages are there."""
    nbytes = engine.pool.count * engine.pool.page_bytes
    footprint = PagedFootprint(
        sizes_of(manifest, variant),
        variant.lanes,
        min(cache_bytes, nbytes // 2),  # a call needs pages, too
        nbytes,
        budget,
        engine.pool.page_tokens,
    )
    return Model(engine, footprint, budget, ALWAYS, PageBlock.split)


def room_on_card(free: int, memory_bytes: int | None) -> int:
    """Bytes for runs, keys and values on a card.

    Args:
        free: Bytes that the weights left.
        memory_bytes: What was asked for.

    Raises:
        DeviceError: If more was asked for than is free.
    """
    if memory_bytes is None:
        return free // GPU_SHARE
    if memory_bytes > free:
        raise DeviceError(
            f"memory_bytes asks for {memory_bytes / 1e9:.2f} GB, the weights leave {free / 1e9:.2f} GB free on the card"
        )
    return memory_bytes


def pages_in(room: int, hidden_size: int, budget: RunBudget, layout: PageLayout) -> int:
    """The pages that fit into the room beside a run.

    Raises:
        DeviceError: If there would be too few to work with.
    """
    run = gpu_run_bytes(hidden_size, budget.chunk_tokens)
    pages = min((room - run) // layout.page_bytes, layout.most_pages)
    if pages < LEAST_PAGES:
        needed = run + LEAST_PAGES * layout.page_bytes
        raise DeviceError(
            f"{needed / 1e9:.2f} GB are needed beside the weights, for runs of {budget.chunk_tokens} tokens and "
            f"{LEAST_PAGES} pages of {layout.page_tokens}, there are {room / 1e9:.2f} GB: raise memory_bytes, free "
            "some of the card, or take a smaller variant"
        )
    return pages


def open_engine(bundle: Bundle, threads: int | None) -> Engine:
    """The engine of a variant whose keys and values are in lanes. Raises as `Engine.open` does."""
    manifest, variant = bundle.manifest, bundle.variant
    least = least_readouts_of(manifest)
    layout, fit = layout_of(manifest, variant), variant.sums_fit_16_bits
    return Engine.open(bundle.graph, layout, variant.lanes, threads, least, sums_fit_16_bits=fit)


def least_readouts_of(manifest: Manifest) -> int:
    """Read-outs that a run computes at least for a lane that has any."""
    sizes = manifest.dimensions
    return least_readouts(sizes.head_size, sizes.num_heads, sizes.num_kv_heads)


def budget_of(manifest: Manifest) -> RunBudget:
    """The most that one run of the model computes on a CPU."""
    return RunBudget(least_readouts=least_readouts_of(manifest))


def layout_of(manifest: Manifest, variant: Variant) -> Layout:
    """The shapes of a variant's keys and values in lanes."""
    sizes = manifest.dimensions
    return Layout.of(sizes.num_layers, sizes.num_kv_heads, sizes.head_size, variant.kv_dtype)


def page_layout_of(manifest: Manifest, variant: Variant) -> PageLayout:
    """The shapes of a variant's keys and values in pages."""
    sizes = manifest.dimensions
    return PageLayout.of(sizes.num_layers, sizes.num_kv_heads, sizes.head_size, variant.kv_dtype)


def token_bytes_of(manifest: Manifest, variant: Variant) -> int:
    """Bytes of one token's keys and values in all layers."""
    of = page_layout_of if variant.kv_layout == "paged" else layout_of
    return of(manifest, variant).token_bytes


def sizes_of(manifest: Manifest, variant: Variant) -> ModelSizes:
    """The sizes that a call's memory depends on."""
    sizes = manifest.dimensions
    return ModelSizes(
        hidden_size=sizes.hidden_size,
        num_heads=sizes.num_heads,
        kv_size=sizes.num_kv_heads * sizes.head_size,
        token_bytes=token_bytes_of(manifest, variant),
        spare_tokens=SPARE if variant.kv_layout == "lanes" else 0,
    )


def packing_of(manifest: Manifest, variant: Variant) -> Packing:
    """The packing of a variant in lanes, which says when a further lane pays."""
    sizes = manifest.dimensions
    embedding = sizes.vocab_size * sizes.hidden_size * EMBEDDING_BYTES[variant.dtype]
    weights = sum(file.bytes for file in variant.files) - embedding
    return Packing.of(weights, token_bytes_of(manifest, variant))
