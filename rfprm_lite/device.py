"""Where a model runs, by name: `cpu`, `cuda` or `cuda:N`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rfprm_lite.errors import DeviceError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """kind: cpu or cuda. index: which GPU."""

    kind: Device
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> DeviceSpec:
        """`cpu`, `cuda` or `cuda:1`. Raises DeviceError."""
        found = re.fullmatch(r"(cpu)|cuda(?::([0-9]+))?", name) if isinstance(name, str) else None
        if found is None:
            raise DeviceError(f"no device is called {name!r}: there are 'cpu', 'cuda' and 'cuda:N'")
        return cls("cpu") if found[1] else cls("cuda", int(found[2] or 0))
