"""The variants that an export can make, as data, in the order in which they are preferred on a device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.families.family import ExportRecipe
from rfprm_export.graph import network
from rfprm_export.graph.arithmetic import Arithmetic
from rfprm_export.graph.blockwise import int4, int4_bfloat16, int4_float16, int8_float16
from rfprm_export.graph.floating import BFloat16Arithmetic, Float16Arithmetic, FloatArithmetic
from rfprm_export.graph.int8 import Int8Arithmetic
from rfprm_export.graph.network import Graph, KVLayout
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Shape, Weights
from rfprm_export.oracle.rotary import rotary_tables
from rfprm_export.quantize.integers import BLOCK
from rfprm_lite.bundle.manifest import File, Parity, Variant
from rfprm_lite.device import Device


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest differences of step rewards from PyTorch's that a variant may have; None where it does not matter.

    Attributes:
        needed: Without it there is no bundle. Otherwise the variant is kept, but is nobody's default.
        maximum: Of the largest difference.
        mean: Of the mean.
        p99: Of the 99th percentile.
        rewards: How many must have been compared to tell.
    """

    needed: bool
    maximum: float | None = None
    mean: float | None = None
    p99: float | None = None
    rewards: int = 1

    def missed(self, parity: Parity) -> str | None:
        """Say in words what is missed; None if nothing is. Not-a-number misses every bound."""
        measured = {
            "at most": (parity.max_abs_difference, self.maximum),
            "on average": (parity.mean_abs_difference, self.mean),
            "at the 99th percentile": (parity.p99_abs_difference, self.p99),
        }
        missed = [
            f"{value:.2e} {name}, where {bound:.0e} is allowed"
            for name, (value, bound) in measured.items()
            if bound is not None and not value <= bound
        ]
        if parity.num_rewards < self.rewards:
            missed.append(f"{parity.num_rewards} rewards compared, where {self.rewards} are needed to tell")
        return "; ".join(missed) or None


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """A variant that can be made of any checkpoint.

    Attributes:
        name: What users ask for.
        dtype: Of the weights.
        kv_dtype: Of the KV cache.
        devices: Where it runs.
        arithmetic: Its products.
        bound: Of its parity.
        lanes: Segments that one run can hold.
        made_by: What the manifest says of it, besides what calibration does.
        balanced: Whether its weights are balanced with activations, rounded with error feedback, and their mean error
            taken off the head's bias.
        widened: The type of activations in layers that could overflow `kv_dtype`, as its arithmetic has it; None where
            none can.
        kv_layout: Where its keys and values are.
        sums_fit_16_bits: Whether pairs of its u8 x s8 products fit 16 bits; see `quantize.integers.PAIRED`.
    """

    name: str
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4"]
    kv_dtype: Literal["float32", "float16", "bfloat16"]
    devices: tuple[Device, ...]
    arithmetic: Callable[[Nodes, Weights], Arithmetic]
    bound: Bound
    lanes: int
    made_by: tuple[str, ...] = ()
    balanced: bool = False
    widened: Literal["float32", "bfloat16"] | None = None
    kv_layout: KVLayout = "lanes"
    sums_fit_16_bits: bool = False

    def graph(
        self, architecture: Architecture, spec: ExportRecipe, head: Mapping[str, Shape], wide: Collection[int] = ()
    ) -> Graph:
        """Write the variant's graph, its weights declared.

        Args:
            architecture: The backbone.
            spec: The recipe.
            head: Shapes of the head's tensors, by the names that graphs use.
            wide: Layers whose MLP is of the `widened` type.
        """
        return network.build(
            architecture,
            spec.recipe.head,
            {**architecture.backbone(), **head},
            self.arithmetic,
            self.lanes,
            rotary_tables(architecture),
            wide,
            self.kv_layout,
        )

    def entry(self, files: tuple[File, ...], said: tuple[str, ...]) -> Variant:
        """Make the manifest's entry of a variant that is still to be measured.

        Args:
            files: The graph, then its data.
            said: What calibration did.
        """
        made_by = (*said, *self.made_by)
        return Variant(
            self.name,
            files,
            self.dtype,
            self.kv_dtype,
            self.lanes,
            self.devices,
            made_by,
            None,
            kv_layout=self.kv_layout,
            sums_fit_16_bits=self.sums_fit_16_bits,
        )


CPU_LANES = 4
"""With 4 lanes 64 candidates of 8 tokens take 0.80 s in place of 1.48 s. One trace of 2,048 tokens takes 2.18 s in
place of 2.13 s (bench/log/2026-11-23-lanes.md)."""
GPU_LANES = 128
"""A run on pages holds any number of segments up to this: they cost nothing but a row of page ids. ONNX Runtime's
kernel took 256 in its first versions."""
QUANTISED = Bound(needed=False, mean=0.01, p99=0.05, rewards=300)
"""A 99th percentile needs at least 300 rewards, three of them above it. With 101 rewards a variant once kept the bound
that it missed on 41,153 (bench/log/2026-11-24-300-rewards-for-p99.md)."""

INT8 = VariantSpec(
    "int8",
    "int8",
    "float32",
    ("cpu",),
    Int8Arithmetic,
    QUANTISED,
    CPU_LANES,
    (
        "s8 weights, a scale an output channel, pairs whose products fit 16 bits",
        "u8 activations, a scale a token",
        "s8 embeddings, a scale a token",
    ),
    balanced=True,
    sums_fit_16_bits=True,
)
FP32 = VariantSpec("fp32", "float32", "float32", ("cpu",), FloatArithmetic, Bound(needed=True, maximum=1e-4), CPU_LANES)
FP16 = VariantSpec(
    "fp16",
    "float16",
    "float16",
    ("cuda",),
    Float16Arithmetic,
    QUANTISED,
    GPU_LANES,
    ("float16 weights, activations and KV cache; float32 residual stream, norms and head",),
    widened="float32",
    kv_layout="paged",
)
BF16 = VariantSpec(
    "bf16",
    "bfloat16",
    "bfloat16",
    ("cuda",),
    BFloat16Arithmetic,
    QUANTISED,
    GPU_LANES,
    ("bfloat16 weights, activations and KV cache; float32 residual stream, norms and head",),
    kv_layout="paged",
)
INT8_FP16 = VariantSpec(
    "int8-fp16",
    "int8",
    "float16",
    ("cuda",),
    int8_float16,
    QUANTISED,
    GPU_LANES,
    (
        f"8-bit weights, a float16 scale a block of {BLOCK}",
        "s8 embeddings, a scale a token",
        "float16 activations and KV cache; float32 residual stream, norms and head",
    ),
    balanced=True,
    widened="bfloat16",
    kv_layout="paged",
)
INT4_FP16 = VariantSpec(
    "int4-fp16",
    "int4",
    "float16",
    ("cuda",),
    int4_float16,
    QUANTISED,
    GPU_LANES,
    (
        f"4-bit weights, a float16 scale a block of {BLOCK}",
        "s8 embeddings, a scale a token",
        "float16 activations and KV cache; float32 residual stream, norms and head",
    ),
    balanced=True,
    widened="bfloat16",
    kv_layout="paged",
)
INT4_BF16 = VariantSpec(
    "int4-bf16",
    "int4",
    "bfloat16",
    ("cuda",),
    int4_bfloat16,
    QUANTISED,
    GPU_LANES,
    (
        f"4-bit weights, a bfloat16 scale a block of {BLOCK}",
        "s8 embeddings, a scale a token",
        "bfloat16 activations and KV cache; float32 residual stream, norms and head",
    ),
    balanced=True,
    kv_layout="paged",
)
INT4 = VariantSpec(
    "int4",
    "int4",
    "float32",
    ("cpu",),
    int4,
    QUANTISED,
    CPU_LANES,
    (f"4-bit weights, a scale a block of {BLOCK}", "s8 embeddings, a scale a token"),
    balanced=True,
)

VARIANTS = {v.name: v for v in (INT8, FP32, FP16, BF16, INT8_FP16, INT4, INT4_FP16, INT4_BF16)}
