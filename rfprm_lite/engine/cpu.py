"""What the processor can do, as far as it decides which kernels give right numbers."""

from __future__ import annotations

import platform
from pathlib import Path

INSTRUCTIONS = (
    "avx2",
    "fma",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
EXACT_ON_X86 = ("avx_vnni", "avx512_vnni", "amx_int8")
"""With one of these, ONNX Runtime's products of u8 by s8 are summed in 32 bits; without, in saturating 16 bits."""

CPUINFO = Path("/proc/cpuinfo")


def instructions(cpuinfo: Path = CPUINFO) -> list[str] | None:
    """Those of INSTRUCTIONS that Linux lists for the first CPU; None where the file can't be read."""
    lines = _lines(cpuinfo)
    if lines is None:
        return None
    flags = next(
        (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return [name for name in INSTRUCTIONS if name in flags]


def model_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name as Linux tells it, or what Python knows of it."""
    names = (line.partition(":")[2].strip() for line in _lines(cpuinfo) or [] if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown"


def _lines(cpuinfo: Path) -> list[str] | None:
    try:
        return cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None


def int8_products_saturate(machine: str | None = None, found: list[str] | None = None) -> bool:
    """Whether u8 x s8 products may be wrong here, so that ONNX Runtime must take its slower u8 x u8 kernels.

    True for an x86 processor without VNNI and for one that does not tell (systems without /proc/cpuinfo). Arm is exact.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "x86", "i686"):
        return False
    found = instructions() if found is None else found
    return found is None or not any(name in found for name in EXACT_ON_X86)
