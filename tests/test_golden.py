"""A second opinion: rewards that optimum-onnx's export of the demo checkpoint gave (see golden/second_opinion.py)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from checkpoints import DEMO_CHECKPOINT
from rfprm_lite import PRM

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optimum.json").read_text(encoding="utf-8"))


def test_the_golden_rewards_are_of_this_checkpoint() -> None:
    weights = (DEMO_CHECKPOINT / "model.safetensors").read_bytes()
    assert GOLDEN["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest(), f"run: {GOLDEN['command']}"


def test_rewards_are_those_of_an_independent_export(prm: PRM) -> None:
    pairs = [(trace["problem"], trace["steps"]) for trace in GOLDEN["traces"]]
    for trace, score in zip(GOLDEN["traces"], prm.score_many(pairs), strict=True):
        np.testing.assert_allclose(score.step_rewards, trace["rewards"], atol=1e-4)
