"""What comes with it: bounds that are tested, licences that are allowed, and wheels that two builds make alike."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_oldest_versions_that_are_tested_are_all_that_are_admitted() -> None:
    """Of every dependency and every extra of the runtime."""
    bounds = script("bounds")
    lines = (ROOT / "tests" / "runtime" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = [line for line in lines if not line.startswith("#")]
    assert tested == [bounds.oldest(one) for one in bounds.needed(exporter=False)]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (transformers,) = (one for one in bounds.needed(exporter=True) if one.startswith("transformers"))
    assert bounds.oldest(transformers) in ci


@pytest.mark.parametrize("requirement", ["numpy", "numpy<3", "numpy>=1.26,<3", "numpy>=1.26; python_version > '3'"])
def test_a_dependency_has_a_lower_bound_alone(requirement: str) -> None:
    with pytest.raises(ValueError, match="a lower bound"):
        script("bounds").oldest(requirement)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        *((name, True) for name in ("MIT", "Apache-2.0", "BSD-3-Clause AND MIT", "GPL-3.0-only OR MIT", "PSF-2.0")),
        *((name, True) for name in ("3-Clause BSD License", "MPL-2.0 AND MIT", "Apache Software License")),
        *((name, False) for name in ("", "UNKNOWN", "GPL-3.0-only", "MIT AND AGPL-3.0", "Proprietary", "LGPL-2.1")),
    ],
)
def test_which_licences_are_allowed(licence: str, allowed: bool) -> None:
    assert script("licences").allowed(licence) == allowed


def test_every_licence_that_is_brought_along_is_allowed() -> None:
    licences = script("licences")
    packages = {one.metadata["Name"]: licences.licence(one) for one in licences.brought("rfprm-lite", licences.EXTRAS)}
    assert {"numpy", "onnxruntime", "rfprm-lite"} <= set(packages)
    assert {name for name, licence in packages.items() if not licences.allowed(licence)} == set()


def test_two_builds_make_the_same_wheels(tmp_path: Path) -> None:
    """At other times, under another umask, of files of another age."""
    sums = []
    for i, mask in enumerate((0o022, 0o077)):
        copy = tmp_path / f"tree{i}"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            if name.startswith(("rfprm_lite/", "export/", "packaging/")) or "/" not in name:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((ROOT / name).read_bytes())
                os.utime(copy / name, (10**9 * (i + 1),) * 2)
        out = tmp_path / f"dist{i}"
        command = [sys.executable, str(copy / "packaging" / "build.py"), str(out)]
        subprocess.run(command, check=True, capture_output=True, umask=mask)
        sums.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.whl")})
    assert len(sums[0]) == 2
    assert sums[0] == sums[1]
