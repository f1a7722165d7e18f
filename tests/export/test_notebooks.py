"""The notebooks print what is saved in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ["score_and_choose.ipynb", "select_data.ipynb"]


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks, run anew."""
    folder = tmp_path_factory.mktemp("notebooks")
    subprocess.run([sys.executable, str(NOTEBOOKS / "run.py"), str(folder)], check=True)
    return folder


def printed(path: Path) -> list[list[str]]:
    """What each code cell printed; images and rich views are left to the eye."""
    return [
        [output.text for output in cell.outputs if output.output_type == "stream"]
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_prints_what_is_saved(name: str, again: Path) -> None:
    saved = printed(NOTEBOOKS / name)
    assert printed(again / name) == saved
    assert sum(map(len, saved)) >= 4
    assert (NOTEBOOKS / name).stat().st_size < 100_000


def test_these_are_all() -> None:
    assert sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
