"""Known vulnerabilities of what is installed, as pip-audit finds them on PyPI.

    python packaging/audit.py             # exit code 1 where there is one; without an answer: "not checked", and 0
    python packaging/audit.py --answered  # 1 without an answer, too

Only what users get is judged: the packages of `licences.py`. A tool of the tests is not brought along.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from licences import EXTRAS, brought

SECONDS = 300
UNANSWERED = 0.5
"""The share of packages without an answer above which nothing counts as checked."""


def asked() -> list[dict[str, Any]]:
    """Each package with its vulnerabilities, or with the reason why it was skipped; nothing where nobody answers."""
    packages = {one.metadata["Name"]: one.version for one in brought("rfprm-lite", EXTRAS)}
    with tempfile.TemporaryDirectory() as folder:
        needed = Path(folder) / "requirements.txt"
        needed.write_text("\n".join(f"{name}=={version}" for name, version in packages.items() if name != "rfprm-lite"))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(needed)]
        command += ["--vulnerability-service", "pypi", "--format", "json", "--progress-spinner", "off"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            found: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            return []
        return found


def main(*, answered: bool) -> int:
    """Print what was found; returns the exit code."""
    found = asked()
    skipped = [one["name"] for one in found if "skip_reason" in one]
    if len(skipped) >= UNANSWERED * len(found):
        print(f"vulnerabilities: not checked, nobody answers ({len(skipped)} of {len(found)} packages skipped)")
        return int(answered)
    bad = [(one["name"], one["version"], known["id"]) for one in found for known in one.get("vulns", [])]
    for name, version, known in bad:
        print(f"{name} {version}: {known}")
    unanswered = f", not checked: {', '.join(skipped)}" if skipped else ""
    print(f"vulnerabilities: {len(bad)} in {len(found) - len(skipped)} packages{unanswered}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(answered="--answered" in sys.argv))
