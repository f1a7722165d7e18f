"""What the numbers were made on, without the machine's name."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN = ("rfprm-lite", "onnxruntime", "torch", "transformers", "numpy")
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""Instructions that decide how fast products are."""


def describe(environments: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """environments: name and Python of those that contenders run in beside the runner's own."""
    folder = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=False)
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "uncommitted_changes": bool(changed.stdout.strip()),
        "cpu": _cpu("model name"),
        "cpu_features": [feature for feature in CPU_FEATURES if feature in (_cpu("flags") or _cpu("Features")).split()],
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in OWN},
        "environments": {name: _versions(python) for name, python in environments},
    }


def _cpu(field: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == field), "")


def _versions(python: Path) -> list[str]:
    """The packages whose speed is measured, as `name==version`."""
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=False).stdout
    wanted = ("openvino==", "optimum", "nncf", "llama_cpp_python", "torch==", "transformers", "onnxruntime")
    return [line.split(" @ ")[0] for line in listed.splitlines() if line.startswith(wanted)]
