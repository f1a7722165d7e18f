"""The oldest and the newest versions of what the project needs, as requirements.

    python packaging/bounds.py oldest             # what tests/runtime/oldest.txt holds, one a line
    python packaging/bounds.py oldest --exporter  # the exporter's, without PyTorch
    python packaging/bounds.py newest             # without bounds, for `pip install --pre --upgrade`

`oldest` takes the lower bound of each dependency of pyproject.toml, and any patch of it; `uv pip compile --resolution
lowest-direct` takes the bound itself.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_EXTRAS = ("data", "plot", "voting", "its-hub")
"""The extras of the runtime. Ray's is tried with the trainers (`make integration`)."""
NEWER = {"click": "8.2"}
"""Tested in a newer version than is admitted: the test runner of click 8.1 mixes standard output and error."""
SYSTEMS_OWN = frozenset({"torch"})
"""What is installed before all else, in the build for the machine."""


def needed(*, exporter: bool) -> list[str]:
    """The requirements of the runtime and its extras, or of the exporter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if exporter:
        return [line for line in extras["export"] if _name(line) not in SYSTEMS_OWN]
    return [*project["dependencies"], *(line for extra in RUNTIME_EXTRAS for line in extras[extra])]


def oldest(requirement: str) -> str:
    """A requirement at its lower bound, in any patch of it. Raises ValueError where it has none."""
    name, found, bound = requirement.partition(">=")
    if not found or not re.fullmatch(r"\d+(\.\d+)*", bound):
        raise ValueError(f"{requirement}: a lower bound, such as {name}>=1.2, is expected and nothing else")
    return f"{name}=={NEWER.get(name, bound)}.*"


def newest(requirement: str) -> str:
    """A requirement without bounds."""
    return requirement.partition(">=")[0]


def _name(requirement: str) -> str:
    return re.split(r"[\[>=<!~; ]", requirement)[0]


if __name__ == "__main__":
    bound = {"oldest": oldest, "newest": newest}[sys.argv[1]]
    print("\n".join(dict.fromkeys(map(bound, needed(exporter="--exporter" in sys.argv)))))
