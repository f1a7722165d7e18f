"""The abilities of the processor, as far as they decide which kernels give right numbers.

Linux tells it in /proc/cpuinfo and macOS by sysctl. Windows tells too little without its registry: there it is unknown.
"""

from __future__ import annotations

import functools
import platform
import sys
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
"""The instructions that matter to ONNX Runtime's kernels, by the names that Linux has for them."""
ON_MACOS = {
    "avx2_0": "avx2",
    "avx512vnni": "avx512_vnni",
    "advsimd": "asimd",
    "neon": "asimd",
    "feat_dotprod": "asimddp",
    "feat_i8mm": "i8mm",
}
"""Instructions that macOS calls otherwise."""
EXACT_ON_X86 = ("avx_vnni", "avx512_vnni", "amx_int8")
"""With one of these, ONNX Runtime's products of u8 by s8 are summed in 32 bits; without, in saturating 16 bits."""

CPUINFO = Path("/proc/cpuinfo")
SYSCTL = ("/usr/sbin/sysctl", "machdep.cpu", "hw.optional")
NAMES = ("model name", "machdep.cpu.brand_string")
FEATURES = ("flags", "Features", "machdep.cpu.features", "machdep.cpu.leaf7_features")


def instructions() -> list[str] | None:
    """The INSTRUCTIONS that the first CPU has; None where the system does not tell."""
    fields = _fields()
    words = {word.lower() for name in FEATURES for word in fields.get(name, "").split()}
    words |= {name.rpartition(".")[2].lower() for name, value in fields.items() if value == "1"}
    known = {ON_MACOS.get(word, word) for word in words}
    return [name for name in INSTRUCTIONS if name in known] if words else None


def model_name() -> str:
    """The processor's name as the system tells it, or what Python knows of it."""
    fields = _fields()
    return next((fields[name] for name in NAMES if fields.get(name)), "") or platform.processor() or "unknown"


def int8_products_saturate(machine: str | None = None, known: list[str] | None = None) -> bool:
    """Whether products of u8 by s8 are added in 16 bits here, two at a time, and are wrong where that overflows.

    True for an x86 processor without VNNI and for one of which the system does not tell. Arm is exact.

    Args:
        machine: The architecture, as `platform.machine` gives it; this machine's where None.
        known: The instructions that it has, as `instructions` gives them; this machine's where None.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "x86", "i686"):
        return False
    known = instructions() if known is None else known
    return known is None or not any(name in known for name in EXACT_ON_X86)


@functools.cache
def _fields() -> dict[str, str]:
    """The fields that the system gives of the first CPU, by name; empty where it gives none."""
    try:
        text = _sysctl() if sys.platform == "darwin" else CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl() -> str:
    import subprocess

    return subprocess.run(SYSCTL, capture_output=True, text=True, check=False).stdout  # noqa: S603
