"""What `pd.read_parquet` gives works wherever a list does: steps, candidates and messages as arrays."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rfprm_lite import PRM
from rfprm_lite.integrations.trl import RewardFunction

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
STEPS = ["Tom now has 12 + 5 = 17 apples.", "The answer is 17."]
RESPONSES = ["\n\n".join(STEPS), "The answer is 19."]


def test_columns_of_a_frame(tmp_path: Path) -> None:
    prm = PRM.from_pretrained("demo")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    answered = [{"role": "assistant", "content": STEPS[1], "reasoning": STEPS[0]}, {"role": "assistant", "content": ""}]
    rows = {"prompt": [asked] * 2, "steps": [STEPS] * 2, "response": RESPONSES, "completion": [[a] for a in answered]}
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    row = frame.iloc[0]
    expected = prm.score(asked, steps=STEPS)
    assert prm.score(row.prompt, steps=row.steps).step_rewards.tolist() == expected.step_rewards.tolist()
    assert prm.score(row.prompt, steps=pd.Series(STEPS)).reward == expected.reward
    assert prm.best_of_n(row.prompt, frame.response).index == 0
    scores = prm.score_many(frame[["prompt", "response"]].to_numpy())
    assert [score.reward for score in scores] == [prm.score(asked, text).reward for text in RESPONSES]
    assert RewardFunction(prm)(frame.prompt, frame.completion) == [expected.reward, 0.0]
