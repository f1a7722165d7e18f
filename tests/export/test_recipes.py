"""The recipes that the runtime's tests use are the exporter's."""

from __future__ import annotations

import pytest

import recipes
from rfprm_export.families.options import family_from
from rfprm_lite.bundle.recipe import Recipe


@pytest.mark.parametrize("used", [recipes.SEPARATED, recipes.UNSEPARATED], ids=lambda recipe: recipe.name)
def test_they_are_the_exporters(used: Recipe) -> None:
    assert used == family_from(used.name).resolve(None, {}, ()).recipe
