"""Best of N: each formula against all subsets, one by one, and its laws."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite.evaluate import Candidate, Item, Items, Result, read, with_own_scores
from rfprm_lite.evaluate.best_of_n import chosen, chosen_evenly, oracle, sizes, vote

DATA = Path(__file__).parent / "data" / "strictprm_pools.jsonl"
COLUMNS = {"problem": "question", "scores": "qwen_prm_step_scores", "correct": "is_correct"}
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "product": math.prod,
    "last": lambda scores: scores[-1],
    "mean+final": lambda scores: math.fsum(scores) / len(scores) + scores[-1],
}

POOL = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=7)


def first_of_the_best(subset: Sequence[int], rewards: Sequence[float]) -> int:
    return max(subset, key=lambda i: (rewards[i], -i))


@given(POOL, st.integers(1, 8))
def test_the_choice_over_all_subsets(pool: list[tuple[int, bool]], n: int) -> None:
    rewards, right = [float(reward) for reward, _ in pool], [right for _, right in pool]
    subsets = list(combinations(range(len(pool)), min(n, len(pool))))
    first = [right[first_of_the_best(subset, rewards)] for subset in subsets]
    assert chosen(np.array(rewards), n) @ right == pytest.approx(np.mean(first))
    even = []
    for subset in subsets:
        best = [i for i in subset if rewards[i] == max(rewards[j] for j in subset)]
        even.append(np.mean([right[i] for i in best]))
    assert chosen_evenly(np.array(rewards), n) @ right == pytest.approx(np.mean(even))
    any_right = [any(right[i] for i in subset) for subset in subsets]
    assert oracle(np.array(right, float), n) == pytest.approx(np.mean(any_right))


@given(POOL, st.integers(1, 8), st.randoms())
def test_laws(pool: list[tuple[int, bool]], n: int, rng: random.Random) -> None:
    right = np.array([right for _, right in pool], float)
    perfect, constant = right * 0.5 + 0.2, np.full(len(pool), 0.7)
    for choose in (chosen, chosen_evenly):
        assert choose(perfect, n).sum() == pytest.approx(1)
        assert choose(perfect, n) @ right == pytest.approx(oracle(right, n))
    assert chosen_evenly(constant, n) @ right == pytest.approx(right.mean())
    order = rng.sample(range(len(pool)), len(pool))
    rewards = np.array([float(reward) for reward, _ in pool])
    same = chosen_evenly(rewards[order], n) @ right[order]
    assert same == pytest.approx(chosen_evenly(rewards, n) @ right)


VOTES = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3), st.booleans()), min_size=1, max_size=7)


@given(VOTES, st.integers(1, 8))
def test_the_vote_over_all_subsets(pool: list[tuple[int, int, bool]], n: int) -> None:
    group = [answer for answer, _, _ in pool]
    known = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in group if a >= 0))}
    group = [known.get(answer, -1) for answer in group]
    weights, right = [float(weight) for _, weight, _ in pool], [right for _, _, right in pool]
    found = []
    for subset in combinations(range(len(pool)), min(n, len(pool))):
        voting = [i for i in subset if group[i] >= 0]
        if not voting:
            found.append(0.0)
            continue
        heaviness: dict[int, float] = {}
        for i in voting:  # in the order of first candidates, so that the first among equals wins
            heaviness[group[i]] = heaviness.get(group[i], 0.0) + weights[i]
        winner = max(heaviness, key=lambda g: heaviness[g])
        found.append(float(right[first_of_the_best([i for i in voting if group[i] == winner], weights)]))
    way = np.array([weights])
    assert vote(np.array(group), way, np.array(right, float), n)[0] == pytest.approx(np.mean(found))


def test_more_subsets_than_are_drawn() -> None:
    """Twenty candidates of 32 answer 4 and are right: most votes of 16 find them; half of the votes of one don't."""
    group, right = np.array([0, 1, 1, 0] * 8), np.array([1, 0, 0, 1] * 8, float)
    group[:4], right[:4] = 0, 1.0
    (rate,) = vote(group, np.ones((1, 32)), right, 16)
    assert 0.6 < rate < 1
    assert vote(group, np.ones((1, 32)), right, 1)[0] == right.mean()
    assert vote(group, np.ones((1, 32)), right, 32)[0] == 1


def test_sizes() -> None:
    assert sizes([np.zeros(32)]) == [1, 2, 4, 8, 16, 32]
    assert sizes([np.zeros(5), np.zeros(6)]) == [1, 2, 4, 6]
    assert sizes([np.zeros(1)]) == [1]


def by_fractions(rows: list[dict[str, Any]], name: str, n: int) -> float:
    """The expectation in exact arithmetic: a candidate is chosen where none of those that beat it is drawn."""
    total = Fraction(0)
    for row in rows:
        candidates = row["candidates"]
        scores = [AGGREGATES[name](one["qwen_prm_step_scores"]) for one in candidates]
        for i, one in enumerate(candidates):
            beating = sum(s > scores[i] or (s == scores[i] and j < i) for j, s in enumerate(scores))
            if one["is_correct"]:
                total += Fraction(math.comb(31 - beating, n - 1), math.comb(32, n))
    return float(total / len(rows))


def test_real_scores_against_exact_arithmetic() -> None:
    rows = [msgspec.json.decode(line) for line in DATA.read_bytes().splitlines()]
    found = Result(with_own_scores(read(DATA, "pools", columns=COLUMNS)))
    for n in (1, 2, 4, 8, 16, 32):
        for name in AGGREGATES:
            expected = by_fractions(rows, name, n)
            assert found.value("best_of_n", str(n), name) == pytest.approx(expected, abs=1e-12)
    correct = [[one["is_correct"] for one in row["candidates"]] for row in rows]
    assert found.value("best_of_n", "32", "random") == pytest.approx(np.mean(correct))
    assert found.value("best_of_n", "32", "oracle") == np.mean([any(some) for some in correct])
    assert found.to_dict()["tied_for_best"]["last"] > 0


def test_the_vote_is_there_where_answers_are() -> None:
    without = Result(with_own_scores(read(DATA, "pools", columns=COLUMNS)))
    assert without.value("best_of_n", "32", "majority") is None
    found = Result(with_own_scores(read(DATA, "pools", columns={**COLUMNS, "extracted": "extracted_answer"})))
    rows = [msgspec.json.decode(line) for line in DATA.read_bytes().splitlines()]
    for name in ("majority", "weighted mean"):
        right = []
        for row in rows:
            weight: dict[str, float] = {}
            for one in row["candidates"]:
                score = AGGREGATES["mean"](one["qwen_prm_step_scores"]) if name != "majority" else 1.0
                weight[one["extracted_answer"]] = weight.get(one["extracted_answer"], 0.0) + score
            winner = max(weight, key=lambda answer: weight[answer])
            right.append(next(one["is_correct"] for one in row["candidates"] if one["extracted_answer"] == winner))
        assert found.value("best_of_n", "32", name) == pytest.approx(np.mean(right)), name


def test_a_small_pool_counts_with_all_it_has() -> None:
    def item(row: int, *right: bool) -> Item:
        return Item(row, f"problem {row}", tuple(Candidate("a", correct=r, scores=(r * 1.0,)) for r in right))

    pools = Items("pools", "pools", (item(1, False, True), item(2, False, False, True, False)))
    found = Result(with_own_scores(pools))
    assert found.value("best_of_n", "4", "min") == 1
    assert found.value("best_of_n", "4", "oracle") == 1
    assert found.value("best_of_n", "2", "oracle") == pytest.approx((1 + 0.5) / 2)
