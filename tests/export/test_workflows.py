"""What CI and releases are told agrees with what the project says of itself."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import rfprm_lite

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SYSTEMS = {"ubuntu-latest": "POSIX :: Linux", "macos-latest": "MacOS", "windows-latest": "Microsoft :: Windows"}


def read(path: Path) -> dict[Any, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict), path
    return loaded


def triggers(workflow: dict[Any, Any]) -> set[str]:
    return set(workflow[True])  # YAML 1.1 reads the word `on` as true


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def classified(prefix: str) -> list[str]:
    return [c.removeprefix(prefix) for c in project()["classifiers"] if c.startswith(prefix)]


def test_the_runtime_is_tested_on_every_python_and_system_that_is_promised() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["runtime"]["strategy"]["matrix"]
    promised = [c for c in classified("Programming Language :: Python :: ") if "." in c]
    assert matrix["python"] == promised
    assert project()["requires-python"] == f">={promised[0]}"
    assert sorted(SYSTEMS[name] for name in matrix["os"]) == classified("Operating System :: ")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_and_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert triggers(workflow) == {"workflow_call"} or workflow["concurrency"]["group"].startswith(path.stem)
    for name, job in workflow["jobs"].items():
        assert "uses" in job or job["timeout-minutes"] <= 90, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_calls_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"run: make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for file in re.findall(r"uses: \./(\S+)|python (packaging/\S+)", text):
        assert (ROOT / "".join(file)).exists(), file
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert set(re.findall(r"--group (\S+)", text)) <= set(groups)


def test_only_a_release_may_publish() -> None:
    granted = {
        (path.stem, name): job["permissions"]
        for path in WORKFLOWS
        for name, job in read(path)["jobs"].items()
        if "permissions" in job
    }
    attesting = {"attestations": "write", "contents": "read", "id-token": "write"}
    assert granted == {
        ("release", "attest"): attesting,
        ("release", "publish"): {"id-token": "write"},
        ("release", "github"): {"contents": "write"},
    }
    assert triggers(read(ROOT / ".github" / "workflows" / "release.yml")) == {"push"}
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["needs"] == ["test", "attest"]
    assert jobs["attest"]["needs"] == "test"
    assert jobs["test"]["needs"] == "check"


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == rfprm_lite.__version__
    assert citation["license"] == project()["license"]


@pytest.fixture
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "packaging" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(root: Path, *, cited: str = "1.2.0", changelog: str = "## [1.2.0] - 2027-01-31\n\n- New.\n") -> Path:
    (root / "rfprm_lite").mkdir()
    (root / "rfprm_lite" / "__init__.py").write_text('__version__ = "1.2.0"\n', encoding="utf-8")
    (root / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n", encoding="utf-8")
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{changelog}", encoding="utf-8")
    return root


@pytest.mark.parametrize("after", ["", "\n## [1.1.0] - 2027-01-01\n\n- Old.\n", "\n[1.2.0]: https://example.org\n"])
def test_a_release_has_its_own_notes_alone(release: ModuleType, tmp_path: Path, after: str) -> None:
    changelog = f"## [1.2.0] - 2027-01-31\n\n### Added\n\n- New, see [a page](page.md).\n{after}"
    assert release.notes(tree(tmp_path, changelog=changelog), "v1.2.0") == "### Added\n\n- New, see [a page](page.md)."


@pytest.mark.parametrize(
    ("tag", "changed"),
    [
        ("v1.2.1", {}),
        ("1.2.0", {}),
        ("v1.2.0", {"cited": "1.1.0"}),
        ("v1.2.0", {"changelog": "## [1.2.0]\n\n- No date.\n"}),
        ("v1.2.0", {"changelog": "## [1.2.0] - 2027-01-31\n\n## [1.1.0] - 2027-01-01\n\n- Old.\n"}),
        ("v1.2.0", {"changelog": "## [1x2.0] - 2027-01-31\n\n- Another.\n"}),
    ],
)
def test_what_does_not_agree_is_not_released(
    release: ModuleType, tmp_path: Path, tag: str, changed: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="1.2.0"):
        release.notes(tree(tmp_path, **changed), tag)
