"""The pages are true: their code runs and prints what stands below it, their commands exist, the site is built.

Every block runs, page by page in one namespace and one folder, unless its title says "not run" and why.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rfprm_export.cli import main as export_main
from rfprm_lite.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PACKAGES = (ROOT / "rfprm_lite", ROOT / "export" / "rfprm_export")
PAGES = [README, *sorted(DOCS.glob("*.md"))]
LOG = ROOT / "bench" / "LOG.md"
ENTRIES = sorted(LOG.parent.glob("log/*.md"))
BLOCK = re.compile(r"^```(\w+)(.*)\n((?:.*\n)*?)```\n(?:\n```text\n((?:.*\n)*?)```\n)?", re.MULTILINE)
COMMANDS: dict[str, click.Group] = {"rfprm": main, "rfprm-export": export_main}
SET_UP = ("pip", "make", "git", "python")
"""What prepares an environment is checked, not run."""


@dataclass(frozen=True)
class Block:
    """printed: what stands below it, None where nothing does."""

    language: str
    about: str
    code: str
    printed: str | None

    @property
    def runs(self) -> bool:
        return "not run: " not in self.about


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(*found.groups()) for found in BLOCK.finditer(text)]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's bash blocks, without what it is piped from or into."""
    for block in blocks(page):
        if block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
                lexer.whitespace_split = True
                command: list[str] = []
                for word in [*lexer, "|"]:
                    if set(word) <= set("|&;<>"):
                        if command:
                            yield command
                        command = []
                    else:
                        command.append(word)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page's blocks run: with the repository's examples, and this environment's commands."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages' commands are for a shell")
def test_blocks_run_and_print_what_stands_below_them(page: Path, folder: Path) -> None:
    module = type(sys)("page")
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.code, page.name, "exec"), module.__dict__)
            printed = out.getvalue()
        elif block.language == "bash" and page != README and not block.code.startswith(SET_UP):
            printed = subprocess.run(
                ["bash", "-ec", block.code], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        else:
            continue
        assert block.printed in (None, printed), block.code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_commands_exist(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for name, *words in commands(page):
        if name in COMMANDS:
            result = CliRunner().invoke(COMMANDS[name], [*words, "--help"])
            assert result.exit_code == 0, (words, result.output)
    for target in re.findall(r"^make (\w+)|`make (\w+)`", text, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
    for extras in re.findall(r"(?:rfprm-lite|\.)\[([\w,-]+)\]'", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_block_escapes_by_another_name_or_an_indent(page: Path) -> None:
    escaped = r"^ *```(?:py|python3|pycon|sh|shell|console)\b.*|^ +```(?:python|bash).*"
    assert not re.findall(escaped, page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, LOG, *ENTRIES], ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_log_lists_every_entry_newest_first() -> None:
    rows = re.findall(r"^\| (\S+) \| \[.*?\]\(log/(.*?)\) \|", LOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for _, name in rows) == [entry.name for entry in ENTRIES]
    dates = [date for date, _ in rows]
    assert dates == sorted(dates, reverse=True)
    for date, name in rows:
        assert name.startswith(date)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.stem)
def test_an_entry_of_the_log_has_its_headings(entry: Path) -> None:
    headings = re.findall(r"^## (.*)$", entry.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Question", "Expectation", "Command", "Result", "Verdict"]


def test_the_answers_of_the_architecture_page_exist() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    answers = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", page)
    assert len(answers) >= 10
    for path, name in answers:
        (source,) = (root / path for root in (ROOT, *PACKAGES) if (root / path).exists())
        own = name.rsplit(".", 1)[-1]
        assert re.search(rf"\b(def|class) {own}\b|^{own}\b", source.read_text(encoding="utf-8"), re.MULTILINE), (
            path,
            name,
        )


FROM_ELSEWHERE = re.compile(r'(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b[^>]*\bhref)="?(?:https?:)?//')


def test_the_readme_is_short_and_begins_with_an_example_and_its_output() -> None:
    first = blocks(README)[1]
    assert first.language == "python"
    assert first.printed
    assert len(first.code.splitlines()) <= 10
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 100


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "A folder, a hub id" in (tmp_path / "reference.html").read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("log/*.html"))) == len(ENTRIES) > 0
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not FROM_ELSEWHERE.search(html), page
