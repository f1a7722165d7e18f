"""What the export ran on, in words."""

from __future__ import annotations

import os
import platform

from rfprm_lite.engine.cpu import model_name


def machine() -> str:
    """Name the processor, its architecture, and how many CPUs this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{model_name()}, {platform.machine()}, {available} CPUs"
