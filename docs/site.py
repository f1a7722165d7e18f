"""What the site needs beside its pages: documents of the repository, and docstrings as lists.

A hook of MkDocs and an extension of Griffe, see mkdocs.yml. Pages and documents link to a document as on GitHub; on
the site the document is a page too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LOG = ROOT / "bench" / "LOG.md"
DOCUMENTS = {
    LOG: "log.md",
    **{entry: f"log/{entry.name}" for entry in sorted(LOG.parent.glob("log/*.md"))},
    ROOT / "rfprm_lite" / "models" / "demo" / "README.md": "demo-model.md",
}
"""A file of the repository -> its page on the site."""

_NAMED = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): ")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Documents from outside docs/ become pages."""
    for source, page in DOCUMENTS.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))


def on_page_markdown(markdown: str, *, page: Page, **_event: object) -> str:
    """Links to them lead to those pages."""
    source = Path(str(page.file.abs_src_path))
    for document, target in DOCUMENTS.items():
        on_github = os.path.relpath(document, source.parent)
        on_site = os.path.relpath(target, Path(page.file.src_uri).parent)
        markdown = markdown.replace(f"]({on_github}", f"]({on_site}")
    return markdown


class NamesAsLists(griffe.Extension):
    """Lines of a docstring that begin with a name and a colon become items of a list."""

    def on_object(self, *, obj: griffe.Object, **_event: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(_listed, obj.docstring.value.split("\n\n")))


def _listed(paragraph: str) -> str:
    lines: list[str] = []
    in_item = False
    for line in paragraph.split("\n"):
        if _NAMED.match(line):
            lines += [""] if lines and not in_item else []
            in_item = True
            lines.append(_NAMED.sub(r"- **\1**: ", line, count=1))
        else:
            lines.append(f"    {line.strip()}" if in_item else line)
    return "\n".join(lines)
