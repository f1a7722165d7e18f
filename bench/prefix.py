"""What prefix sharing saves: best_of_n against the same candidates one by one. Run: python bench/prefix.py

Interleaved rounds, medians, tokens counted. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import onnxruntime

from rfprm_lite import PRM

ROUNDS = 9
N = 16


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    prm = PRM.from_pretrained("demo")
    problem = "Add up these numbers, one after another: " + ", ".join(map(str, range(1, 81))) + "."
    shared = [f"{n} + {n} = {2 * n}" for n in range(1, 11)]
    candidates = [[*shared, *(f"{n} + {k} = {n + k}" for n in range(4))] for k in range(N)]
    together = lambda: prm.best_of_n(problem, candidates)  # noqa: E731
    alone = lambda: [prm.score(problem, candidate) for candidate in candidates]  # noqa: E731
    together(), alone()
    times: dict[str, list[float]] = {"best_of_n": [], "one by one": []}
    for _ in range(ROUNDS):
        times["best_of_n"].append(seconds(together))
        times["one by one"].append(seconds(alone))
    ratios = [a / b for a, b in zip(times["one by one"], times["best_of_n"], strict=True)]
    tokens = prm.best_of_n(problem, candidates).tokens
    for name, values in times.items():
        print(f"{name:12} median {statistics.median(values):.4f} s, from {min(values):.4f} to {max(values):.4f}")
    result = {
        "onnxruntime": onnxruntime.__version__,
        "candidates": N,
        "tokens_total": tokens.total,
        "tokens_computed": tokens.computed,
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
