"""What the site needs beside its pages: documents of the repository, and docstrings as lists.

A hook of MkDocs and an extension of Griffe, see mkdocs.yml. A page links to a document as on GitHub; on the site the
document is a page too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCUMENTS = {"../bench/LOG.md": "log.md", "../rfprm_lite/models/demo/README.md": "demo-model.md"}

_NAMED = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): ")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Documents from outside docs/ become pages."""
    for source, page in DOCUMENTS.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / "docs" / source)))


def on_page_markdown(markdown: str, **_event: object) -> str:
    """Links to them lead to those pages."""
    for source, page in DOCUMENTS.items():
        markdown = markdown.replace(f"]({source}", f"]({page}")
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
