"""Write the set of `rfprm evaluate demo`: problems of the demo's domain that it was never trained on.

    python demo_set.py HELDOUT.jsonl OUTPUT_FOLDER

HELDOUT: the traces that `evaluate.py --write` wrote (tests/runtime/data/demo_heldout.jsonl), whose problems are not in
the training stream. Writes `demo_first_errors.jsonl`, the first 150 of them in ProcessBench's form, and
`demo_pools.jsonl`, 40 of the other problems with 8 candidates each. A candidate has an error with probability 0.6.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import arithmetic
import stories
from evaluate import SEED

FIRST_ERRORS, POOLS, CANDIDATES, ERROR_RATE = 150, 40, 8, 0.6


def problems_of(questions: Sequence[str]) -> Iterator[arithmetic.Problem]:
    """The problems behind the questions: evaluate.py drew them in this order, and left out those it had trained on."""
    rng, wanted = random.Random(SEED), set(questions)
    while wanted:
        problem = stories.story(rng)
        if problem.question in wanted:
            wanted.remove(problem.question)
            yield problem


def pool(problem: arithmetic.Problem, rng: random.Random) -> dict[str, object]:
    traces = [arithmetic.sample_trace(problem, rng, ERROR_RATE) for _ in range(CANDIDATES)]
    right = arithmetic.sample_trace(problem, rng, 0.0)
    return {
        "problem": problem.question,
        "answer": answer_of(right),
        "candidates": [[step.text for step in trace.steps] for trace in traces],
    }


def answer_of(trace: arithmetic.Trace) -> str:
    return re.findall(r"\d+", trace.steps[-1].text)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.heldout.read_text(encoding="utf-8").splitlines()]
    labelled = [
        {
            "problem": row["problem"],
            "steps": row["steps"],
            "label": -1 if row["first_error"] is None else row["first_error"],
        }
        for row in rows[:FIRST_ERRORS]
    ]
    behind = list(problems_of([row["problem"] for row in rows]))[FIRST_ERRORS:][:POOLS]
    rng = random.Random(SEED)
    for name, found in (("first_errors", labelled), ("pools", [pool(problem, rng) for problem in behind])):
        text = "".join(f"{json.dumps(row)}\n" for row in found)
        (options.output / f"demo_{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
