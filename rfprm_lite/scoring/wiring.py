"""The wiring of a bundle's variant: its engine, and the numbers that plan and memory depend on."""

from __future__ import annotations

from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.engine import Engine, least_readouts
from rfprm_lite.engine.kv import SPARE, Layout
from rfprm_lite.plan.budget import ModelSizes, RunBudget
from rfprm_lite.plan.packing import Packing

EMBEDDING_BYTES = {"float32": 4, "float16": 2, "int8": 1, "int4": 1}
"""Bytes per embedding value, by variant. Subtracted from the file size, because a run reads only the rows of its
tokens."""


def open_engine(bundle: Bundle, device: DeviceSpec, threads: int | None) -> Engine:
    """The engine of a bundle's variant. Raises as `Engine.open` does."""
    manifest, variant = bundle.manifest, bundle.variant
    least = least_readouts_of(manifest)
    return Engine.open(bundle.graph, layout_of(manifest, variant), device, variant.lanes, threads, least)


def least_readouts_of(manifest: Manifest) -> int:
    """Read-outs that a run computes at least for a lane that has any."""
    sizes = manifest.dimensions
    return least_readouts(sizes.head_size, sizes.num_heads, sizes.num_kv_heads)


def budget_of(manifest: Manifest) -> RunBudget:
    """The most that one run of the model computes."""
    return RunBudget(least_readouts=least_readouts_of(manifest))


def layout_of(manifest: Manifest, variant: Variant) -> Layout:
    """The shapes of a variant's keys and values."""
    sizes = manifest.dimensions
    return Layout.of(sizes.num_layers, sizes.num_kv_heads, sizes.head_size, variant.kv_dtype)


def sizes_of(manifest: Manifest, variant: Variant) -> ModelSizes:
    """The sizes that a call's memory depends on."""
    sizes = manifest.dimensions
    return ModelSizes(
        hidden_size=sizes.hidden_size,
        num_heads=sizes.num_heads,
        kv_size=sizes.num_kv_heads * sizes.head_size,
        token_bytes=layout_of(manifest, variant).token_bytes,
        spare_tokens=SPARE,
    )


def packing_of(manifest: Manifest, variant: Variant) -> Packing:
    """The packing of a variant, which says when a further lane pays."""
    sizes = manifest.dimensions
    embedding = sizes.vocab_size * sizes.hidden_size * EMBEDDING_BYTES[variant.dtype]
    weights = sum(file.bytes for file in variant.files) - embedding
    return Packing.of(weights, layout_of(manifest, variant).token_bytes)
