"""The command `rfprm-export`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from rfprm_lite import RfprmError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--recipe", help="How the PRM is scored; needed where the checkpoint does not say.")
@click.option("--revision", help="Branch, tag or commit, where SOURCE is a hub id.")
@click.option("--variants", default="int8,fp32", show_default=True, help="Comma-separated.")
def main(source: str, output: Path, recipe: str | None, revision: str | None, variants: str) -> None:
    """Turn the PyTorch PRM at SOURCE (a folder or a hub id) into a bundle for rfprm-lite at OUTPUT.

    Example: rfprm-export Gen-Verse/ReasonFlux-PRM-7B bundles/reasonflux-7b --recipe reasonflux-prm-7b
    """
    try:
        # Here, so that --help does not wait for torch.
        from rfprm_export.pipeline import Request, export
    except ModuleNotFoundError as error:
        click.echo(f"error: exporting needs {error.name}: pip install 'rfprm-lite[export]'", err=True)
        sys.exit(1)

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rfprm_export").setLevel(logging.INFO)
    request = Request(source, output, recipe, revision, [v.strip() for v in variants.split(",") if v.strip()])
    try:
        manifest = export(request)
    except RfprmError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(f"{output}: {', '.join(variant.name for variant in manifest.variants)}")
