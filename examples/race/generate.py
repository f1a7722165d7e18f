"""A generator stops writing candidates that can't win. Run: python examples/race/generate.py [POLICY] (transformers)

The demo PRM judges arithmetic only: name a real PRM's bundle for real problems.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rfprm_lite import PRM

PROBLEM = "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?"
policy = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen2.5-0.5B-Instruct"
tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(policy)
question = [{"role": "user", "content": PROBLEM}]
prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
race = PRM.from_pretrained("demo").race(PROBLEM, n=8, aggregate="min")
while race.winner is None:
    growing = [i for i in race.alive if i not in race.scores]
    texts = [prompt + "".join(f"{step}\n\n" for step in race.trace(i).steps) for i in growing]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids = model.generate(**inputs, do_sample=True, max_new_tokens=32, stop_strings=["\n\n"], tokenizer=tokenizer)
    new = ids[:, inputs["input_ids"].shape[1] :]
    steps = tokenizer.batch_decode(new, skip_special_tokens=True)
    race.extend({i: step.strip() or "..." for i, step in zip(growing, steps, strict=True)})
    for i, ended in zip(growing, torch.any(new == tokenizer.eos_token_id, 1).tolist(), strict=True):
        if ended or len(race.trace(i).steps) == 8:
            race.finish(i)
print(*(f"candidate {i}: {len(race.trace(i).steps)} steps" for i in range(8)), f"winner: {race.winner}", sep="\n")
