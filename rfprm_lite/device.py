"""The names of devices: `cpu`, `cuda` or `cuda:N`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rfprm_lite.errors import DeviceError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """The device that a model runs on.

    Attributes:
        kind: "cpu" or "cuda".
        index: The number of the GPU; 0 for the CPU.
    """

    kind: Device
    index: int = 0

    def __str__(self) -> str:
        """Its name, as `parse` takes it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, name: str) -> DeviceSpec:
        """The device of a name such as `cpu`, `cuda` or `cuda:1`.

        Raises:
            DeviceError: If no device is called so.
        """
        match = re.fullmatch(r"(cpu)|cuda(?::([0-9]+))?", name) if isinstance(name, str) else None
        if match is None:
            raise DeviceError(f"no device is called {name!r}: there are 'cpu', 'cuda' and 'cuda:N'")
        return cls("cpu") if match[1] else cls("cuda", int(match[2] or 0))
