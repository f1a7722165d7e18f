"""Which layers do not fit float16: range analysis.

In: the largest magnitudes that calibration met. Out: the layers whose MLP is to be computed in a wider type.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfprm_export.errors import RangeError
from rfprm_export.oracle.calibration import LayerRanges

MARGIN = 8
"""Values may become this many times as large as in the calibration before they overflow."""
MOST = float(np.finfo(np.float16).max) / MARGIN

ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkvo")


def widen_overflowing_layers(ranges: Sequence[LayerRanges]) -> frozenset[int]:
    """Find the layers whose MLP could overflow float16.

    Args:
        ranges: Of each layer.

    Raises:
        RangeError: Queries, keys, values or what attention adds are too large; their type is that of the KV cache.
    """
    for i, layer in enumerate(ranges):
        largest, name = max((float(layer.outputs[module].max()), module) for module in ATTENTION)
        if largest > MOST:
            raise RangeError(
                f"model.layers.{i}.{name} gave {largest:.0f} in the calibration; above {MOST:.0f} "
                "it could overflow, and attention has the type of the KV cache: bf16 and int4-bf16 can't overflow"
            )
    return frozenset(i for i, layer in enumerate(ranges) if _largest_in_mlp(layer) > MOST)


def describe_wide_layers(wide: frozenset[int], kind: str) -> str:
    """Say in words, for the manifest, which layers have the wider type."""
    shown = f"the MLP of layers {', '.join(map(str, sorted(wide)))} in {kind}" if wide else f"no layer in {kind}"
    return f"{shown}: what came within {MARGIN} times of overflowing float16"


def _largest_in_mlp(layer: LayerRanges) -> float:
    outputs = (layer.outputs[f"mlp.{part}_proj"] for part in ("gate", "up", "down"))
    return max(float(values.max()) for values in (*outputs, layer.inner))
