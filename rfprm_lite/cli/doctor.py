"""The command `rfprm doctor`: what this machine has, and what is wrong with it. It uses no network."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from rfprm_lite.cli.shared import console
from rfprm_lite.engine import cpu, cuda
from rfprm_lite.engine.l2 import attention_crawls, l2_bytes
from rfprm_lite.engine.processors import processors
from rfprm_lite.engine.session import available_providers, cuda_version
from rfprm_lite.errors import DeviceError

if TYPE_CHECKING:
    from rfprm_lite.cli.doctor_bench import Bench

PACKAGES = ("rfprm-lite", "rfprm-lite-gpu", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "huggingface-hub")
TWINS = (("onnxruntime", "onnxruntime-gpu"), ("rfprm-lite", "rfprm-lite-gpu"))
"""Pairs of packages with the same files, of which only one may be installed."""


@click.command()
@click.option(
    "--bench", is_flag=True, help="Measure for half a minute what speed to expect, and which variant to take."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(bench: bool, as_json: bool) -> None:
    """Show versions, providers, CPU and GPUs, and what is wrong. Exit code 1 where something is.

    Example: rfprm doctor --bench
    """
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    problems = package_problems(packages)
    try:
        providers = available_providers()
    except (ImportError, AttributeError) as error:  # what is left after two wheels overwrote each other
        providers = []
        problems.append(f"onnxruntime does not work: {error}. Uninstall it and install it again")
    gpu = Gpu.found()
    problems += gpu.problems
    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    logical_cpus, instructions = os.cpu_count() or 1, cpu.instructions()
    usable, l2 = processors(), l2_bytes()
    in_16_bits = "u8 x s8, adding in 16 bits; u8 x u8, slower, for bundles whose sums may not fit them"
    int8_kernels = in_16_bits if cpu.int8_products_saturate() else "u8 x s8, adding in 32 bits"
    measured = _bench() if bench and providers else None
    if as_json:
        report = {
            "python": python,
            "platform": system,
            "packages": packages,
            "providers": providers,
            "cpu": cpu.model_name(),
            "logical_cpus": logical_cpus,
            "threads": asdict(usable),
            "l2_bytes": l2,
            "instructions": instructions,
            "int8_kernels": int8_kernels,
            "gpu": {
                "driver": gpu.driver,
                "cuda": gpu.cuda,
                "cudnn": gpu.cudnn,
                "missing_libraries": gpu.missing,
                "cards": gpu.cards,
            },
            "problems": problems,
        } | ({"bench": measured.report} if measured else {})
        click.echo(json.dumps(report))
    else:
        known = "not known on this system" if instructions is None else ", ".join(instructions) or "none of note"
        table = Table(box=None, show_header=False)
        table.add_row("python", f"{python} on {system}")
        for name, version in packages.items():
            table.add_row(name, version)
        table.add_row("providers", ", ".join(providers) or "none")
        table.add_row("processor", cpu.model_name())
        table.add_row(
            "threads", f"{usable.count} by default, for {usable.why}; the machine has {logical_cpus} processors"
        )
        if l2 is not None:
            table.add_row("L2 cache", f"{l2:,} bytes" if l2 else "the C library does not tell its size")
        table.add_row("instructions", known)
        table.add_row("int8 kernels", int8_kernels)
        table.add_row("driver", gpu.driver or "no NVIDIA driver")
        table.add_row("CUDA", gpu.cuda_line)
        if gpu.cuda:
            table.add_row("cuDNN", gpu.cudnn or "does not load")
        for card in gpu.cards:
            table.add_row(f"cuda:{card['index']}", gpu_line(card))
        table.add_row("problems", "\n".join(problems) or "none found")
        console().print(table)
        if measured:
            console().print("", measured.shown)
    if problems:
        sys.exit(1)


def _bench() -> Bench:
    from rfprm_lite.cli.doctor_bench import Bench  # what it needs does not load where onnxruntime is broken

    return Bench.measured()


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is known of GPUs here.

    Attributes:
        driver: The NVIDIA driver's release and the newest CUDA that it runs; empty without one.
        cuda: The CUDA that ONNX Runtime was built with; empty without one.
        cudnn: The version of cuDNN that loads; empty without one.
        missing: CUDA's libraries that don't load, and are needed.
        cards: The fields of each `cuda.Card`.
        problems: In words.
    """

    driver: str
    cuda: str
    cudnn: str
    missing: list[str]
    cards: list[dict[str, Any]]
    problems: list[str]

    @classmethod
    def found(cls) -> Gpu:
        """Ask the driver and ONNX Runtime."""
        try:
            built = cuda_version()
        except (ImportError, AttributeError):  # told among the other problems
            built = ""
        missing, cudnn = (cuda.missing_libraries(built), cuda.cudnn_version()) if built else ([], "")
        try:
            driver, cards = cuda.driver(), cuda.cards()
        except DeviceError as error:
            problems = [f"onnxruntime-gpu is installed, but {error}"] if built else []
            return cls("", built, cudnn, missing, [], problems)
        newest = ".".join(map(str, driver.cuda))
        problems = [reason for card in cards if built and (reason := cuda.too_old(card))]
        if built and driver.cuda < tuple(map(int, built.split(".")[:2])):
            problems.append(
                f"the driver runs CUDA up to {newest}, onnxruntime-gpu needs {built}: install a newer driver"
            )
        if missing:
            needed = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            problems.append(f"libraries of CUDA don't load: {', '.join(missing)}. {needed} brings them")
        told = f"{driver.release or 'of unknown release'}, CUDA up to {newest}"
        return cls(told, built, cudnn, missing, [asdict(card) for card in cards], problems)

    @property
    def cuda_line(self) -> str:
        """The CUDA of ONNX Runtime, for the table."""
        if not self.cuda:
            return "this onnxruntime was built without it" + (": rfprm-lite-gpu brings one" if self.cards else "")
        return f"{self.cuda}, {'libraries are missing' if self.missing else 'its libraries load'}"


def gpu_line(card: Mapping[str, Any]) -> str:
    """A card in one line."""
    free, total = (card[f"{what}_bytes"] / 1e9 for what in ("free", "total"))
    major, minor = card["capability"]
    return f"{card['name']}, compute capability {major}.{minor}, {free:.1f} of {total:.1f} GB free"


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
    if attention_crawls(packages.get("onnxruntime", "")):
        problems.append(
            "the C library does not tell the size of the L2 cache, which this onnxruntime's fast attention needs. "
            "rfprm-lite takes its slower one, which needs more memory than memory_bytes counts: upgrade onnxruntime to "
            "1.29 or newer"
        )
    return problems


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
