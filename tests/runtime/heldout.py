"""How often the first wrong step is found, on data/demo_heldout.jsonl.

300 traces on problems that the demo was never trained on, written by examples/train_demo_prm/evaluate.py.
"""

from __future__ import annotations

from pathlib import Path

from rfprm_lite import PRM
from rfprm_lite.evaluate import evaluate, read

DATA = Path(__file__).parent / "data" / "demo_heldout.jsonl"


def first_error_f1(prm: PRM) -> float:
    """ProcessBench's F1 at threshold 0.5: the harmonic mean of the accuracy on right and on wrong traces."""
    result = evaluate(prm, read(DATA, "processbench", columns={"label": "first_error"}))
    return result.value("processbench", "f1") or 0.0
