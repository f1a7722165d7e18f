"""The page on data has a row for each known set and each kind of file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rfprm_lite.data.files import COMPRESSED
from rfprm_lite.data.known_columns import KNOWN, POOLS, Columns, KnownColumns
from rfprm_lite.data.tables import SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("known", [*KNOWN, *POOLS], ids=lambda known: known.name)
def test_every_known_set_has_a_row_with_its_columns(known: KnownColumns) -> None:
    (row,) = re.findall(rf"^\| {re.escape(known.name)} \|.*$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(.*?)`", row)) == set(known.columns.named.values())


def test_every_file_and_every_option_is_named() -> None:
    for name in (*SUFFIXES, *COMPRESSED, *(f"--{part}-column" for part in Columns.__dataclass_fields__)):
        assert f"`{name}`" in PAGE
