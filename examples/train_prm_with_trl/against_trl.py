"""How far a bundle is from TRL's own predictions. Run: python examples/train_prm_with_trl/against_trl.py OUT"""

import json
import sys
from pathlib import Path

import numpy as np

from rfprm_lite import PRM, Trace

out = Path(sys.argv[1])
prm = PRM.from_pretrained(out / "bundle", variant="fp32")
rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
scores = prm.score_many([(row["problem"], Trace.from_steps(row["steps"])) for row in rows])
ours = np.concatenate([score.step_rewards for score in scores])
theirs = np.concatenate([row["rewards"] for row in rows])
print(f"{len(ours)} rewards, TRL's from {theirs.min():.2f} to {theirs.max():.2f}")
print(f"largest difference {abs(ours - theirs).max():.1e}")
