"""Which layers do not fit float16: range analysis.

In: the largest magnitudes that calibration met. Out: the layers whose MLP is to be computed in float32.
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
    """Find the layers whose MLP could overflow float16, so that it is computed in float32.

    Args:
        ranges: Of each layer.

    Raises:
        RangeError: Queries, keys, values or what attention adds are too large; attention has no float32 on CUDA.
    """
    for i, layer in enumerate(ranges):
        name = max(ATTENTION, key=lambda module: layer.outputs[module])
        if layer.outputs[name] > MOST:
            raise RangeError(
                f"model.layers.{i}.{name} gave {layer.outputs[name]:.0f} in the calibration; above {MOST:.0f} "
                "it could overflow, and attention can't be float32 on CUDA"
            )
    return frozenset(i for i, layer in enumerate(ranges) if _largest_in_mlp(layer) > MOST)


def describe_wide_layers(wide: frozenset[int]) -> str:
    """Say in words, for the manifest, which layers are float32."""
    shown = f"the MLP of layers {', '.join(map(str, sorted(wide)))} in float32" if wide else "no layer in float32"
    return f"{shown}: what came within {MARGIN} times of overflowing float16"


def _largest_in_mlp(layer: LayerRanges) -> float:
    outputs = (layer.outputs[f"mlp.{part}_proj"] for part in ("gate", "up", "down"))
    return max(*outputs, layer.inner)
