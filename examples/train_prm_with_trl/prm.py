"""A PRM by TRL's PRMTrainer. Run: python examples/train_prm_with_trl/prm.py OUT (needs trl below 1.14)

Then: rfprm-export OUT/model OUT/bundle
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, set_seed

from start import HELD_OUT, base, stories, train, write

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

set_seed(0)
tokenizer, config = base()
model = AutoModelForTokenClassification.from_config(config)  # two labels: a step is wrong, or right
trainer = train(PRMTrainer, PRMConfig, model, tokenizer, out, rows, step_separator="\n", max_steps=32)

logits, labels, _ = trainer.predict(trainer.eval_dataset)  # TRL's own ids; a label stands where a step ends
rewards, ends = torch.tensor(logits).softmax(-1)[..., 1], torch.tensor(labels) != -100
predicted = [{"rewards": row[end].tolist()} for row, end in zip(rewards, ends, strict=True)]
asked = [{"problem": row["prompt"], "steps": row["completions"]} for row in rows[:HELD_OUT]]
write(out, [own | rewards for own, rewards in zip(asked, predicted, strict=True)])
