"""The bundled demo model works: it finds wrong steps at the rate that its card states, and the card is true."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from heldout import first_error_f1
from rfprm_lite import PRM
from rfprm_lite.bundle.open import DEMO_FOLDER

CARD = (DEMO_FOLDER / "README.md").read_text(encoding="utf-8")
PARITY: dict[str, Any] = json.loads((DEMO_FOLDER / "parity.json").read_text(encoding="utf-8"))["variants"]["int8"]


def stated(pattern: str) -> list[float]:
    """The numbers that the card gives in the sentence that the pattern describes; just one such sentence stands."""
    (found,) = re.finditer(pattern, CARD)
    return [float(number) for number in found.groups()]


def test_first_wrong_steps_are_found_as_often_as_the_card_says(prm: PRM) -> None:
    (f1,) = stated(r"the bundled INT8 has the same F1 \((0\.\d+)\)")
    assert first_error_f1(prm) == pytest.approx(f1, abs=0.01)


def test_the_cards_differences_are_those_that_were_measured() -> None:
    mean, p99, rewards = stated(r"step rewards (\S+) from PyTorch's on average, (\S+) at the 99th percentile \((\d+) ")
    assert mean == pytest.approx(PARITY["mean_abs_difference"], rel=0.05)
    assert p99 == pytest.approx(PARITY["p99_abs_difference"], rel=0.05)
    assert rewards == PARITY["num_rewards"]


def test_the_card_says_how_large_and_of_which_recipe_the_model_is(prm: PRM) -> None:
    layers, million = stated(r"(\d+) layers, hidden \d+, (\S+) million parameters")
    assert layers == prm.manifest.dimensions.num_layers
    assert PARITY["bytes"] / 1e6 == pytest.approx(million, rel=0.5)  # a byte a weight, and scales and the graph
    assert f"| recipe | {prm.manifest.recipe.name}:" in CARD
    (thousands, ones) = stated(r"more than (\d+),(\d+) tokens")
    assert 1000 * thousands + ones == prm.manifest.max_tokens


def test_the_card_says_what_the_model_is_not() -> None:
    assert "not ReasonFlux-PRM" in CARD
