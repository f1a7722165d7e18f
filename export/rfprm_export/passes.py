"""What is done to a checkpoint's weights on their way into a variant, each chosen by what calibration measured.

In: a checkpoint and its statistics. Out: `Passes`, and a sentence about each for the manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from rfprm_export.calibration import READERS, Statistics, Vector
from rfprm_export.checkpoint import Checkpoint
from rfprm_export.overflow import MARGIN, wide_layers
from rfprm_export.smoothing import NONE, Rescaling, smooth

LEAST = 1e-12
"""The importance of a column that was always zero, so that a block of such columns still has a best scale."""


@dataclass(frozen=True, slots=True)
class Passes:
    """rescaling: factors that cancel each other. wide: layers whose MLP is float32. mean_square: of what each column
    of a weight is multiplied by, by the tensor's name. said: for the manifest."""

    rescaling: Rescaling = NONE
    wide: Collection[int] = ()
    mean_square: Mapping[str, Vector] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    def importance(self, name: str, columns: int) -> Vector:
        """How much a column's squared error counts; all alike where nothing was measured."""
        return np.maximum(self.mean_square.get(name, np.ones(columns, np.float32)), LEAST)


AS_IT_IS = Passes()


def smoothed(strengths: Mapping[str, float], checkpoint: Checkpoint, statistics: Statistics) -> Passes:
    """Outliers moved from activations into weights. strengths: by the keys of calibration.INPUTS."""

    def column_maxima(name: str) -> Vector:
        found: Vector = np.max([np.abs(block).max(axis=0) for block in checkpoint.blocks(name)], axis=0)
        return found

    rescaling = smooth(checkpoint.architecture, statistics, column_maxima, strengths)
    shown = ", ".join(f"{key} {strength}" for key, strength in strengths.items())
    return Passes(rescaling=rescaling, said=(f"smoothed ({shown})",))


def without_overflow(_checkpoint: Checkpoint, statistics: Statistics) -> Passes:
    """float32 where float16 could overflow."""
    wide = wide_layers(statistics)
    shown = f"the MLP of layers {', '.join(map(str, sorted(wide)))} in float32" if wide else "no layer in float32"
    return Passes(wide=wide, said=(f"{shown}: what came within {MARGIN} times of overflowing float16",))


def weighted_rounding(_checkpoint: Checkpoint, statistics: Statistics) -> Passes:
    """Columns count by what they are multiplied by."""
    mean_square = {
        f"model.layers.{i}.{module}.weight": layer.mean_square[key]
        for i, layer in enumerate(statistics)
        for key, modules in READERS.items()
        for module in modules
    }
    return Passes(mean_square=mean_square, said=("scales weighted by the mean squares of the activations",))
