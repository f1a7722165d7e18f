"""OpenRLHF's own executor calls a reward function of ours from a file, with a scripted engine in place of vLLM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import PreTrainedTokenizerFast

from rfprm_lite import PRM
from rfprm_lite.rl import mix_rewards

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RESPONSE = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."
FILE = """
from rfprm_lite import PRM
from rfprm_lite.integrations.openrlhf import RewardFunction, between

def right_answer(queries, prompts, labels):
    return {"rewards": [float(label in query) for query, label in zip(queries, labels)]}

problem_of = between("<|im_start|>user\\n", "<|im_end|>")
reward_func = RewardFunction(PRM.from_pretrained("demo"), outcome=right_answer, problem_of=problem_of)
"""


def executed(file: str, tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> dict[str, Any]:
    class Engine:
        async def generate(self, *_arguments: object, **_options: object) -> object:
            ids = [*tokenizer.encode(response), tokenizer.eos_token_id]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)])

    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    executor = SingleTurnAgentExecutor(file)
    return asyncio.run(executor.execute(prompt, "is 17.", sampling, 256, tokenizer, Engine()))


def test_the_executor_gets_our_reward(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text(FILE)
    conversation = [{"role": "user", "content": PROBLEM}]
    prompt = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    found = executed(str(file), tokenizer, prompt, RESPONSE)
    r_hat = PRM.from_pretrained("demo").score(PROBLEM, RESPONSE).reward
    # As SamplesGenerator._process_response_into_experience, which needs vLLM to be imported, makes an Experience of it.
    assert torch.tensor([found["reward"]]).tolist() == pytest.approx([mix_rewards(1.0, r_hat)])
    assert torch.tensor([found["scores"]]).tolist() == [1.0]
    logs = {key: torch.tensor([value.flatten()[0].item()]) for key, value in found["extra_logs"].items()}
    assert {key: value.tolist() for key, value in logs.items()} == {"r_hat": pytest.approx([r_hat]), "unscorable": [0]}


def test_the_modules_own_function(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    from rfprm_lite.integrations import openrlhf

    monkeypatch.setenv("RFPRM_MODEL", "demo")
    found = executed(str(openrlhf.__file__), tokenizer, PROBLEM, RESPONSE)
    expected = PRM.from_pretrained("demo").score(PROBLEM, RESPONSE).reward
    assert found["reward"].tolist() == pytest.approx([expected])
    assert found["scores"].tolist() == pytest.approx([expected / 2])
