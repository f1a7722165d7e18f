"""The memory of a run whose layers are wide: their temporary arrays are most of what a call takes.

tests/runtime/test_memory.py measures the demo model, of which read-outs take most.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from checkpoints import LAYOUTS, make_checkpoint
from process_memory import taken
from rfprm_export.pipeline import Request, export

RECIPE = "reasonflux-prm-7b"
WIDE = {"hidden_size": 512, "intermediate_size": 2816, "num_attention_heads": 2, "num_key_value_heads": 1}


def test_a_call_of_a_wide_model_takes_what_was_predicted_at_most(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", replace(LAYOUTS[RECIPE], layers=2, config=WIDE))
    export(Request(str(checkpoint), tmp_path / "bundle", RECIPE, variants=["fp32"], most_traces=1))
    (call,) = taken(tmp_path / "bundle", [["1 " * 300]])
    assert call.measured > 15_000_000
    assert call.measured <= call.predicted < 3 * call.measured
