"""Documents of the repository that are pages of the site, too: a hook of MkDocs, see mkdocs.yml.

Pages and documents link to such a document as on GitHub. On the site the links lead to its page.
"""

from __future__ import annotations

import os
from pathlib import Path

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
