"""Check that a tag may be released, and print the changelog's section of its version.

    python packaging/release.py v0.1.0

The tag, `rfprm_lite.__version__`, CITATION.cff and a dated heading of CHANGELOG.md have to name the same version.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def found(pattern: str, text: str, what: str) -> str:
    """What the pattern's group matches. Raises ValueError where it does not match just once."""
    matches = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    if len(matches) != 1:
        raise ValueError(f"{what}: found {len(matches)} times, once is expected")
    return str(matches[0])


def notes(root: Path, tag: str) -> str:
    """The section of the tag's version. Raises ValueError where the files name another version, or none."""
    version = found(
        r'^__version__ = "([^"\n]+)"$', (root / "rfprm_lite" / "__init__.py").read_text("utf-8"), "__version__"
    )
    cited = found(r"^version: ([^\n]+)$", (root / "CITATION.cff").read_text("utf-8"), "CITATION.cff: version")
    if not tag == f"v{version}" == f"v{cited}":
        raise ValueError(f"the tag is {tag}, __version__ {version}, CITATION.cff's version {cited}")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |^\[[^\]]+\]: |\Z)"
    section = found(heading, (root / "CHANGELOG.md").read_text("utf-8"), f"CHANGELOG.md: ## [{version}] - DATE").strip()
    if not section:
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return section


if __name__ == "__main__":
    try:
        print(notes(ROOT, sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
