"""The example of a race beside a generator, on a policy of random weights."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "race" / "generate.py"


def test_the_example_names_the_winner_of_all(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 31
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(policy)])
    torch.manual_seed(0)
    race = runpy.run_path(str(EXAMPLE))["race"]
    assert capsys.readouterr().out.endswith(f"winner: {race.winner}\n")
    best = race.scores[race.winner].reward
    for i in range(8):
        rewards = race.trace(i).step_rewards
        assert 1 <= len(rewards) <= 8
        assert min(rewards) <= best  # by the minimum a further step never helps
        assert i == race.winner or min(rewards) < best or i > race.winner
