"""The command `rfprm models`: what a bundle reads, and downloads. huggingface-hub's `hf cache` shows what is cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click
import msgspec

from rfprm_lite.bundle.hub import is_hub_id
from rfprm_lite.bundle.open import open_bundle, open_hub_bundle
from rfprm_lite.cli.shared import reported_errors
from rfprm_lite.errors import ModelNotFoundError
from rfprm_lite.options import LoadOptions
from rfprm_lite.show.words import visible
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.explain import explained


@click.group()
def models() -> None:
    """Show how bundles score; download them into the hub's cache (`hf cache ls` and `hf cache rm` do the rest)."""


@models.command()
@click.argument("model")
@click.option("--variant", help="Such as fp32; the default of --device where not given.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of text.")
def download(
    model: str,
    variant: str | None,
    device: Literal["cpu", "cuda"],
    revision: str | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Download one variant of a bundle, MODEL being its hub id, and check it; print its folder.

    Example: rfprm models download org/name --variant int8 --revision v1
    """
    with reported_errors():
        if not is_hub_id(model):
            raise ModelNotFoundError(f"{model} is no hub id of the form org/name")
        # A variant that is named is wanted for whatever machine it may be.
        options = LoadOptions(variant=variant, revision=revision, cache_dir=cache_dir)
        bundle = open_hub_bundle(model, None if variant else device, options)
    size = sum(file.bytes for file in bundle.files)
    if as_json:
        fields = {"repo": model, "commit": bundle.folder.name, "variant": bundle.variant.name, "bytes": size}
        click.echo(json.dumps({**fields, "folder": str(bundle.folder)}))
    else:
        click.echo(f"{model} {bundle.variant.name} ({size / 1e6:.1f} MB): {bundle.folder}")


@models.command()
@click.argument("model")
@click.option("--revision", help="Branch, tag or commit, where MODEL is a hub id.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's.")
@click.option("--json", "as_json", is_flag=True, help="Print the recipe as JSON in place of text.")
def show(model: str, revision: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Show how MODEL scores, a bundle's folder, a hub id, or demo: its recipe, and an example as the model reads it.

    Example: rfprm models show demo
    """
    with reported_errors():
        bundle = open_bundle(model, LoadOptions(revision=revision, cache_dir=cache_dir))
        recipe, max_tokens = bundle.manifest.recipe, bundle.manifest.max_tokens
        if as_json:
            click.echo(msgspec.json.encode(recipe))
        else:
            click.echo(visible(explained(Encoder.from_file(bundle.tokenizer, recipe, max_tokens))))
