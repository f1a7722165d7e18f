"""The licences of everything that the runtime brings along, where it is installed.

    python packaging/licences.py  # a line a package; exit code 1 where a licence is not in ALLOWED

Only what its users get is looked at: the dependencies of rfprm-lite and of its extras for users, and theirs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

EXTRAS = ("data", "plot", "voting", "its-hub")
ALLOWED = (
    "0bsd", "apache", "bsd", "cc0", "hpnd", "isc", "mit", "mpl", "mozilla public", "psf", "python software foundation",
    "python-2.0", "unlicense", "zlib", "historical permission",
)  # fmt: skip
"""Beginnings of the licences that may be brought along: permissive ones, and Mozilla's, whose files stay their own."""


def brought(name: str, extras: tuple[str, ...]) -> Iterator[Distribution]:
    """What is installed of a project and of its extras, and of what they need."""
    waiting, seen = [(name, extras)], set[tuple[str, tuple[str, ...]]]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            found = distribution(one[0])
        except PackageNotFoundError:
            continue  # for another system or Python, or an extra that is not installed
        yield found
        for requirement in found.requires or []:
            waiting += _wanted(requirement, one[1])


def _wanted(requirement: str, extras: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """A requirement as a name and its extras, if it is one of these extras or of none."""
    needed, _, marker = requirement.partition(";")
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
    if extra and extra[1] not in extras:
        return []
    name, _, own_extras = needed.partition("[")
    (plain,) = re.findall(r"^\s*([\w.-]+)", name)
    return [(_normal(plain), tuple(re.findall(r"[\w-]+", own_extras.partition("]")[0])))]


def licence(package: Distribution) -> str:
    """What a package says of its licence; empty where it says nothing."""
    about = package.metadata
    classified = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License :: OSI")
    ]
    said = about.get("License-Expression") or " AND ".join(classified) or (about.get("License") or "").strip()
    return said.splitlines()[0] if said else ""


def allowed(licence: str) -> bool:
    """Whether one of the licences to choose from is allowed, and so are all that hold together."""
    return bool(licence) and all(
        any(_is_allowed(one) for one in re.split(r"\s+OR\s+|/", part)) for part in re.split(r"\s+AND\s+", licence)
    )


def _is_allowed(licence: str) -> bool:
    name = licence.strip("() ").lower().removeprefix("the ").removeprefix("new ").removeprefix("3-clause ")
    return name.startswith(ALLOWED)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Print the list; returns the exit code."""
    packages = {_normal(one.metadata["Name"]): one for one in brought("rfprm-lite", EXTRAS)}
    del packages["rfprm-lite"]
    refused = [name for name, one in packages.items() if not allowed(licence(one))]
    for name, one in sorted(packages.items()):
        print(f"{name:<32}{one.version:<16}{licence(one) or 'names none'}{'  NOT ALLOWED' if name in refused else ''}")
    print(f"{len(packages)} packages, {len(refused)} whose licence is not allowed")
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
