"""From a checkpoint to a bundle: plan, assert, calibrate and write, measure. Wiring only."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from rfprm_export.checkpoint.head import load_head
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import ParityError, RangeError
from rfprm_export.oracle.calibration import LayerRanges
from rfprm_export.oracle.device import release, torch_device
from rfprm_export.oracle.reference import Reference
from rfprm_export.parity import measure as parity
from rfprm_export.parity.texts import calibration_texts
from rfprm_export.planning import Plan, Request, fetch, plan
from rfprm_export.quantize.bases import MADE_BY
from rfprm_export.quantize.overflow import describe_wide_layers, widen_overflowing_layers
from rfprm_export.variants import VariantSpec
from rfprm_export.write.bundle import empty_manifest, new_folder, write_descriptions
from rfprm_export.write.calibrated import Calibration, calibrate, correct_bias
from rfprm_export.write.report import commands
from rfprm_export.write.variant import VariantWriter, write_tokenizer, write_variant
from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import NumericalError

__all__ = ["Plan", "Request", "carry_out", "export", "fetch", "plan"]

_log = logging.getLogger("rfprm_export")


Progress = Callable[[str, int, int], None]
"""Told a variant's name, and how many of its tensors and bytes were written since."""


def export(request: Request, progress: Progress = lambda _variant, _tensors, _bytes: None) -> Manifest:
    """Write a bundle to `request.output`; nothing half-done is ever there. Each stage is logged.

    Args:
        request: What to export.
        progress: Told what was written.

    Raises:
        CheckpointError: The checkpoint is not as expected.
        RecipeError: No recipe fits it.
        ParityError: The graph does not give PyTorch's rewards.
        ExportError: The output exists, or can't be written: the disk is full, say.
    """
    planned = plan(request)
    return carry_out(planned, fetch(planned), progress)


def carry_out(
    plan: Plan, checkpoint: Checkpoint, progress: Progress = lambda _variant, _tensors, _bytes: None
) -> Manifest:
    """Write the bundle that was planned, as `export` does.

    Args:
        plan: What to write.
        checkpoint: The source.
        progress: Told what was written.

    Raises:
        CheckpointError: See `export`, and so the others.
        ParityError: See `export`.
        ExportError: See `export`.
    """
    request, spec, device = plan.request, plan.spec, DeviceSpec.parse(plan.request.device)
    head = load_head(checkpoint, spec)
    reference = Reference(checkpoint, spec.recipe.head, head, plan.encoder, torch_device(device))
    _log.info("recipe %s: %s", spec.recipe.name, plan.recognition.reason)
    if spec.frozen_date:
        _log.warning("the chat template writes today's date: the bundle keeps it as it is now")
    with new_folder(request.output) as folder:
        manifest = empty_manifest(
            request.source, plan.outline, spec, write_tokenizer(folder, checkpoint.folder, spec.recipe)
        )
        calibration, filled = _calibrate(folder, plan, reference, progress)
        _log.info("scoring %d traces in PyTorch", len(plan.texts.traces))
        expected = reference.step_rewards(plan.texts.traces)
        release(reference.device)
        done: list[Variant] = []
        for variant in plan.chosen:
            try:
                if calibration and variant.name in filled:
                    written = _finish(filled[variant.name], calibration)
                else:
                    written = _write(folder, plan, variant, reference, calibration, progress)
                bundle = Bundle(folder, manifest, written)
                if variant.balanced and calibration:
                    bundle = correct_bias(bundle, spec, calibration, by_layer=request.low_memory, device=device)
                measured = parity.measure(
                    bundle, plan.encoder, plan.texts, expected, by_layer=request.low_memory, device=device
                )
            except (NumericalError, RangeError) as error:
                if variant.bound.needed or (variant is plan.chosen[-1] and not done):
                    raise ParityError(f"{variant.name}: {error}. No bundle was written") from error
                _log.warning("%s is left out: %s", variant.name, error)
                shutil.rmtree(folder / variant.name, ignore_errors=True)
                continue
            parity.require(variant.name, measured, variant.bound)
            _log.info("%s: %s", variant.name, parity.describe(measured, variant.bound))
            missed = variant.bound.missed(measured)
            done.append(msgspec.structs.replace(bundle.variant, parity=measured, missed=missed))
        manifest = msgspec.structs.replace(manifest, variants=tuple(done))
        again = commands(
            manifest,
            request.recipe,
            request.options,
            most_traces=request.most_traces,
            low_memory=request.low_memory,
            device=request.device,
        )
        write_descriptions(folder, manifest, again, frozen_date=spec.frozen_date)
    return manifest


def _calibrate(
    folder: Path, plan: Plan, reference: Reference, progress: Progress
) -> tuple[Calibration | None, dict[str, VariantWriter]]:
    """Calibrate if a variant needs it; the writers of variants whose weights were written on the way, by name."""
    chosen = [variant for variant in plan.chosen if variant.balanced]
    ranges = any(variant.widened for variant in plan.chosen)
    if not (chosen or ranges):
        return None, {}
    checkpoint, spec, head = reference.checkpoint, plan.spec, reference.head
    texts = calibration_texts(plan.encoder, checkpoint.architecture, plan.request.most_traces)
    _log.info("%s%s", texts.description, "".join(f", writing {variant.name}" for variant in chosen))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                VariantWriter(folder, variant, checkpoint, spec, head, written=partial(progress, variant.name))
            )
            for variant in chosen
        ]
        calibration = calibrate(reference, texts, writers, ranges=ranges)
    return calibration, {writer.variant.name: writer for writer in writers}


def _finish(writer: VariantWriter, calibration: Calibration) -> Variant:
    """Write the graph of a variant whose weights are written."""
    wide, said = _widened(writer.variant, calibration.balanced)
    return writer.variant.entry(writer.finish(wide), (*MADE_BY, *said, calibration.texts.description))


def _write(
    folder: Path,
    plan: Plan,
    variant: VariantSpec,
    reference: Reference,
    calibration: Calibration | None,
    progress: Progress,
) -> Variant:
    """Write a variant that keeps the checkpoint's bases."""
    _log.info("writing %s", variant.name)
    wide, said = _widened(variant, calibration.ranges if calibration else [])
    if calibration and said:
        said = (*said, calibration.texts.description)
    written = partial(progress, variant.name)
    files = write_variant(folder, variant, reference.checkpoint, plan.spec, reference.head, wide=wide, written=written)
    return variant.entry(files, said)


def _widened(variant: VariantSpec, ranges: Sequence[LayerRanges]) -> tuple[frozenset[int], tuple[str, ...]]:
    """The layers of a variant that could overflow, and what the manifest says of them."""
    if variant.widened is None:
        return frozenset(), ()
    wide = widen_overflowing_layers(ranges)
    return wide, (describe_wide_layers(wide, variant.widened),)
