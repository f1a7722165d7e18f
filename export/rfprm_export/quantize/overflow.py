"""Which layers do not fit float16: range analysis.

In: what calibration measured. Out: the layers whose MLP is to be computed in float32.
"""

from __future__ import annotations

import numpy as np

from rfprm_export.errors import RangeError
from rfprm_export.oracle.calibration import LayerStatistics, Statistics

MARGIN = 8
"""Values may become this many times as large as in the calibration before they overflow."""
MOST = float(np.finfo(np.float16).max) / MARGIN

ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkvo")


def wide_layers(statistics: Statistics) -> frozenset[int]:
    """Raises RangeError where queries, keys, values or what attention adds are too large: its kernel for CUDA has no
    float32."""
    for i, layer in enumerate(statistics):
        name = max(ATTENTION, key=lambda module: layer.outputs[module])
        if layer.outputs[name] > MOST:
            raise RangeError(
                f"model.layers.{i}.{name} gave {layer.outputs[name]:.0f} in the calibration; above {MOST:.0f} "
                "it could overflow, and attention can't be float32 on CUDA"
            )
    return frozenset(i for i, layer in enumerate(statistics) if _largest_in_mlp(layer) > MOST)


def _largest_in_mlp(layer: LayerStatistics) -> float:
    outputs = (layer.outputs[f"mlp.{part}_proj"] for part in ("gate", "up", "down"))
    return max(*outputs, layer.inner_largest)
