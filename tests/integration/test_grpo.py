"""TRL's GRPOTrainer on our rewards: what it logs is what we compute again from the completions that it logs."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rfprm_lite import PRM, RfprmError
from rfprm_lite.integrations.trl import RewardFunction
from rfprm_lite.rl import mix_rewards

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo" / "train.py"
PROBLEMS = [f"Tom has {a} apples. He buys 5 more. How many apples does Tom have now?" for a in range(12, 24)]
SIZES = {"max_steps": 3, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 24}


def has_digit(completions: Sequence[Any], **_columns: object) -> list[float]:
    return [float(any(c.isdigit() for c in str(completion))) for completion in completions]


def logged(folder: Path) -> list[pd.DataFrame]:
    """TRL's own tables of completions, one a step."""
    return [pd.read_parquet(path) for path in sorted((folder / "completions").glob("*.parquet"))]


def assert_ours(tables: list[pd.DataFrame], history: list[dict[str, float]], problem: Any, response: Any) -> None:
    """The rewards in TRL's tables and history are those that a PRM of its own gives, one completion at a time."""
    prm = PRM.from_pretrained("demo", cache_bytes=0)
    seen: set[float] = set()
    for table, log in zip(tables, history, strict=False):  # the last of the history is a summary
        expected = []
        for row in table.to_dict("records"):
            text = response(row["completion"])
            try:
                score = prm.score(problem(row["prompt"]), text)
            except RfprmError:
                expected.append(mix_rewards(has_digit([text])[0], 0.0, 0.75))
                assert row["rfprm/step_rewards"] is None
            else:
                expected.append(mix_rewards(has_digit([text])[0], score.reward, 0.75))
                assert row["rfprm/step_rewards"].tolist() == score.step_rewards.tolist()
        assert table["rfprm"].to_numpy() == pytest.approx(expected, abs=1e-6)  # TRL's are float32
        assert log["rewards/rfprm/mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert log["reward"] == pytest.approx(np.mean(expected), abs=1e-6)
        seen.update(expected)
    assert len(seen) > len(tables)


def test_the_rewards_that_trl_logs_are_ours(policy: Path, tmp_path: Path) -> None:
    reward = RewardFunction(PRM.from_pretrained("demo"), outcome=has_digit)
    args = GRPOConfig(str(tmp_path), **SIZES, logging_steps=1, log_completions=True, report_to="none", use_cpu=True)
    rows = Dataset.from_list([{"prompt": problem} for problem in PROBLEMS])
    trainer = GRPOTrainer(str(policy), reward, args=args, train_dataset=rows)
    trainer.train()
    tables = logged(tmp_path)
    assert [len(table) for table in tables] == [4, 4, 4]
    assert_ours(tables, trainer.state.log_history, lambda prompt: prompt, lambda completion: completion)
    assert all(0 < log["rfprm/step_reward"] < 1 for log in trainer.state.log_history[:3])


def test_conversations_and_completions_left_out(policy: Path, tmp_path: Path) -> None:
    """A completion of one token is often blank; with unscorable=None TRL leaves it out of its group."""
    reward = RewardFunction(PRM.from_pretrained("demo"), unscorable=None)
    sizes = {**SIZES, "max_completion_length": 1, "per_device_train_batch_size": 64, "num_generations": 64}
    args = GRPOConfig(
        str(tmp_path), **sizes, logging_steps=1, log_completions=True, report_to="none", use_cpu=True, seed=1
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": problem}]} for problem in PROBLEMS])
    trainer = GRPOTrainer(str(policy), reward, args=args, train_dataset=rows)
    trainer.train()
    blank = pd.concat(logged(tmp_path))
    blank = blank[[not completion[0]["content"].strip() for completion in blank["completion"]]]
    assert reward.unscored == len(blank) > 0
    assert blank["rfprm"].isna().all()
    assert (blank["advantage"] == 0).all()


def test_the_example_trains(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(policy)])
    done = runpy.run_path(str(EXAMPLE), run_name="__main__")
    tables = logged(tmp_path / "grpo")
    assert [len(table) for table in tables] == [4, 4, 4]
    for table in tables:
        again = RewardFunction(PRM.from_pretrained("demo"), outcome=done["right_answer"])
        prompts, completions = ([list(value) for value in table[name]] for name in ("prompt", "completion"))
        answers = [str(sum(int(word) for word in prompt[0]["content"].split() if word.isdigit())) for prompt in prompts]
        assert table["rfprm"].to_numpy() == pytest.approx(again(prompts, completions, answer=answers), abs=1e-6)
