"""What an export will do, before any weights are needed.

In: a request. Out: a `Plan`, or an error for all that `rfprm_export.pipeline.export` refuses but what the weights give
cause for. Of a hub id no weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.head import check_head, head_shapes
from rfprm_export.checkpoint.tensors import Checkpoint, Outline
from rfprm_export.errors import ExportError, RecipeError
from rfprm_export.families.family import ExportRecipe
from rfprm_export.families.options import Options, family_from
from rfprm_export.families.recognise import Recognition, Traits, misfit, recognise
from rfprm_export.oracle.assertions import assert_template, assert_tokens
from rfprm_export.oracle.device import torch_device
from rfprm_export.oracle.layers import require_oracle
from rfprm_export.oracle.reference import load_tokenizer
from rfprm_export.oracle.resolve import resolve
from rfprm_export.parity.texts import ParityTexts, parity_texts
from rfprm_export.variants import VARIANTS, VariantSpec
from rfprm_export.write import size
from rfprm_export.write.bundle import empty_manifest
from rfprm_export.write.size import VariantPlan
from rfprm_export.write.variant import bundle_tokenizer
from rfprm_lite.bundle.manifest import File
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.session import require_available
from rfprm_lite.errors import BundleFormatError, InputError
from rfprm_lite.text.encoding import Encoder


@dataclass(frozen=True, slots=True)
class Request:
    """What to export.

    Attributes:
        source: A folder or a hub id.
        output: The bundle's folder, which must not exist.
        recipe: The name of a family, or a TOML file with one; needed where the checkpoint does not say which.
        options: What else the checkpoint does not say.
        revision: Branch, tag or commit of a hub id.
        variants: Their names.
        low_memory: Whether parity is measured layer by layer, so that no variant is ever loaded as a whole.
        most_traces: For calibration, and as many candidates for parity, where PyTorch would take too long for all.
        device: Where PyTorch computes, and where variants for CUDA are run to measure and correct them; on "cpu" they
            are emulated.
    """

    source: str
    output: Path
    recipe: str | None = None
    options: Options = field(default_factory=Options)
    revision: str | None = None
    variants: Sequence[str] = tuple(VARIANTS)
    low_memory: bool = False
    most_traces: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export is about to write, and on which texts it is to be measured.

    Attributes:
        request: What was asked for.
        outline: What is known of the checkpoint without its weights.
        recognition: The family, and why it was chosen.
        spec: The family as this checkpoint's recipe.
        chosen: The variants, in the order in which devices prefer them.
        variants: The tensors and bytes of each.
        encoder: The runtime's.
        texts: To measure parity on.
    """

    request: Request
    outline: Outline
    recognition: Recognition
    spec: ExportRecipe
    chosen: list[VariantSpec]
    variants: list[VariantPlan]
    encoder: Encoder
    texts: ParityTexts


def plan(request: Request) -> Plan:
    """Find out what `export` would write. Of a hub id no weights are downloaded.

    Raises:
        CheckpointError: See `export`, and so the others: all that it refuses but what the weights give cause for.
        RecipeError: See `export`.
        ExportError: See `export`.
        DeviceError: The device is not there.
    """
    device = DeviceSpec.parse(request.device)
    require_available(device)
    torch_device(device)
    unknown = sorted(set(request.variants) - VARIANTS.keys())
    if unknown or not request.variants:
        raise ExportError(f"no variant is called {', '.join(unknown) or '(nothing)'}: there are {', '.join(VARIANTS)}")
    if request.output.exists():
        raise ExportError(f"{request.output} exists already: remove it or choose another name")
    outline = sources.outline(request.source, request.revision)
    recognition = family_of(outline, request.recipe, request.options)
    tokenizer = load_tokenizer(outline.folder)
    spec = resolve(recognition.family, tokenizer, outline.config.get("pad_token_id"))
    head = head_shapes(outline.architecture, spec.recipe.head)
    assert_tokens(tokenizer, outline.architecture.vocab_size, spec)
    chosen = [variant for name, variant in VARIANTS.items() if name in request.variants]
    variants = [size.plan(outline.architecture, spec, head, variant) for variant in chosen]
    size.require_space(request.output, variants, outline)
    max_tokens = empty_manifest(request.source, outline, spec, File("", "", 0)).max_tokens
    try:
        tokens = Tokenizer.from_str(bundle_tokenizer(outline.folder, spec.recipe))
        encoder = Encoder(tokens, spec.recipe, max_tokens)
        texts = parity_texts(encoder, request.most_traces)
    except (BundleFormatError, InputError) as error:
        raise RecipeError(f"{spec.recipe.name} does not fit the tokenizer: {error}") from error
    assert_template(tokenizer, recognition.family, spec, encoder, texts.traces)
    return Plan(request, outline, recognition, spec, chosen, variants, encoder, texts)


def fetch(plan: Plan) -> Checkpoint:
    """Open the checkpoint that was planned for, after downloading weights that are not on this machine.

    Raises:
        CheckpointError: The weights can't be had, or the checkpoint changed.
    """
    return sources.fetch(plan.request.source, plan.outline)


def family_of(outline: Outline, recipe: str | None, options: Options) -> Recognition:
    """Tell the family of a checkpoint, and check that the checkpoint holds what the family needs.

    Args:
        outline: Of the checkpoint.
        recipe: The name of a family, or a TOML file with one; None if the checkpoint says which.
        options: What else the checkpoint does not say.

    Raises:
        CheckpointError: The checkpoint is not as expected.
        RecipeError: No family fits it, or several.
    """
    require_oracle(outline.architecture)
    traits = _traits(outline)
    if recipe is None:
        recognition = recognise(traits)
    else:
        family = family_from(recipe)
        if reason := misfit(family, traits):
            raise RecipeError(reason)
        recognition = Recognition(family, f"named by --recipe {recipe}")
    family = options.applied(recognition.family.normalised(outline.config))
    check_head(outline, family.head, family.tensors)
    default = family.separator is not None and options.separator is None
    separator = f"; {family.separator!r} stands behind each step, unless --separator says otherwise" if default else ""
    return Recognition(family, f"{recognition.reason}{separator}")


def _traits(outline: Outline) -> Traits:
    files = [path.name for path in outline.folder.iterdir()]
    return Traits(outline.architecture.kind.model_type, outline.architecture.name, outline.shapes, files)
