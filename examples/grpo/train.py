"""GRPO with a process reward model. Run: python examples/grpo/train.py [POLICY] (a folder or a hub id; needs trl)

The demo PRM judges arithmetic only, and three steps teach nothing: name a real PRM's bundle, and train for longer.
"""

import re
import sys

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rfprm_lite import PRM
from rfprm_lite.integrations.trl import RewardFunction


def right_answer(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    last = [(re.findall(r"\d+", completion[0]["content"]) or [""])[-1] for completion in completions]
    return [float(found == own) for found, own in zip(last, answer, strict=True)]


story = "Tom has {} apples. He buys {} more. How many apples does Tom have now?"
rows = [([{"role": "user", "content": story.format(a, b)}], str(a + b)) for a in range(10, 40) for b in range(2, 30)]
dataset = Dataset.from_list([{"prompt": prompt, "answer": answer} for prompt, answer in rows])
reward = RewardFunction(PRM.from_pretrained("demo"), outcome=right_answer, beta=0.75)
sizes = {"max_steps": 3, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 48}
cpu = not torch.cuda.is_available()
args = GRPOConfig("grpo", **sizes, logging_steps=1, log_completions=True, report_to="none", use_cpu=cpu)
policy = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen2.5-0.5B-Instruct"
GRPOTrainer(policy, reward, args=args, train_dataset=dataset).train()
