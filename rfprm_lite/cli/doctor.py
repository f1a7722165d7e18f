"""The command `rfprm doctor`: what this machine has, and what is wrong with it. It uses no network."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata

import click
from rich.table import Table

from rfprm_lite.cli.shared import console
from rfprm_lite.engine import cpu
from rfprm_lite.engine.session import available_providers

PACKAGES = ("rfprm-lite", "rfprm-lite-gpu", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "huggingface-hub")
TWINS = (("onnxruntime", "onnxruntime-gpu"), ("rfprm-lite", "rfprm-lite-gpu"))
"""Pairs of packages with the same files, of which only one may be installed."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, providers and CPU, and what is wrong. Exit code 1 where something is.

    Example: rfprm doctor --json
    """
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    problems = package_problems(packages)
    try:
        providers = available_providers()
    except (ImportError, AttributeError) as error:  # what is left after two wheels overwrote each other
        providers = []
        problems.append(f"onnxruntime does not work: {error}. Uninstall it and install it again")
    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    logical_cpus, instructions = os.cpu_count() or 1, cpu.instructions()
    slow = "u8 x u8, slower: this CPU's u8 x s8 products may saturate"
    int8_kernels = slow if cpu.int8_products_saturate() else "u8 x s8"
    if as_json:
        report = {
            "python": python,
            "platform": system,
            "packages": packages,
            "providers": providers,
            "cpu": cpu.model_name(),
            "logical_cpus": logical_cpus,
            "instructions": instructions,
            "int8_kernels": int8_kernels,
            "problems": problems,
        }
        click.echo(json.dumps(report))
    else:
        known = "not known on this system" if instructions is None else ", ".join(instructions) or "none of note"
        table = Table(box=None, show_header=False)
        table.add_row("python", f"{python} on {system}")
        for name, version in packages.items():
            table.add_row(name, version)
        table.add_row("providers", ", ".join(providers) or "none")
        table.add_row("processor", cpu.model_name())
        table.add_row("threads", f"one a physical core by default, of {logical_cpus} logical ones")
        table.add_row("instructions", known)
        table.add_row("int8 kernels", int8_kernels)
        table.add_row("problems", "\n".join(problems) or "none found")
        console().print(table)
    if problems:
        sys.exit(1)


def package_problems(packages: dict[str, str]) -> list[str]:
    """The problems of installed packages, in words.

    Args:
        packages: Their versions, by name.
    """
    problems = [
        f"{one} and {other} are both installed and overwrite each other's files: uninstall both, then install one"
        for one, other in TWINS
        if one in packages and other in packages
    ]
    if packages.get("onnxruntime", "").startswith(("1.23.", "1.24.0", "1.24.1")):
        problems.append(
            "this onnxruntime has sliding windows that are a token too long, or can't load external data from a "
            "symlinked hub cache: upgrade it to 1.24.2 or newer"
        )
    return problems


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
