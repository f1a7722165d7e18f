"""From a checkpoint to a bundle: plan, assert, calibrate and write, measure. Wiring only."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.head import check_head, load_head
from rfprm_export.checkpoint.tensors import Checkpoint, Outline, Shape
from rfprm_export.errors import ExportError, ParityError, RangeError
from rfprm_export.families.recipes import ExportRecipe, choose
from rfprm_export.oracle.assertions import assert_template, assert_tokens
from rfprm_export.oracle.reference import Reference, load_tokenizer
from rfprm_export.parity import measure as parity
from rfprm_export.parity.texts import ParityTexts, calibration_texts, parity_texts
from rfprm_export.quantize.bases import MADE_BY
from rfprm_export.quantize.overflow import describe_wide_layers, widen_overflowing_layers
from rfprm_export.variants import VARIANTS, VariantSpec
from rfprm_export.write import size
from rfprm_export.write.bundle import empty_manifest, new_folder, write_descriptions
from rfprm_export.write.calibrated import Calibration, calibrate, correct_bias
from rfprm_export.write.report import commands
from rfprm_export.write.size import VariantPlan
from rfprm_export.write.variant import VariantWriter, bundle_tokenizer, write_tokenizer, write_variant
from rfprm_lite import BundleFormatError, NumericalError
from rfprm_lite.bundle.manifest import File, Manifest, Parity, Variant
from rfprm_lite.bundle.open import Bundle, check_files, read_manifest
from rfprm_lite.text.encoding import Encoder

_log = logging.getLogger("rfprm_export")


@dataclass(frozen=True, slots=True)
class Request:
    """What to export.

    Attributes:
        source: A folder or a hub id.
        output: The bundle's folder, which must not exist.
        recipe: By name, needed where the checkpoint does not say which.
        revision: Branch, tag or commit of a hub id.
        variants: Their names.
        low_memory: Whether parity is measured layer by layer, so that no variant is ever loaded as a whole.
        most_traces: For calibration, and as many candidates for parity, where PyTorch would take too long for all.
    """

    source: str
    output: Path
    recipe: str | None = None
    revision: str | None = None
    variants: Sequence[str] = tuple(VARIANTS)
    low_memory: bool = False
    most_traces: int | None = None


Progress = Callable[[str, int, int], None]
"""Told a variant's name, and how many of its tensors and bytes were written since."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export is about to write, and on which texts it is to be measured.

    Attributes:
        request: What was asked for.
        outline: What is known of the checkpoint without its weights.
        spec: The recipe.
        chosen: The variants, in the order in which devices prefer them.
        variants: The tensors and bytes of each.
        tokenizer: The checkpoint's own.
        encoder: The runtime's.
        texts: To measure parity on.
    """

    request: Request
    outline: Outline
    spec: ExportRecipe
    chosen: list[VariantSpec]
    variants: list[VariantPlan]
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    texts: ParityTexts


def export(request: Request, progress: Progress = lambda _variant, _tensors, _bytes: None) -> Manifest:
    """Write a bundle to `request.output`; nothing half-done is ever there. Each stage is logged.

    Args:
        request: What to export.
        progress: Told what was written.

    Raises:
        CheckpointError: The checkpoint is not as expected.
        RecipeError: No recipe fits it.
        ParityError: The graph does not give PyTorch's rewards.
        ExportError: The output exists, or can't be written.
        OSError: The disk is full, say.
    """
    planned = plan(request)
    return carry_out(planned, fetch(planned), progress)


def plan(request: Request) -> Plan:
    """Find out what `export` would write. Of a hub id no weights are downloaded.

    Raises:
        CheckpointError: See `export`, and so the others: all that it refuses but what the weights give cause for.
        RecipeError: See `export`.
        ExportError: See `export`.
    """
    unknown = sorted(set(request.variants) - VARIANTS.keys())
    if unknown or not request.variants:
        raise ExportError(f"no variant is called {', '.join(unknown) or '(nothing)'}: there are {', '.join(VARIANTS)}")
    if request.output.exists():
        raise ExportError(f"{request.output} exists already: remove it or choose another name")
    outline, spec, head = _outline(request.source, request.revision, request.recipe)
    tokenizer = load_tokenizer(outline.folder)
    assert_tokens(tokenizer, outline.architecture.vocab_size, spec)
    chosen = [variant for name, variant in VARIANTS.items() if name in request.variants]
    variants = [size.plan(outline.architecture, spec, head, variant) for variant in chosen]
    size.require_space(request.output, variants, outline)
    max_tokens = empty_manifest(request.source, outline, spec, File("", "", 0)).max_tokens
    encoder = Encoder(Tokenizer.from_str(bundle_tokenizer(outline.folder)), spec.recipe, max_tokens)
    texts = parity_texts(encoder, request.most_traces)
    assert_template(tokenizer, spec, encoder, texts.traces)
    return Plan(request, outline, spec, chosen, variants, tokenizer, encoder, texts)


def fetch(plan: Plan) -> Checkpoint:
    """Open the checkpoint that was planned for, after downloading weights that are not on this machine.

    Raises:
        CheckpointError: The weights can't be had, or the checkpoint changed.
    """
    return sources.fetch(plan.request.source, plan.outline)


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
        OSError: See `export`.
    """
    request, spec = plan.request, plan.spec
    reference = Reference(checkpoint, spec, load_head(checkpoint, spec), plan.tokenizer)
    _log.info("recipe %s on %s", spec.recipe.name, checkpoint.architecture.name)
    with new_folder(request.output) as folder:
        manifest = empty_manifest(request.source, plan.outline, spec, write_tokenizer(folder, checkpoint.folder))
        calibration, calibrated = _calibrate(folder, plan, reference, progress)
        _log.info("scoring %d traces in PyTorch", len(plan.texts.traces))
        expected = reference.step_rewards(plan.texts.traces)
        done: list[Variant] = []
        for variant in plan.chosen:
            try:
                written = calibrated.get(variant.name) or _write(
                    folder, plan, variant, reference, calibration, progress
                )
                bundle = Bundle(folder, manifest, written)
                if variant.calibration == "moments" and calibration:
                    bundle = correct_bias(bundle, spec, calibration, by_layer=request.low_memory)
                measured = parity.measure(bundle, plan.encoder, plan.texts, expected, by_layer=request.low_memory)
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
        again = commands(manifest, most_traces=request.most_traces, low_memory=request.low_memory)
        write_descriptions(folder, manifest, again)
    return manifest


def verify(
    folder: Path, source: str, revision: str | None = None, *, low_memory: bool = False
) -> Iterator[tuple[Variant, Parity]]:
    """Measure a bundle's variants again, against the checkpoint that it was made from.

    Args:
        folder: The bundle's.
        source: The checkpoint, a folder or a hub id.
        revision: Branch, tag or commit of a hub id.
        low_memory: Whether to measure layer by layer.

    Yields:
        Each variant with its parity as measured now.

    Raises:
        BundleFormatError: The bundle can't be read, or holds a variant that this exporter does not know.
        BundleFileError: A file of it is not what the manifest says.
        CheckpointError: The checkpoint is not as expected.
        RecipeError: The bundle's recipe does not fit it.
        NumericalError: A reward is no number.
    """
    manifest = read_manifest(folder, str(folder))
    unknown = [variant.name for variant in manifest.variants if variant.name not in VARIANTS]
    if unknown:
        raise BundleFormatError(f"{folder} has a variant {unknown[0]!r}; this exporter knows {', '.join(VARIANTS)}")
    for variant in manifest.variants:
        check_files(Bundle(folder, manifest, variant), contents=True)
    outline, spec, _ = _outline(source, revision, manifest.recipe.name)
    checkpoint = sources.fetch(source, outline)
    encoder = Encoder.from_file(folder / manifest.tokenizer.path, manifest.recipe, manifest.max_tokens)
    texts = parity_texts(encoder)
    expected = Reference(checkpoint, spec, load_head(checkpoint, spec)).step_rewards(texts.traces)
    for variant in manifest.variants:
        bundle = Bundle(folder, manifest, variant)
        yield variant, parity.measure(bundle, encoder, texts, expected, by_layer=low_memory)


def _outline(source: str, revision: str | None, recipe: str | None) -> tuple[Outline, ExportRecipe, dict[str, Shape]]:
    """What the source holds, the recipe that it follows, and the shapes of its head."""
    outline = sources.outline(source, revision)
    spec = choose(recipe, outline.architecture.name)
    return outline, spec, check_head(outline, spec)


def _calibrate(
    folder: Path, plan: Plan, reference: Reference, progress: Progress
) -> tuple[Calibration | None, dict[str, Variant]]:
    """Calibrate if a variant needs it; the variants that are written on the way, by name."""
    chosen = [variant for variant in plan.chosen if variant.calibration == "moments"]
    ranges = any(variant.calibration == "ranges" for variant in plan.chosen)
    if not (chosen or ranges):
        return None, {}
    checkpoint, spec, head = reference.checkpoint, plan.spec, reference.head
    texts = calibration_texts(plan.encoder, checkpoint.architecture, plan.request.most_traces)
    _log.info("%s%s", texts.description, "".join(f", writing {variant.name}" for variant in chosen))
    with ExitStack() as stack:
        writers = [
            VariantWriter(folder, variant, checkpoint, spec, head, written=partial(progress, variant.name))
            for variant in chosen
        ]
        for writer in writers:
            stack.enter_context(writer)
        calibration = calibrate(reference, texts, writers, spec.head.first_weight, ranges=ranges)
        said = (*MADE_BY, texts.description)
        return calibration, {w.variant.name: w.variant.entry(w.finish(), said) for w in writers}


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
    wide: frozenset[int] = frozenset()
    said: tuple[str, ...] = ()
    if variant.calibration and calibration:
        wide = widen_overflowing_layers(calibration.ranges)
        said = (describe_wide_layers(wide), calibration.texts.description)
    written = partial(progress, variant.name)
    files = write_variant(folder, variant, reference.checkpoint, plan.spec, reference.head, wide=wide, written=written)
    return variant.entry(files, said)
