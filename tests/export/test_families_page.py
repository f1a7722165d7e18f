"""The page of families says what the table in code says."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from rfprm_export.families.family import Family
from rfprm_export.families.recipes import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading's text, by their first cells."""
    _, _, below = PAGE.partition(heading)
    table = re.search(r"^\| ---.*\n((?:\|.*\n)+)", below, re.MULTILINE)
    assert table
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]
    return {first.strip("| `"): rest for first, *rest in cells}


LISTED, CHECKED = rows("# Families of PRMs"), rows("## What was checked")


def test_every_family_has_its_rows_and_every_row_its_family() -> None:
    names = [family.name for family in FAMILIES]
    assert [*LISTED] == names
    assert [*CHECKED] == names


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_says_what_the_code_says(family: Family) -> None:
    models, backbone, reward, aggregate, _ = LISTED[family.name]
    for model in family.models:
        assert model in models
    assert backbone == (", ".join(family.model_types) or "any")
    low, high = family.head.range
    assert reward == ("any number" if math.isinf(low) else f"{low:g} to {high:g}")
    assert aggregate == str(family.aggregate)
