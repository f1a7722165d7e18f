"""What this machine has, for `rfprm doctor`: plain data, and what is wrong with it."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

from rfprm_lite.bundle.cached import cached_bundles
from rfprm_lite.engine import cpu
from rfprm_lite.engine.session import available_providers

PACKAGES = ("rfprm-lite", "rfprm-lite-gpu", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "huggingface-hub")
TWINS = (("onnxruntime", "onnxruntime-gpu"), ("rfprm-lite", "rfprm-lite-gpu"))


@dataclass(frozen=True, slots=True)
class Report:
    """packages: versions by name, those installed. problems: sentences, empty where all is well."""

    python: str
    platform: str
    packages: dict[str, str]
    providers: list[str]
    logical_cpus: int
    instructions: list[str] | None
    int8_kernels: str
    cached_models: list[str]
    problems: list[str]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def examine() -> Report:
    """Look, without touching the network."""
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    found = problems(packages)
    try:
        providers = available_providers()
    except (ImportError, AttributeError) as error:  # what is left after two wheels overwrote each other
        providers = []
        found.append(f"onnxruntime does not work: {error}. Uninstall it and install it again")
    return Report(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=packages,
        providers=providers,
        logical_cpus=os.cpu_count() or 1,
        instructions=cpu.instructions(),
        int8_kernels="u8 x u8, slower: this CPU's u8 x s8 products may saturate"
        if cpu.int8_products_saturate()
        else "u8 x s8",
        cached_models=sorted({bundle.repo for bundle in cached_bundles()}),
        problems=found,
    )


def problems(packages: dict[str, str]) -> list[str]:
    """What is wrong with these packages."""
    found = [
        f"{cpu} and {gpu} are both installed and overwrite each other's files: uninstall both, then install one"
        for cpu, gpu in TWINS
        if cpu in packages and gpu in packages
    ]
    if packages.get("onnxruntime") in ("1.24.0", "1.24.1"):
        found.append("this onnxruntime can't load external data from a symlinked hub cache: upgrade it")
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
