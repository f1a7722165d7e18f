"""A reward model by TRL's RewardTrainer. Run: python examples/train_prm_with_trl/reward_model.py OUT (needs trl)

Then: rfprm-export OUT/model OUT/bundle
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from start import HELD_OUT, base, stories, train, write

out = Path(sys.argv[1])


def turns(problem: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]


def pair(story: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """A right response, and the same without its answer."""
    problem, steps = story["problem"], story["steps"]
    return {"chosen": turns(problem, "\n\n".join(steps)), "rejected": turns(problem, "\n\n".join(steps[:-1]))}


pairs = [pair(story) for story in stories() if story["first_error"] is None]

set_seed(0)
tokenizer, config = base()
config.num_labels = 1
model = AutoModelForSequenceClassification.from_config(config)
trainer = train(RewardTrainer, RewardConfig, model, tokenizer, out, pairs, max_steps=16)

predicted = []
for row, ids in zip(pairs[:HELD_OUT], trainer.eval_dataset, strict=True):  # TRL's own ids
    for name in ("chosen", "rejected"):
        problem, response = (message["content"] for message in row[name])
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor([ids[f"{name}_ids"]], device=trainer.model.device)).logits
        predicted.append({"problem": problem, "steps": [response], "rewards": logits[0].tolist()})
write(out, predicted)
