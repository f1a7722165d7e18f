"""What a package of this environment asks for and is not there, whatever the version, a line each.

    python bench/requirements_of.py PACKAGE [UNWANTED ...]

It runs in environments of contenders, which have nothing of ours.
"""

from __future__ import annotations

import importlib.metadata
import sys

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name


def main(package: str, *unwanted: str) -> None:
    there = {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    for line in importlib.metadata.requires(package) or []:
        asked = Requirement(line)
        needed = asked.marker is None or asked.marker.evaluate({"extra": ""})
        if needed and canonicalize_name(asked.name) not in there.union(unwanted):
            asked.marker = None
            print(asked)


if __name__ == "__main__":
    main(*sys.argv[1:])
