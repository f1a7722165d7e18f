"""The bundled demo model works: it finds wrong steps at the rate that its card states.

data/demo_heldout.jsonl: 300 traces on problems that it was never trained on, written by
examples/train_demo_prm/evaluate.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rfprm_lite import PRM

DATA = Path(__file__).parent / "data" / "demo_heldout.jsonl"
ROWS = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("variant", ["int8, bundled", "fp32"])
def test_first_wrong_steps_are_found(prm: PRM, variant: str) -> None:
    """ProcessBench's F1 at threshold 0.5."""
    prm = prm if variant == "fp32" else PRM.from_pretrained("demo", threads=2)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    scores = prm.score_many([(row["problem"], row["steps"]) for row in ROWS])
    for row, score in zip(ROWS, scores, strict=True):
        low = np.flatnonzero(score.step_rewards < 0.5)
        hits[row["first_error"] is None].append((int(low[0]) if len(low) else None) == row["first_error"])
    right, wrong = np.mean(hits[True]), np.mean(hits[False])
    assert 2 * right * wrong / (right + wrong) > 0.8


def test_the_card_says_what_was_measured_and_what_it_cannot_do() -> None:
    card = (Path(__file__).parent.parent / "rfprm_lite" / "models" / "demo" / "README.md").read_text(encoding="utf-8")
    for statement in ("F1", "best-of-8", "GSM8K", "0 to 400", "not ReasonFlux-PRM", "can not do"):
        assert statement in card, statement
