"""`rfprm models`: the bundles in the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click
from rich.table import Table

from rfprm_lite.bundle.cached import CachedBundle, cached_bundles, plan_removal
from rfprm_lite.bundle.hub import HubOptions, is_hub_id
from rfprm_lite.bundle.open import open_hub_bundle
from rfprm_lite.cli.shared import console, reported_errors
from rfprm_lite.errors import ModelNotFoundError
from rfprm_lite.show.terminal import plain

cache_option = click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines in place of text.")


@click.group()
def models() -> None:
    """List, download and remove bundles in the hub's cache; other models there are never touched."""


@models.command("list")
@cache_option
@json_option
def list_models(cache_dir: Path | None, as_json: bool) -> None:
    """Show the cached bundles: repository, revision, variants, size, when last used. No network.

    Example: rfprm models list --json
    """
    with reported_errors():
        bundles = cached_bundles(cache_dir)
    if as_json:
        for bundle in bundles:
            click.echo(json.dumps(bundle.to_dict()))
    elif not bundles:
        click.echo("no bundles are cached")
    else:
        table = Table("model", "revision", "variants", "MB", "last used", box=None)
        for bundle in bundles:
            table.add_row(
                plain(bundle.repo),
                plain(_revision(bundle)),
                plain(_variants(bundle)),
                f"{bundle.bytes / 1e6:.1f}",
                f"{bundle.last_used.astimezone():%Y-%m-%d %H:%M}",
            )
        console().print(table)


@models.command()
@click.argument("model")
@click.option("--variant", help="Such as fp32; the default of --device where not given.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--revision", help="Branch, tag or commit.")
@cache_option
@json_option
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
        hub = HubOptions(revision, cache_dir)
        bundle = open_hub_bundle(model, variant, None if variant else device, hub, verify=True)
    size = sum(file.bytes for file in bundle.files)
    if as_json:
        fields = {"repo": model, "commit": bundle.folder.name, "variant": bundle.variant.name, "bytes": size}
        click.echo(json.dumps({**fields, "folder": str(bundle.folder)}))
    else:
        click.echo(f"{model} {bundle.variant.name} ({size / 1e6:.1f} MB): {bundle.folder}")


@models.command()
@click.argument("model")
@click.option("--revision", help="Branch, tag, or commit (7 characters will do); all where not given.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cache_option
@json_option
def remove(model: str, revision: str | None, yes: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Remove the cached bundles of MODEL, a hub id, half-downloaded ones too. No network.

    Example: rfprm models remove org/name --revision v1 --yes
    """
    with reported_errors():
        removal = plan_removal(model, revision, cache_dir)
        if not yes:
            commits = ", ".join(_revision(bundle) for bundle in removal.bundles)
            click.confirm(f"Remove {model} at {commits}, {removal.bytes / 1e6:.1f} MB?", abort=True, err=True)
        removal.execute()
    if as_json:
        commits_gone = [bundle.commit for bundle in removal.bundles]
        click.echo(json.dumps({"repo": model, "commits": commits_gone, "bytes": removal.bytes}))
    else:
        click.echo(f"removed {model}, {removal.bytes / 1e6:.1f} MB")


def _revision(bundle: CachedBundle) -> str:
    commit = bundle.commit[:12]
    return f"{commit} ({', '.join(bundle.refs)})" if bundle.refs else commit


def _variants(bundle: CachedBundle) -> str:
    if bundle.problem:
        return bundle.problem
    return ", ".join([*bundle.variants, *(f"{name} (incomplete)" for name in bundle.incomplete)]) or "none"
