"""Write GSM8K's test problems whose numbers lie in the demo's domain as a set for `rfprm evaluate`.

    python gsm8k_set.py GSM8K_TEST.jsonl OUTPUT.jsonl

Each problem has four traces in ProcessBench's form, made of its own solution; half of them get one error, which is
carried on to the end. The demo was trained on GSM8K's training problems, with other numbers; on none of these.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import gsm8k
from evaluate import SEED

TRACES, ERROR_RATE = 4, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k_test", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    rng = random.Random(SEED)
    with options.output.open("w", encoding="utf-8") as file:
        for row in gsm8k.load(options.gsm8k_test):
            for _ in range(TRACES):
                trace = gsm8k.sample_trace(row, rng, ERROR_RATE)
                label = -1 if trace.first_error is None else trace.first_error
                line = {"problem": trace.question, "steps": [step.text for step in trace.steps], "label": label}
                file.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    main()
