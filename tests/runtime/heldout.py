"""How often the first wrong step is found, on data/demo_heldout.jsonl.

300 traces on problems that the demo was never trained on, written by examples/train_demo_prm/evaluate.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rfprm_lite import PRM, Trace

DATA = Path(__file__).parent / "data" / "demo_heldout.jsonl"


def first_error_f1(prm: PRM) -> float:
    """ProcessBench's F1 at threshold 0.5: the harmonic mean of the accuracy on right and on wrong traces."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    hits: dict[bool, list[bool]] = {True: [], False: []}
    scores = prm.score_many([(row["problem"], Trace.from_steps(row["steps"])) for row in rows])
    for row, score in zip(rows, scores, strict=True):
        low = np.flatnonzero(score.step_rewards < 0.5)
        hits[row["first_error"] is None].append((int(low[0]) if len(low) else None) == row["first_error"])
    right, wrong = (float(np.mean(hits[kind])) for kind in (True, False))
    return 2 * right * wrong / (right + wrong)
