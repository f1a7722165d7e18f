"""verl's own reward manager calls our function as its configuration names it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import PreTrainedTokenizerFast
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn

from rfprm_lite import PRM
from rfprm_lite.rl import mix_rewards

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RESPONSES = ["Tom now has 12 + 5 = 17 apples.\n\n#### 17", "Tom now has 12 + 5 = 19 apples.\n\n#### 19", ""]
CONFIG = """
reward:
  custom_reward_function:
    path: pkg://rfprm_lite.integrations.verl
    name: compute_score
    reward_kwargs:
      model: demo
      outcome: verl.utils.reward_score:default_compute_score
      beta: 0.6
"""


def rolled_out(tokenizer: PreTrainedTokenizerFast, response: str) -> DataProto:
    """A response as verl's agent loop hands it over, with the fields of its examples/data_preprocess/gsm8k.py."""
    prompt, ids = tokenizer.encode(PROBLEM), [*tokenizer.encode(response), tokenizer.eos_token_id]
    padded = torch.tensor([ids + [tokenizer.pad_token_id] * 3])
    mask = torch.tensor([[1] * (len(prompt) + len(ids)) + [0] * 3])
    return DataProto(
        batch=TensorDict(
            {"prompts": torch.tensor([prompt]), "responses": padded, "attention_mask": mask}, batch_size=1
        ),
        non_tensor_batch={
            "data_source": np.array(["openai/gsm8k"], dtype=object),
            "reward_model": np.array([{"style": "rule", "ground_truth": "17"}], dtype=object),
            "extra_info": np.array([{"split": "train", "index": 0, "question": PROBLEM}], dtype=object),
        },
    )


def test_the_naive_manager_gets_our_reward_beside_verls_own_outcome(tokenizer: PreTrainedTokenizerFast) -> None:
    config = OmegaConf.create(CONFIG)

    async def run() -> list[dict[str, Any]]:
        manager = NaiveRewardManager(config, tokenizer, get_custom_reward_fn(config))
        return await asyncio.gather(*(manager.run_single(rolled_out(tokenizer, text)) for text in RESPONSES))

    right, wrong, empty = asyncio.run(run())
    prm = PRM.from_pretrained("demo")
    r_hats = [prm.score(PROBLEM, text).reward for text in RESPONSES[:2]]
    assert right["reward_score"] == mix_rewards(1.0, r_hats[0], 0.6)
    assert wrong["reward_score"] == mix_rewards(0.0, r_hats[1], 0.6)
    assert right["reward_extra_info"]["r_hat"] == r_hats[0] > r_hats[1]
    assert (empty["reward_score"], empty["reward_extra_info"]["unscorable"]) == (0.0, 1)
    assert right["reward_extra_info"].keys() == wrong["reward_extra_info"].keys() == empty["reward_extra_info"].keys()
    # As the agent loop makes columns of what is beside the score.
    for key in right["reward_extra_info"]:
        column = np.array([info["reward_extra_info"][key] for info in (right, wrong, empty)])
        assert np.isfinite(column).all()


def test_verl_puts_it_at_the_last_token(tokenizer: PreTrainedTokenizerFast) -> None:
    data = rolled_out(tokenizer, RESPONSES[0])
    (row,) = NaiveRewardManager.assemble_rm_scores(data, [0.5]).tolist()
    assert row[-4:] == [0.5, 0, 0, 0]
    assert sum(row) == 0.5
