"""Recipes with a separator behind each step, and with none. tests/export asserts that they are the exporter's."""

from __future__ import annotations

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.bundle.pieces import Read, Slot
from rfprm_lite.bundle.recipe import Head, Recipe

SEPARATED = manifests.load(DEMO_FOLDER / manifests.FILE_NAME).recipe
UNSEPARATED = Recipe(
    name="reasonflux-prm-1.5b",
    opening=(Slot("problem"),),
    step=(Slot("text"), Read()),
    head=Head("linear", "sigmoid", (1.0,), good_above=0.5),
    aggregate=Aggregate("last"),
    max_tokens=2048,
    cuts=True,
    source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md and utils/rm_utils.py; arXiv 2506.18896",
)
