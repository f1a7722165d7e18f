"""From a checkpoint to a bundle: locate, assert, write, measure, publish. Wiring only."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rfprm_export import parity
from rfprm_export.assertions import assert_template, assert_tokens
from rfprm_export.checkpoint import Architecture, Checkpoint, locate
from rfprm_export.errors import ExportError
from rfprm_export.head import load_head
from rfprm_export.model_card import model_card
from rfprm_export.recipes import choose
from rfprm_export.reference import Reference
from rfprm_export.write import write_fp32, write_tokenizer
from rfprm_lite import PRM, __version__
from rfprm_lite.bundle import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.encoding import Encoder
from rfprm_lite.manifest import FILE_NAME, FORMAT_VERSION, Dimensions, Manifest, Source, Variant, encode

VARIANTS = ("fp32",)

_log = logging.getLogger("rfprm_export")


@dataclass(frozen=True, slots=True)
class Request:
    """source: a folder or a hub id. recipe: by name, needed where the checkpoint does not say which."""

    source: str
    output: Path
    recipe: str | None = None
    revision: str | None = None
    variants: Sequence[str] = VARIANTS


def export(request: Request) -> Manifest:
    """Write a bundle to `request.output`, which must not exist; nothing half-done is ever there.

    Each stage is logged. Raises CheckpointError, RecipeError, ParityError, ExportError.
    """
    unknown = sorted(set(request.variants) - set(VARIANTS))
    if unknown or not request.variants:
        raise ExportError(f"no variant is called {', '.join(unknown) or '(nothing)'}: there are {', '.join(VARIANTS)}")
    checkpoint = Checkpoint.open(locate(request.source, request.revision))
    architecture = checkpoint.architecture
    spec = choose(request.recipe, architecture.name)
    _log.info("recipe %s on %s", spec.recipe.name, architecture.name)
    head = load_head(checkpoint, spec)
    assert_tokens(checkpoint, spec)
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
        _log.info("writing fp32")
        files = write_fp32(folder, checkpoint, spec, head)
        variant = Variant("fp32", files, dtype="float32", kv_dtype="float32", devices=("cpu",), parity=None)
        _log.info("measuring parity with PyTorch")
        scored = parity.score(PRM(Bundle(folder, manifest, variant), DeviceSpec("cpu"), threads=None), traces)
        measured = parity.compare(scored, Reference(checkpoint, spec, head))
        parity.require(measured, parity.FP32_BOUND)
        _log.info("fp32: step rewards differ from PyTorch's by at most %.1e", measured.max_abs_difference)
        variant = msgspec.structs.replace(variant, parity=measured)
        manifest = msgspec.structs.replace(manifest, variants=(variant,))
        (folder / FILE_NAME).write_bytes(encode(manifest))
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
    return manifest


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
