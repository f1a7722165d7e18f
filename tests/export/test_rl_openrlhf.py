"""OpenRLHF's signature, which takes tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rfprm_lite import PRM, Aggregate, InputError
from rfprm_lite.integrations import openrlhf

PROBLEM = "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nTom now has 17 - 3 = 14 apples.\n\nThe answer is 14."
WRONG = "Tom now has 12 + 5 = 17 apples.\n\nTom now has 17 + 3 = 20 apples.\n\nThe answer is 20."


@pytest.fixture(scope="module")
def demo() -> PRM:
    return PRM.from_pretrained("demo", threads=2)


def label_ends(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    return {"rewards": torch.tensor([float(label in q) for q, label in zip(queries, labels, strict=True)])}


def test_openrlhf_gets_tensors_of_the_papers_reward(demo: PRM) -> None:
    prompt = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
    reward = openrlhf.RewardFunction(
        demo, outcome=label_ends, problem_of=openrlhf.between("<|im_start|>user\n", "<|im_end|>")
    )
    found = reward([prompt + RIGHT + "<|im_end|>", prompt + WRONG], [prompt] * 2, ["is 14.", "is 14."])
    r_hats = [demo.score(PROBLEM, text).reward for text in (RIGHT, WRONG)]
    assert found["rewards"].tolist() == pytest.approx([0.25 + 0.75 * r_hats[0], 0.75 * r_hats[1]])
    assert found["rewards"].dtype == torch.float32
    assert found["scores"].tolist() == [1.0, 0.0]
    assert found["extra_logs"]["r_hat"].tolist() == pytest.approx(r_hats)
    assert found["extra_logs"]["unscorable"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "end", ["<|im_end|>\n", "<|im_end|>", "</s><pad><pad>", "<|return|> \n", "<|eot_id|>\n<|end_of_text|>\n"]
)
def test_openrlhf_ends_of_turns_are_no_part_of_a_response(demo: PRM, end: str) -> None:
    reward = openrlhf.RewardFunction(demo)
    found = reward([PROBLEM + RIGHT + end, PROBLEM + RIGHT], [PROBLEM] * 2, ["", ""])["rewards"].tolist()
    assert found[0] == found[1]


def test_openrlhf_prompts_that_open_the_thinking(demo: PRM) -> None:
    """The thinking was cut off: there is no response to be the final one."""
    how = Aggregate("mean+final", final="response")
    reward = openrlhf.RewardFunction(demo, aggregate=how, problem_of=lambda prompt: PROBLEM)
    found = reward([f"{PROBLEM}<think>\n{RIGHT}", PROBLEM + RIGHT], [f"{PROBLEM}<think>\n", PROBLEM], ["", ""])
    assert found["extra_logs"]["unscorable"].tolist() == [1, 0]


def test_openrlhf_without_an_outcome_filters_by_r_hat(demo: PRM, caplog: pytest.LogCaptureFixture) -> None:
    reward = openrlhf.RewardFunction(demo)
    found = reward([PROBLEM + RIGHT, PROBLEM + "</s>"], [PROBLEM] * 2, ["", ""])
    r_hat = demo.score(PROBLEM, RIGHT).reward
    assert found["rewards"].tolist() == pytest.approx([r_hat, 0])
    assert found["scores"].tolist() == pytest.approx([r_hat / 2, 0])
    assert reward.unscored == 1
    assert "1 of 2 completions" in caplog.text


def test_openrlhf_is_told_of_errors_that_it_would_hide(demo: PRM, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="1 of 86"):
        openrlhf.RewardFunction(demo)([PROBLEM[:1] + RIGHT], [PROBLEM], [""])
    assert "no reward for 1 responses" in caplog.text


def test_openrlhf_the_modules_own_function(
    demo: PRM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RFPRM_MODEL", raising=False)
    with pytest.raises(InputError, match="RFPRM_MODEL"):
        openrlhf.reward_func([PROBLEM + RIGHT], [PROBLEM], [""])
    assert "RFPRM_MODEL" in caplog.text
    monkeypatch.setenv("RFPRM_MODEL", "demo")
    found = openrlhf.reward_func([PROBLEM + RIGHT], [PROBLEM], [""])
    assert found["rewards"].tolist() == pytest.approx([demo.score(PROBLEM, RIGHT).reward])
    openrlhf._default.cache_clear()
