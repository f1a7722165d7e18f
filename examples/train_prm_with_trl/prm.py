"""A PRM by TRL's PRMTrainer. Run: python examples/train_prm_with_trl/prm.py OUT (needs trl below 1.14)

Then: rfprm-export OUT/model OUT/bundle
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, set_seed

from start import base, stories, write

try:
    from trl.experimental.prm import PRMConfig, PRMTrainer
except ModuleNotFoundError:  # where TRL had it before 1.0
    from trl import PRMConfig, PRMTrainer

out = Path(sys.argv[1])
rows = [
    {
        "prompt": story["problem"],
        "completions": story["steps"],
        "labels": [story["first_error"] is None or i < story["first_error"] for i in range(len(story["steps"]))],
    }
    for story in stories()
]
held_out, train = rows[:16], rows[16:]

set_seed(0)
tokenizer, config = base()
model = AutoModelForTokenClassification.from_config(config)  # two labels: a step is wrong, or right
args = PRMConfig(
    str(out / "checkpoints"),
    step_separator="\n",
    max_steps=32,
    learning_rate=1e-3,
    per_device_train_batch_size=8,
    logging_steps=8,
    save_strategy="no",
    report_to="none",
    bf16=False,
    use_cpu=not torch.cuda.is_available(),
)
trainer = PRMTrainer(
    model,
    args,
    processing_class=tokenizer,
    train_dataset=Dataset.from_list(train),
    eval_dataset=Dataset.from_list(held_out),
)
trainer.train()
trainer.save_model(str(out / "model"))

logits, labels, _ = trainer.predict(trainer.eval_dataset)  # TRL's own ids; a label stands where a step ends
rewards, ends = torch.tensor(logits).softmax(-1)[..., 1], torch.tensor(labels) != -100
predicted = [{"rewards": row[end].tolist()} for row, end in zip(rewards, ends, strict=True)]
asked = [{"problem": row["prompt"], "steps": row["completions"]} for row in held_out]
write(out, [own | rewards for own, rewards in zip(asked, predicted, strict=True)])
