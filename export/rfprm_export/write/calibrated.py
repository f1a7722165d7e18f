"""One pass of texts through PyTorch that measures each layer and writes it into the calibrated variants.

In: the reference, texts, and writers of variants. Out: filled variants, and the `Calibration`. While a layer's weights
are in memory, its inputs are measured, its bases found, and its weights rounded for every variant by the same factors.

Only the order of the residual stream's channels must be known before the first layer. A scout pass of few tokens tells
it: the order only deals large channels out to groups of 32, and those that are large are so in every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.families.family import ExportRecipe
from rfprm_export.oracle.calibration import INNER, NORMS, READERS, CalibratedLayer, LayerRanges, calibrated_layers
from rfprm_export.oracle.reference import Reference
from rfprm_export.parity.bias_correction import logit_shift, variant_rewards
from rfprm_export.parity.texts import CalibrationTexts
from rfprm_export.quantize.bases import Bases, Order, column_groups, layer_bases, residual_order
from rfprm_export.quantize.moments import layer_rounding
from rfprm_export.write.variant import VariantWriter, checkpoint_blocks, shift_logit
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec

FIRST_OF_HEAD = "head.0.weight"
"""The tensor that multiplies the final norm's output."""
SCOUT_TOKENS = 2_048
"""Tokens by which the order of the residual stream's channels is found."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one pass found.

    Attributes:
        texts: The texts that passed.
        rewards: PyTorch's, at the read-outs of each text, float32 [num_read].
        ranges: Of each layer; empty unless asked for.
        balanced: Of each layer in the bases of the writers' variants; empty without writers.
    """

    texts: CalibrationTexts
    rewards: list[NDArray[np.float32]]
    ranges: list[LayerRanges]
    balanced: list[LayerRanges]


def calibrate(
    reference: Reference, texts: CalibrationTexts, writers: Sequence[VariantWriter], *, ranges: bool
) -> Calibration:
    """Pass texts through PyTorch, and fill the writers' files on the way.

    Args:
        reference: The oracle.
        texts: What passes.
        writers: Of balanced variants; with none, no moments are taken.
        ranges: Whether to take the largest magnitudes.

    Raises:
        CheckpointError: A layer gives NaN or infinity.
    """
    ids = [torch.from_numpy(sequence.ids)[None] for sequence in texts.sequences]
    architecture = reference.checkpoint.architecture
    order = _scout(reference, ids) if writers else np.arange(architecture.hidden_size)
    measured: list[LayerRanges] = []
    balanced: list[LayerRanges] = []
    layers = reference.layers(ids)
    groups = {INNER: column_groups(architecture.intermediate_size)}
    for layer in calibrated_layers(layers, READERS if writers else (), groups, ranges=ranges):
        if layer.ranges is not None:
            measured.append(layer.ranges)
        if writers:
            bases = Bases(order, {layer.index: layer_bases(layer.statistics())}, FIRST_OF_HEAD)
            if layer.ranges is not None:
                balanced.append(bases.changed_ranges(layer.index, layer.ranges))
            _fill(writers, layer, bases)
    load = checkpoint_blocks(reference.checkpoint, reference.head)
    for writer in writers:
        writer.fill_layer(None, partial(Bases(order, {}, FIRST_OF_HEAD).blocks, load=load))
    rewards = zip(texts.sequences, reference.head_rewards(layers), strict=True)
    return Calibration(texts, [of_text[sequence.read_at] for sequence, of_text in rewards], measured, balanced)


def correct_bias(
    bundle: Bundle, spec: ExportRecipe, calibration: Calibration, *, by_layer: bool, device: DeviceSpec
) -> Bundle:
    """Take a variant's mean error on the texts off the head's bias.

    Args:
        bundle: With the variant, which changes on disk.
        spec: The recipe.
        calibration: PyTorch's rewards of the texts.
        by_layer: Whether to score with one layer in memory at a time.
        device: Where a variant for CUDA is run; the CPU emulates it.

    Returns:
        The bundle with the variant's new checksums.
    """
    actual = variant_rewards(bundle, calibration.texts.sequences, by_layer=by_layer, device=device)
    shift = logit_shift(spec.recipe.head, np.concatenate(calibration.rewards), np.concatenate(actual))
    said = f"the head's bias shifted by {shift:+.4f}, the mean error on the texts of calibration"
    variant = shift_logit(bundle, spec, shift)
    variant = msgspec.structs.replace(variant, made_by=(*variant.made_by, said))
    return Bundle(bundle.folder, bundle.manifest, variant)


def _scout(reference: Reference, ids: Sequence[torch.Tensor]) -> Order:
    chosen, room = [], SCOUT_TOKENS
    for text in ids:
        if room > 0:
            chosen.append(text[:, :room])
            room -= text.shape[1]
    inputs = [layer.norm_input(norm) for layer in calibrated_layers(reference.layers(chosen), NORMS) for norm in NORMS]
    return residual_order(inputs)


def _fill(writers: Sequence[VariantWriter], layer: CalibratedLayer, bases: Bases) -> None:
    rounds = layer_rounding(layer, bases)
    for writer in writers:
        writer.fill_layer(layer.index, partial(bases.blocks, load=layer.blocks), rounds.__getitem__)
