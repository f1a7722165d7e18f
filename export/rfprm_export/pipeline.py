"""From a checkpoint to a bundle: locate, assert, write, measure, publish. Wiring only."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_export import calibration, parity
from rfprm_export import plan as plans
from rfprm_export.assertions import assert_template, assert_tokens
from rfprm_export.checkpoint import Architecture, Checkpoint, locate
from rfprm_export.errors import ExportError
from rfprm_export.head import Tensors, load_head
from rfprm_export.model_card import model_card
from rfprm_export.plan import VariantPlan
from rfprm_export.probes import real_traces
from rfprm_export.recipes import ExportRecipe, choose
from rfprm_export.reference import Reference
from rfprm_export.smoothing import NONE, Rescaling, smooth
from rfprm_export.variants import VARIANTS, VariantRecipe
from rfprm_export.write import write_tokenizer, write_variant
from rfprm_lite import PRM, ContextLengthError, Trace, __version__
from rfprm_lite.bundle import Bundle, check_files
from rfprm_lite.device import DeviceSpec
from rfprm_lite.encoding import Encoder
from rfprm_lite.manifest import FILE_NAME, FORMAT_VERSION, Dimensions, Manifest, Parity, Source, Variant, encode, read

_log = logging.getLogger("rfprm_export")


@dataclass(frozen=True, slots=True)
class Request:
    """source: a folder or a hub id. recipe: by name, needed where the checkpoint does not say which."""

    source: str
    output: Path
    recipe: str | None = None
    revision: str | None = None
    variants: Sequence[str] = tuple(VARIANTS)


Progress = Callable[[str, int], None]
"""Told a variant's name and how many of its bytes were written since."""


def export(request: Request, progress: Progress = lambda _variant, _bytes: None) -> Manifest:
    """Write a bundle to `request.output`, which must not exist; nothing half-done is ever there.

    Each stage is logged. Raises CheckpointError, RecipeError, ParityError, ExportError.
    """
    chosen = _chosen(request)
    checkpoint = Checkpoint.open(locate(request.source, request.revision))
    architecture = checkpoint.architecture
    spec = choose(request.recipe, architecture.name)
    _log.info("recipe %s on %s", spec.recipe.name, architecture.name)
    head = load_head(checkpoint, spec)
    assert_tokens(checkpoint, spec)
    plans.require_space(request.output, _plans(architecture, spec, head, chosen))
    with _new_folder(request.output) as folder:
        tokenizer = write_tokenizer(folder, checkpoint)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            exporter_version=__version__,
            source=_source(request, checkpoint.folder, architecture),
            recipe=spec.recipe,
            dimensions=_dimensions(architecture),
            tokenizer=tokenizer,
            variants=(),
        )
        encoder = Encoder.from_file(folder / tokenizer.path, spec.recipe, manifest.max_tokens)
        traces = parity.traces_for(encoder)
        assert_template(checkpoint, spec, encoder, traces)
        made = list(_variants(folder, manifest, chosen, checkpoint, spec, head, encoder, traces, progress))
        # What missed its bound comes last, so that it is no device's default.
        made.sort(key=lambda variant: _missed(variant) is not None)
        manifest = msgspec.structs.replace(manifest, variants=tuple(made))
        (folder / FILE_NAME).write_bytes(encode(manifest))
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
    return manifest


def plan(request: Request) -> list[VariantPlan]:
    """What `export` would write. Raises what it would raise before it writes anything."""
    chosen = _chosen(request)
    checkpoint = Checkpoint.open(locate(request.source, request.revision))
    spec = choose(request.recipe, checkpoint.architecture.name)
    return _plans(checkpoint.architecture, spec, load_head(checkpoint, spec), chosen)


def _chosen(request: Request) -> list[VariantRecipe]:
    unknown = sorted(set(request.variants) - VARIANTS.keys())
    if unknown or not request.variants:
        raise ExportError(f"no variant is called {', '.join(unknown) or '(nothing)'}: there are {', '.join(VARIANTS)}")
    return [variant for name, variant in VARIANTS.items() if name in request.variants]


def _plans(
    architecture: Architecture, spec: ExportRecipe, head: Tensors, chosen: Sequence[VariantRecipe]
) -> list[VariantPlan]:
    shapes = {name: tensor.shape for name, tensor in head.items()}
    return [plans.plan(architecture, spec, shapes, variant) for variant in chosen]


def verify(folder: Path, source: str, revision: str | None = None) -> Iterator[tuple[Variant, Parity]]:
    """Measure a bundle's variants again, against the checkpoint that it was made from: each with what is found now.

    Raises BundleFormatError, BundleFileError, CheckpointError, RecipeError.
    """
    manifest = read(folder / FILE_NAME)
    checkpoint = Checkpoint.open(locate(source, revision))
    spec = choose(manifest.recipe.name, checkpoint.architecture.name)
    head = load_head(checkpoint, spec)
    encoder = Encoder.from_file(folder / manifest.tokenizer.path, manifest.recipe, manifest.max_tokens)
    traces = parity.traces_for(encoder)
    expected = Reference(checkpoint, spec, head).step_rewards(traces)
    for variant in manifest.variants:
        bundle = Bundle(folder, manifest, variant)
        check_files(bundle, contents=True)
        yield variant, parity.measure(PRM(bundle, DeviceSpec("cpu"), threads=None), traces, expected)


def _variants(
    folder: Path,
    manifest: Manifest,
    chosen: Sequence[VariantRecipe],
    checkpoint: Checkpoint,
    spec: ExportRecipe,
    head: Tensors,
    encoder: Encoder,
    traces: Sequence[tuple[str, Trace]],
    progress: Progress,
) -> Iterator[Variant]:
    """Write and measure each."""
    _log.info("scoring %d traces in PyTorch", len(traces))
    expected = Reference(checkpoint, spec, head).step_rewards(traces)
    for recipe in chosen:
        rescaling, made_by = NONE, recipe.made_by
        if recipe.smoothing is not None:
            _log.info("calibrating %s", recipe.name)
            rescaling, smoothed = _smooth(checkpoint, encoder, recipe.smoothing)
            made_by = (smoothed, *made_by)
        _log.info("writing %s", recipe.name)
        files = write_variant(folder, recipe, checkpoint, spec, head, rescaling, partial(progress, recipe.name))
        variant = Variant(recipe.name, files, recipe.dtype, "float32", ("cpu",), made_by, parity=None)
        prm = PRM(Bundle(folder, manifest, variant), DeviceSpec("cpu"), threads=None)
        measured = parity.measure(prm, traces, expected)
        parity.require(recipe.name, measured, recipe.bound)
        variant = msgspec.structs.replace(variant, parity=measured)
        _log.info(
            "%s: step rewards differ from PyTorch's by %.1e on average, %.1e at most%s",
            recipe.name,
            measured.mean_abs_difference,
            measured.max_abs_difference,
            f"; not made the default: {too_far}" if (too_far := _missed(variant)) else "",
        )
        yield variant


def missed(name: str, measured: Parity) -> str | None:
    """Which bound the variant of this name misses, in words."""
    return VARIANTS[name].bound.missed(measured)


def _missed(variant: Variant) -> str | None:
    return missed(variant.name, variant.parity) if variant.parity else None


def _smooth(checkpoint: Checkpoint, encoder: Encoder, strengths: Mapping[str, float]) -> tuple[Rescaling, str]:
    """The factors, and what the manifest says of them."""
    sequences = []
    for problem, trace in real_traces("calibration"):
        with suppress(ContextLengthError):
            sequences.append(encoder.step_sequences(problem, trace)[-1].ids)
    ranges = calibration.measure(checkpoint, sequences)

    def column_maxima(name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.max([np.abs(block).max(axis=0) for block in checkpoint.blocks(name)], axis=0)
        return found

    tokens = sum(len(ids) for ids in sequences)
    shown = ", ".join(f"{key} {strength}" for key, strength in strengths.items())
    said = f"smoothed ({shown}), calibrated on {len(sequences)} traces of PRMBench ({tokens} tokens)"
    return smooth(checkpoint.architecture, ranges, column_maxima, strengths), said


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name at the end, or vanishes with an error."""
    if output.exists():
        raise ExportError(f"{output} exists already: remove it or choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _source(request: Request, folder: Path, architecture: Architecture) -> Source:
    """A hub id keeps its commit, the name of the snapshot's folder; a local folder is known by its name."""
    if Path(request.source).is_dir():
        return Source(folder.resolve().name, None, architecture.name)
    return Source(request.source, folder.name, architecture.name)


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
