"""How to round a layer's weights, from second moments that were taken before its bases were known.

In: a layer's moments H = E[x^T x] in the checkpoint's own bases, and its new bases T, where x' = x T. Out: a `Round`
for each weight, from H' = E[x'^T x'] = T^T H T.
"""

from __future__ import annotations

import torch

from rfprm_export.oracle.calibration import INNER, READERS, CalibratedLayer, Moments
from rfprm_export.oracle.device import to_numpy
from rfprm_export.quantize.bases import Bases, column_groups
from rfprm_export.quantize.gptq import with_feedback
from rfprm_export.quantize.round import Round


def layer_rounding(layer: CalibratedLayer, bases: Bases) -> dict[str, Round]:
    """Find how to round each weight of a layer.

    Args:
        layer: Its moments are used up, since each may be hundreds of megabytes.
        bases: The new ones, of this layer at least.

    Returns:
        A `Round` for each weight, by its name in the checkpoint. Weights with the same input share one.
    """
    rounds: dict[str, Round] = {}
    while layer.moments:
        module, moments = layer.moments.popitem()
        rounding = with_feedback(change_moments(layer.index, module, moments, bases))
        rounds |= {f"model.layers.{layer.index}.{reader}.weight": rounding for reader in READERS[module]}
    return rounds


def change_moments(index: int, module: str, moments: Moments, bases: Bases) -> Moments:
    """Change the moments of a module's input to new bases: T^T H T for each group of columns, in place.

    Args:
        index: The layer.
        module: Whose input, a key of `READERS`.
        moments: H of each group of columns, float32 [columns, columns].
        bases: The new ones.
    """
    groups = column_groups(sum(map(len, moments))) if module == INNER else [slice(None)]
    for at, group in enumerate(groups):
        columns = bases.changed_inputs(index, module, to_numpy(moments[at]), group)  # H T, and H is symmetric
        changed = torch.from_numpy(bases.changed_inputs(index, module, columns.T, group))
        moments[at] = changed.to(moments[at].device)
    return moments
