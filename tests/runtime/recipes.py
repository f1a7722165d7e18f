"""Recipes with a separator behind each step, and with none. tests/export asserts that they are the exporter's."""

from __future__ import annotations

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.bundle.recipe import Head, Recipe, Slot

SEPARATED = manifests.load(DEMO_FOLDER / manifests.FILE_NAME).recipe
UNSEPARATED = Recipe(
    name="reasonflux-prm-1.5b",
    template=(Slot("problem"), Slot("steps")),
    separator=None,
    head=Head("linear", outputs=1, activation="sigmoid"),
    aggregate=Aggregate("last"),
    max_tokens=2048,
    source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md and utils/rm_utils.py; arXiv 2506.18896",
)
