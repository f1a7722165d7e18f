"""A reward model by TRL's RewardTrainer. Run: python examples/train_prm_with_trl/reward_model.py OUT (needs trl)

Then: rfprm-export OUT/model OUT/bundle
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from start import base, stories, write

out = Path(sys.argv[1])


def turns(problem: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]


def pair(story: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """A right response, and the same without its answer."""
    problem, steps = story["problem"], story["steps"]
    return {"chosen": turns(problem, "\n\n".join(steps)), "rejected": turns(problem, "\n\n".join(steps[:-1]))}


pairs = [pair(story) for story in stories() if story["first_error"] is None]
held_out, train = pairs[:16], pairs[16:]

set_seed(0)
tokenizer, config = base()
config.num_labels = 1
model = AutoModelForSequenceClassification.from_config(config)
args = RewardConfig(
    str(out / "checkpoints"),
    max_steps=16,
    learning_rate=1e-3,
    per_device_train_batch_size=8,
    logging_steps=4,
    save_strategy="no",
    report_to="none",
    bf16=False,
    use_cpu=not torch.cuda.is_available(),
)
trainer = RewardTrainer(
    model,
    args,
    processing_class=tokenizer,
    train_dataset=Dataset.from_list(train),
    eval_dataset=Dataset.from_list(held_out),
)
trainer.train()
trainer.save_model(str(out / "model"))

predicted = []
for row, ids in zip(held_out, trainer.eval_dataset, strict=True):  # TRL's own ids
    for name in ("chosen", "rejected"):
        problem, response = (message["content"] for message in row[name])
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor([ids[f"{name}_ids"]], device=trainer.model.device)).logits
        predicted.append({"problem": problem, "steps": [response], "rewards": logits[0].tolist()})
write(out, predicted)
