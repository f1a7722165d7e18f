"""A bundle's parity, measured again against the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.head import load_head
from rfprm_export.families.family import ExportRecipe
from rfprm_export.families.options import Options
from rfprm_export.oracle.device import release, torch_device
from rfprm_export.oracle.reference import Reference, load_tokenizer
from rfprm_export.oracle.resolve import label_rows
from rfprm_export.parity import measure as parity
from rfprm_export.parity.texts import parity_texts
from rfprm_export.planning import family_of
from rfprm_export.variants import VARIANTS
from rfprm_lite.bundle.manifest import Parity, Variant
from rfprm_lite.bundle.open import Bundle, check_files, read_manifest
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.session import require_available
from rfprm_lite.errors import BundleFormatError
from rfprm_lite.text.encoding import Encoder

NO_OPTIONS = Options()


def verify(
    folder: Path,
    source: str,
    revision: str | None = None,
    *,
    recipe: str | None = None,
    options: Options = NO_OPTIONS,
    low_memory: bool = False,
    device: str = "cpu",
) -> Iterator[tuple[Variant, Parity]]:
    """Measure a bundle's variants again, against the checkpoint that it was made from.

    Args:
        folder: The bundle's.
        source: The checkpoint, a folder or a hub id.
        revision: Branch, tag or commit of a hub id.
        recipe: The TOML file of a recipe of your own; otherwise the bundle says which.
        options: Those that the bundle was made with.
        low_memory: Whether to measure layer by layer.
        device: Where PyTorch computes, and where variants for CUDA are run; on "cpu" they are emulated.

    Yields:
        Each variant with its parity as measured now.

    Raises:
        BundleFormatError: The bundle can't be read, or holds a variant that this exporter does not know.
        BundleFileError: A file of it is not what the manifest says.
        CheckpointError: The checkpoint is not as expected.
        RecipeError: The bundle's recipe does not fit it.
        NumericalError: A reward is no number.
        DeviceError: The device is not there.
    """
    spec_of_device = DeviceSpec.parse(device)
    require_available(spec_of_device)
    on = torch_device(spec_of_device)
    manifest = read_manifest(folder, str(folder))
    unknown = [variant.name for variant in manifest.variants if variant.name not in VARIANTS]
    if unknown:
        raise BundleFormatError(f"{folder} has a variant {unknown[0]!r}; this exporter knows {', '.join(VARIANTS)}")
    for variant in manifest.variants:
        check_files(Bundle(folder, manifest, variant), contents=True)
    outline = sources.outline(source, revision)
    family = family_of(outline, recipe or manifest.recipe.name, options).family
    spec = ExportRecipe(manifest.recipe, family.tensors, label_rows(family, load_tokenizer(outline.folder)))
    checkpoint = sources.fetch(source, outline)
    encoder = Encoder.from_file(folder / manifest.tokenizer.path, manifest.recipe, manifest.max_tokens)
    texts = parity_texts(encoder)
    reference = Reference(checkpoint, spec.recipe.head, load_head(checkpoint, spec), encoder, on)
    expected = reference.step_rewards(texts.traces)
    release(on)
    for variant in manifest.variants:
        bundle = Bundle(folder, manifest, variant)
        yield variant, parity.measure(bundle, encoder, texts, expected, by_layer=low_memory, device=spec_of_device)
