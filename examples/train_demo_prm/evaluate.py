"""Measure the demo PRM on problems that it was never trained on, with the runtime that users run.

    python evaluate.py GSM8K_TRAIN.jsonl GSM8K_TEST.jsonl [--bundle FOLDER] [--write SAMPLE.jsonl]

ProcessBench's F1 of the first wrong step at threshold 0.5, in the domain and on GSM8K test problems whose numbers lie
in it; best-of-8 with one right candidate. The training stream is replayed (some minutes), and a problem that occurs in
it is not used. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track
from tokenizers import Tokenizer

import arithmetic
import gsm8k
import stories
from rfprm_lite import PRM, Trace
from rfprm_lite.evaluate import Candidate, Item, evaluate
from train import STEPS, Encoder, Example, batches, examples

SEED = 12_345


class Recorder(Encoder):
    """Encodes as in training, and keeps every question."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.questions: set[str] = set()

    def __call__(self, trace: arithmetic.Trace) -> Example:
        self.questions.add(trace.question)
        return super().__call__(trace)


def trained_on(checkpoint: Path, gsm8k_train: Path, steps: int, seed: int) -> set[str]:
    """Every question of the training stream."""
    recorder = Recorder(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    progress = {"done": 0.0}
    source = batches(examples(recorder, gsm8k.load(gsm8k_train), random.Random(seed + 1), progress))
    for step in track(range(steps), "replaying the training stream"):
        progress["done"] = step / steps
        next(source)
    return recorder.questions


def new_stories(rng: random.Random, seen: set[str], count: int) -> list[arithmetic.Problem]:
    found: list[arithmetic.Problem] = []
    while len(found) < count:
        problem = stories.story(rng)
        if problem.question not in seen:
            found.append(problem)
    return found


def f1(prm: PRM, traces: Sequence[arithmetic.Trace]) -> dict[str, float]:
    """Accuracy on right and on wrong traces, and ProcessBench's F1."""
    result = evaluate(prm, [item_of(i, trace) for i, trace in enumerate(traces, 1)], kind="processbench")
    found = {name: result.value("processbench", name) or 0.0 for name in ("right", "wrong", "f1")}
    return {**found, "traces": len(traces)}


def item_of(row: int, trace: arithmetic.Trace) -> Item:
    known = len(trace.steps) if trace.first_error is None else trace.first_error
    labels = [i < known if i <= known else None for i in range(len(trace.steps))]
    return Item(row, trace.question, (Candidate(tuple(step.text for step in trace.steps), tuple(labels)),))


def best_of_8(prm: PRM, problems: Sequence[arithmetic.Problem], rng: random.Random) -> dict[str, float]:
    """How often the right candidate among seven wrong ones is chosen; by chance it is 0.125."""
    chosen: list[bool] = []
    for problem in problems:
        right = arithmetic.write(problem, rng)
        wrong = _wrong_candidates(lambda problem=problem: arithmetic.sample_trace(problem, rng, 1.0), 7)
        traces = [right, *wrong]
        rng.shuffle(traces)
        best = prm.best_of_n(
            problem.question, [Trace.from_steps(s.text for s in t.steps) for t in traces if t], aggregate="mean"
        )
        chosen.append(traces[best.index] is right)
    return {"chosen": float(np.mean(chosen)), "problems": len(chosen)}


def _wrong_candidates(draw: Callable[[], arithmetic.Trace], count: int) -> list[arithmetic.Trace]:
    """Different ones, as far as some tries find them."""
    found: dict[tuple[str, ...], arithmetic.Trace] = {}
    for _ in range(20 * count):
        trace = draw()
        if trace.first_error is not None:
            found.setdefault(tuple(step.text for step in trace.steps), trace)
        if len(found) == count:
            break
    return list(found.values())


def by_kind(prm: PRM, problems: Sequence[arithmetic.Problem], rng: random.Random) -> dict[str, float]:
    """For each kind of error, how often its step is the first below the threshold."""
    found = {}
    for kind in arithmetic.ERRORS:
        traces = [arithmetic.write(p, rng, rng.randrange(len(p.lines)), kind) for p in problems]
        found[kind] = f1(prm, [t for t in traces if t] + [arithmetic.sample_trace(problems[0], rng, 0.0)])["wrong"]
    return found


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k_train", type=Path)
    parser.add_argument("gsm8k_test", type=Path)
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--checkpoint", type=Path, default=here / "demo-prm")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training run, and its seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="write 300 of the traces, for the project's tests")
    options = parser.parse_args()

    prm = PRM.from_pretrained(options.bundle)
    rng = random.Random(SEED)
    seen = trained_on(options.checkpoint, options.gsm8k_train, options.steps, options.seed)
    problems = new_stories(rng, seen, 1000)
    traces = [arithmetic.sample_trace(problem, rng, error_rate=0.5) for problem in problems]
    rows = [row for row in gsm8k.load(options.gsm8k_test) if row.question not in seen]
    results = {
        "questions_trained_on": len(seen),
        "domain": f1(prm, traces),
        "domain_by_error": by_kind(prm, problems, rng),
        "domain_best_of_8": best_of_8(prm, problems[:400], rng),
        "gsm8k_test": f1(prm, [gsm8k.sample_trace(row, rng, error_rate=0.5) for row in rows for _ in range(4)]),
        "gsm8k_test_problems": len(rows),
    }
    if options.write:
        with options.write.open("w", encoding="utf-8") as file:
            for trace in traces[:300]:
                steps = [step.text for step in trace.steps]
                row = {"problem": trace.question, "steps": steps, "first_error": trace.first_error}
                file.write(json.dumps(row) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
