"""What others build upon changes on purpose alone."""

from __future__ import annotations

from public_api import SNAPSHOT, described


def test_the_public_names_and_signatures_are_those_of_the_snapshot() -> None:
    assert described() == SNAPSHOT.read_text(encoding="utf-8"), "if that is meant: python tests/runtime/public_api.py"
