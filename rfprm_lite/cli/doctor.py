"""`rfprm doctor`."""

from __future__ import annotations

import json
import sys

import click
from rich.table import Table

from rfprm_lite.cli.examine import examine
from rfprm_lite.cli.shared import console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, providers, CPU and cached models, and what is wrong. Exit code 1 where something is.

    Example: rfprm doctor --json
    """
    report = examine()
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        table = Table(box=None, show_header=False)
        table.add_row("python", f"{report.python} on {report.platform}")
        for name, version in report.packages.items():
            table.add_row(name, version)
        table.add_row("providers", ", ".join(report.providers) or "none")
        table.add_row("threads", f"one a physical core by default, of {report.logical_cpus} logical ones")
        known = report.instructions
        table.add_row(
            "instructions", "not known on this system" if known is None else ", ".join(known) or "none of note"
        )
        table.add_row("int8 kernels", report.int8_kernels)
        table.add_row("cached models", ", ".join(report.cached_models) or "none")
        table.add_row("problems", "\n".join(report.problems) or "none found")
        console().print(table)
    if report.problems:
        sys.exit(1)
