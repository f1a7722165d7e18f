"""From a checkpoint to a bundle: plan, assert, write, measure. Wiring only."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.head import Tensors, check_head, load_head
from rfprm_export.checkpoint.tensors import Architecture, Checkpoint, Outline, Shape
from rfprm_export.errors import CheckpointError, ExportError, ParityError, RangeError
from rfprm_export.families.recipes import ExportRecipe, choose
from rfprm_export.oracle.assertions import assert_template, assert_tokens
from rfprm_export.oracle.calibration import MOST_BYTES, Statistics, measure
from rfprm_export.oracle.reference import Reference, load_tokenizer
from rfprm_export.parity import measure as parity
from rfprm_export.parity.bias_correction import logit_shift, variant_rewards
from rfprm_export.parity.measure import Material, StepRewards
from rfprm_export.parity.probes import calibration_traces
from rfprm_export.quantize.moments import Moments
from rfprm_export.quantize.passes import AS_IT_IS, Passes
from rfprm_export.quantize.round import Round
from rfprm_export.variants import VARIANTS, VariantRecipe
from rfprm_export.write import size as plans
from rfprm_export.write.card import model_card
from rfprm_export.write.report import commands, report
from rfprm_export.write.size import VariantPlan
from rfprm_export.write.variant import shift_logit, to_nearest, write_tokenizer, write_variant
from rfprm_lite import ContextLengthError, __version__
from rfprm_lite.bundle.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    Dimensions,
    File,
    Manifest,
    Parity,
    Source,
    Variant,
    encode,
)
from rfprm_lite.bundle.open import Bundle, check_files, read_manifest
from rfprm_lite.errors import BundleFormatError, NumericalError
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.encoding import Encoder

MOST_TOKENS_A_CHANNEL = 64
"""Of the MLP's inner ones, the widest product: more tell a small model nothing, and take minutes."""

_log = logging.getLogger("rfprm_export")


@dataclass(frozen=True, slots=True)
class Request:
    """source: a folder or a hub id. recipe: by name, needed where the checkpoint does not say which.

    low_memory: parity is measured layer by layer, so that no variant is ever loaded as a whole. most_traces: of those
    for calibration, and as many candidates for parity, where PyTorch would take too long for all.
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
    """What an export is about to write, and on which texts it is to be measured. chosen: its variants, which `variants`
    tells the tensors and bytes of."""

    request: Request
    outline: Outline
    spec: ExportRecipe
    chosen: list[VariantRecipe]
    variants: list[VariantPlan]
    encoder: Encoder
    texts: Material


@dataclass(frozen=True, slots=True)
class _Model:
    """A checkpoint, the recipe that it follows, and its head."""

    checkpoint: Checkpoint
    spec: ExportRecipe
    head: Tensors

    @classmethod
    def of(cls, checkpoint: Checkpoint, spec: ExportRecipe) -> _Model:
        return cls(checkpoint, spec, load_head(checkpoint, spec))

    def reference(self) -> Reference:
        return Reference(self.checkpoint, self.spec, self.head)

    def expected(self, texts: Material) -> StepRewards:
        _log.info("scoring %d traces in PyTorch", len(texts.traces))
        return self.reference().step_rewards(texts.traces)


def export(request: Request, progress: Progress = lambda _variant, _tensors, _bytes: None) -> Manifest:
    """Write a bundle to `request.output`, which must not exist; nothing half-done is ever there.

    Each stage is logged. Raises CheckpointError, RecipeError, ParityError, ExportError, and OSError, of a disk that is
    full, say.
    """
    planned = plan(request)
    return carry_out(planned, fetch(planned), progress)


def plan(request: Request) -> Plan:
    """What `export` would write. Raises CheckpointError, RecipeError, ExportError: all that `export` refuses but what
    its weights themselves give cause for. Of a hub id no weights are downloaded."""
    chosen = _chosen(request)
    if request.output.exists():
        raise ExportError(f"{request.output} exists already: remove it or choose another name")
    outline, spec, head = _outlined(request.source, request.revision, request.recipe)
    own = load_tokenizer(outline.folder)
    assert_tokens(own, outline.architecture.vocab_size, spec)
    variants = [plans.plan(outline.architecture, spec, head, variant) for variant in chosen]
    plans.require_space(request.output, variants, outline)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(Path(folder), outline.folder)
        max_tokens = _manifest(request, outline, spec, tokenizer).max_tokens
        encoder = Encoder.from_file(Path(folder) / tokenizer.path, spec.recipe, max_tokens)
    texts = parity.material(encoder, request.most_traces)
    assert_template(own, spec, encoder, texts.traces)
    return Plan(request, outline, spec, chosen, variants, encoder, texts)


def fetch(plan: Plan) -> Checkpoint:
    """The checkpoint that was planned for, its weights downloaded where they are not on this machine. Raises
    CheckpointError."""
    return sources.fetch(plan.request.source, plan.outline)


def carry_out(
    plan: Plan, checkpoint: Checkpoint, progress: Progress = lambda _variant, _tensors, _bytes: None
) -> Manifest:
    """Write the bundle that was planned, as `export` does. Raises CheckpointError, ParityError, ExportError and
    OSError."""
    request, spec, chosen, encoder, texts = plan.request, plan.spec, plan.chosen, plan.encoder, plan.texts
    model = _Model.of(checkpoint, spec)
    _log.info("recipe %s on %s", spec.recipe.name, checkpoint.architecture.name)
    with _new_folder(request.output) as folder:
        manifest = _manifest(request, plan.outline, spec, write_tokenizer(folder, checkpoint.folder))
        needed = any(variant.passes for variant in chosen)
        calibration = _Calibration.on(model.reference(), encoder, request.most_traces) if needed else None
        measuring = _Measuring(encoder, texts, model.expected(texts), by_layer=request.low_memory)
        made: list[Variant] = []
        for recipe in chosen:
            try:
                written = _write(folder, recipe, model, calibration, partial(progress, recipe.name))
                made.append(measuring.measured(Bundle(folder, manifest, written), recipe, spec, calibration))
            except (NumericalError, RangeError) as error:
                if recipe.bound.needed or (recipe is chosen[-1] and not made):
                    raise ParityError(f"{recipe.name}: {error}. No bundle was written") from error
                _log.warning("%s is left out: %s", recipe.name, error)
                shutil.rmtree(folder / recipe.name, ignore_errors=True)
        manifest = msgspec.structs.replace(manifest, variants=tuple(made))
        again = commands(manifest, most_traces=request.most_traces, low_memory=request.low_memory)
        (folder / FILE_NAME).write_bytes(encode(manifest))
        (folder / "parity.json").write_bytes(report(manifest, again))
        (folder / "README.md").write_text(model_card(manifest, again), encoding="utf-8")
    return manifest


def verify(
    folder: Path, source: str, revision: str | None = None, *, low_memory: bool = False
) -> Iterator[tuple[Variant, Parity]]:
    """Measure a bundle's variants again, against the checkpoint that it was made from: each with what is found now.

    Raises BundleFormatError, BundleFileError, CheckpointError, RecipeError, ExportError, NumericalError, OSError.
    """
    manifest = read_manifest(folder, str(folder))
    unknown = [variant.name for variant in manifest.variants if variant.name not in VARIANTS]
    if unknown:
        raise BundleFormatError(f"{folder} has a variant {unknown[0]!r}; this exporter knows {', '.join(VARIANTS)}")
    for variant in manifest.variants:
        check_files(Bundle(folder, manifest, variant), contents=True)
    outline, spec, _ = _outlined(source, revision, manifest.recipe.name)
    model = _Model.of(sources.fetch(source, outline), spec)
    encoder = Encoder.from_file(folder / manifest.tokenizer.path, manifest.recipe, manifest.max_tokens)
    texts = parity.material(encoder)
    expected = model.expected(texts)
    for variant in manifest.variants:
        bundle = Bundle(folder, manifest, variant)
        yield variant, parity.measure(bundle, encoder, texts, expected, by_layer=low_memory)


def missed(name: str, measured: Parity) -> str | None:
    """Which bound the variant of this name misses, in words."""
    return VARIANTS[name].bound.missed(measured)


def _outlined(source: str, revision: str | None, recipe: str | None) -> tuple[Outline, ExportRecipe, dict[str, Shape]]:
    """What the source holds, the recipe that it follows, and the shapes of its head."""
    outline = sources.outline(source, revision)
    spec = choose(recipe, outline.architecture.name)
    return outline, spec, check_head(outline, spec)


def _chosen(request: Request) -> list[VariantRecipe]:
    unknown = sorted(set(request.variants) - VARIANTS.keys())
    if unknown or not request.variants:
        raise ExportError(f"no variant is called {', '.join(unknown) or '(nothing)'}: there are {', '.join(VARIANTS)}")
    return [variant for name, variant in VARIANTS.items() if name in request.variants]


@dataclass(frozen=True, slots=True)
class _Calibration:
    """rewards: PyTorch's, at the reads of each text, float32 [num_read]. said: what the texts are, for the manifest."""

    texts: list[TokenSequence]
    statistics: Statistics
    rewards: list[NDArray[np.float32]]
    said: str

    @classmethod
    def on(cls, reference: Reference, encoder: Encoder, most: int | None) -> _Calibration:
        texts: list[TokenSequence] = []
        shape = reference.checkpoint.architecture
        room = min(MOST_BYTES // (4 * shape.hidden_size), MOST_TOKENS_A_CHANNEL * shape.intermediate_size)
        for problem, trace in calibration_traces()[:most]:
            with suppress(ContextLengthError):
                text = encoder.step_sequences(problem, trace)[-1]
                if texts and room < len(text.ids):
                    break
                room -= len(text.ids)
                texts.append(text)
        if not texts:
            raise ExportError(
                "the model reads so few tokens that no text for calibration fits it: only fp32 can be made"
            )
        ids = [text.ids for text in texts]
        said = f"calibrated on {len(texts)} traces of PRMBench and StrictPRMBench, {sum(map(len, ids))} tokens"
        _log.info(said)
        statistics, rewards = measure(reference, ids)
        for i, layer in enumerate(statistics):
            if not layer.is_finite():
                raise CheckpointError(
                    f"what model.layers.{i} computes is no number any more: its weights, or those below it, hold NaN "
                    "or infinity, or are too large for float32"
                )
        return cls(texts, statistics, [own[text.read_at] for own, text in zip(rewards, texts, strict=True)], said)


def _write(
    folder: Path,
    recipe: VariantRecipe,
    model: _Model,
    calibration: _Calibration | None,
    written: Callable[[int, int], None],
) -> Variant:
    _log.info("writing %s", recipe.name)
    passes = _passes(recipe, model, calibration)
    made_by = (*passes.said, calibration.said, *recipe.made_by) if recipe.passes and calibration else recipe.made_by
    rounding: Callable[[str], Round] = to_nearest
    if passes.reads and calibration:
        rounding = Moments(model.checkpoint, [text.ids for text in calibration.texts], passes.reads).round
    files = write_variant(folder, recipe, model.checkpoint, model.spec, model.head, passes, rounding, written)
    return Variant(recipe.name, files, recipe.dtype, recipe.kv_dtype, recipe.lanes, recipe.devices, made_by, None)


def _passes(recipe: VariantRecipe, model: _Model, calibration: _Calibration | None) -> Passes:
    if not (recipe.passes and calibration):
        return AS_IT_IS
    return recipe.passes(model.checkpoint.architecture, calibration.statistics, model.spec.head.names[0][0])


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Parity of what was written. expected: PyTorch's step rewards of the texts."""

    encoder: Encoder
    texts: Material
    expected: StepRewards
    by_layer: bool

    def measured(
        self, bundle: Bundle, recipe: VariantRecipe, spec: ExportRecipe, calibration: _Calibration | None
    ) -> Variant:
        """The variant, corrected and measured. Raises NumericalError, ParityError."""
        if recipe.corrected and calibration:
            corrected = _corrected(bundle, spec, calibration, by_layer=self.by_layer)
            bundle = Bundle(bundle.folder, bundle.manifest, corrected)
        found = parity.measure(bundle, self.encoder, self.texts, self.expected, by_layer=self.by_layer)
        parity.require(recipe.name, found, recipe.bound)
        _log.info("%s: %s", recipe.name, _found(recipe.name, found))
        return msgspec.structs.replace(bundle.variant, parity=found, missed=missed(recipe.name, found))


def _corrected(bundle: Bundle, spec: ExportRecipe, calibration: _Calibration, *, by_layer: bool) -> Variant:
    """The variant without its mean error on the texts."""
    found = variant_rewards(bundle, calibration.texts, by_layer=by_layer)
    shift = logit_shift(np.concatenate(calibration.rewards), np.concatenate(found))
    said = f"the head's bias shifted by {shift:+.4f}, the mean error on the texts of calibration"
    _log.info("%s: %s", bundle.variant.name, said)
    variant = shift_logit(bundle, spec, shift)
    return msgspec.structs.replace(variant, made_by=(*variant.made_by, said))


def _found(name: str, measured: Parity) -> str:
    too_far = missed(name, measured)
    refused = f"; no device's default: {too_far}" if too_far else ""
    return (
        f"step rewards differ from PyTorch's by {measured.mean_abs_difference:.1e} on average, "
        f"{measured.max_abs_difference:.1e} at most{refused}"
    )


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name at the end, or vanishes with an error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        folder.rename(output)
    except OSError as error:  # such as another export to the same name that was faster
        raise ExportError(f"the bundle is complete, in {folder}, but can't be named {output}: {error}") from error


def _manifest(request: Request, outline: Outline, spec: ExportRecipe, tokenizer: File) -> Manifest:
    """Of a bundle without variants."""
    return Manifest(
        format_version=FORMAT_VERSION,
        exporter_version=__version__,
        source=_source(request, outline),
        recipe=spec.recipe,
        dimensions=_dimensions(outline.architecture),
        tokenizer=tokenizer,
        variants=(),
    )


def _source(request: Request, outline: Outline) -> Source:
    """A hub id keeps its commit, the name of the snapshot's folder; a local folder is known by its name."""
    if Path(request.source).is_dir():
        return Source(outline.folder.resolve().name, None, outline.architecture.name)
    return Source(request.source, outline.folder.name, outline.architecture.name)


def _dimensions(a: Architecture) -> Dimensions:
    return Dimensions(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        num_heads=a.num_heads,
        num_kv_heads=a.num_kv_heads,
        head_size=a.head_size,
        vocab_size=a.vocab_size,
        max_positions=a.max_positions,
    )
