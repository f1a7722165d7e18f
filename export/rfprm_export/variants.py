"""The variants that an export can make, as data, in the order in which they are preferred on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from rfprm_export.arithmetic import Arithmetic, FloatArithmetic, Int8Arithmetic, Weights
from rfprm_export.nodes import Nodes
from rfprm_lite.manifest import Parity


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest differences of step rewards from PyTorch's that a variant may have; None where it does not matter.

    needed: without it there is no bundle. Otherwise the variant is kept, but is nobody's default.
    """

    needed: bool
    maximum: float | None = None
    mean: float | None = None
    p99: float | None = None

    def missed(self, parity: Parity) -> str | None:
        """What is missed, in words; not-a-number misses every bound."""
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
        return "; ".join(missed) or None


@dataclass(frozen=True, slots=True)
class VariantRecipe:
    """smoothing: the strength of SmoothQuant's migration for each input of products, None for none.

    made_by: what the manifest says of it.
    """

    name: str
    dtype: Literal["float32", "int8"]
    arithmetic: Callable[[Nodes, Weights], Arithmetic]
    bound: Bound
    made_by: tuple[str, ...]
    smoothing: Mapping[str, float] | None = None


INT8 = VariantRecipe(
    "int8",
    "int8",
    Int8Arithmetic,
    Bound(needed=False, mean=0.01, p99=0.05),
    ("s8 weights, a scale an output channel", "u8 activations, a scale a token", "s8 embeddings, a scale a token"),
    # What down_proj reads is the most uneven by far, and made most of the error (bench/LOG.md).
    smoothing={"qkv": 0.5, "o": 0.5, "gate_up": 0.5, "down": 0.7},
)
FP32 = VariantRecipe("fp32", "float32", FloatArithmetic, Bound(needed=True, maximum=1e-4), ())

VARIANTS = {variant.name: variant for variant in (INT8, FP32)}
