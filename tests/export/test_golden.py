"""A second opinion: rewards that optimum-onnx's export of the demo checkpoint gave (see golden/second_opinion.py)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import DEMO_CHECKPOINT
from heldout import first_error_f1
from rfprm_lite import PRM, Trace

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optimum.json").read_text(encoding="utf-8"))


def test_the_golden_rewards_are_of_this_checkpoint() -> None:
    weights = (DEMO_CHECKPOINT / "model.safetensors").read_bytes()
    assert GOLDEN["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest(), f"run: {GOLDEN['command']}"


def test_rewards_are_those_of_an_independent_export(prm: PRM) -> None:
    pairs = [(trace["problem"], Trace.from_steps(trace["steps"])) for trace in GOLDEN["traces"]]
    for trace, score in zip(GOLDEN["traces"], prm.score_many(pairs), strict=True):
        np.testing.assert_allclose(score.step_rewards, trace["rewards"], atol=1e-4)


def test_in_fp32_first_wrong_steps_are_found_as_in_int8(prm: PRM) -> None:
    """tests/runtime compares INT8 with the card, which says that both are the same."""
    assert first_error_f1(prm) == pytest.approx(0.996, abs=0.01)
