"""Best of N: how often the chosen candidate is right, for each number of candidates and each way to choose.

In: pools of candidates with rewards and correctness. Out: the expectation over all subsets of N candidates of a pool,
by a formula; for votes over all subsets where they are few, else over a stated number of draws.

Of equal rewards the first candidate is chosen, as `PRM.best_of_n` does. Where files have their right candidates first,
that flatters a judge that can't tell them apart, so the same numbers are also given with ties broken evenly: then the
order of candidates changes nothing, and a judge of one constant is as good as a random choice. A pool with fewer than N
candidates counts with all it has, so that every number is of the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import Aggregate, AggregateName
from rfprm_lite.evaluate.items import Item
from rfprm_lite.evaluate.judged import Judged
from rfprm_lite.evaluate.statistics import Numbers, Statistic, Statistics, mean

DRAWS = 500
"""Subsets of a pool that are drawn for a vote, where there are more than so many."""

BEST_OF_N = "best_of_n"
EVEN_TIES = "best_of_n_even_ties"


def statistics(judged: Judged) -> Statistics:
    """The accuracy of each way to choose, by the number of candidates.

    `random` is pass@1, `oracle` pass@N; then every aggregate. Where candidates have answers, `majority` and, for each
    aggregate, a majority weighted by its rewards, as `rfprm_lite.voting` votes.
    """
    unit, problems = judged.units
    pools = judged.items.items
    correct = [np.array([one.correct for one in item.candidates], np.float64) for item in pools]
    rewards: dict[str, list[Numbers]] = {
        aggregate.name: judged.totals(aggregate) for aggregate in aggregates(judged.aggregate)
    }
    votes = _votes(pools, rewards)
    found: dict[tuple[str, ...], Statistic] = {}
    for n in sizes(correct):
        ways = {
            "random": [float(right.mean()) for right in correct],
            "oracle": [oracle(right, n) for right in correct],
        }
        for name, totals in rewards.items():
            pairs = list(zip(totals, correct, strict=True))
            ways[name] = [float(chosen(reward, n) @ right) for reward, right in pairs]
            even = np.array([float(chosen_evenly(reward, n) @ right) for reward, right in pairs])
            found[EVEN_TIES, str(n), name] = mean(even, unit, problems)
        if votes:
            trios = zip(pools, zip(*votes.values(), strict=True), correct, strict=True)
            rates = np.array([vote(groups(item), np.stack(weights), right, n) for item, weights, right in trios])
            ways |= {name: rates[:, i].tolist() for i, name in enumerate(votes)}
        found |= {(BEST_OF_N, str(n), way): mean(np.array(v), unit, problems) for way, v in ways.items()}
    return found


def aggregates(own: Aggregate) -> list[Aggregate]:
    """Every aggregate, with the judge's own alpha, kind of final reward and temperature."""
    return [Aggregate(name, own.alpha, own.final, own.temperature) for name in get_args(AggregateName)]


def sizes(pools: Sequence[Numbers]) -> list[int]:
    """1, 2, 4, ... up to the largest pool, and its size."""
    most = max((len(pool) for pool in pools), default=0)
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | ({most} if most else set()))


def chosen(rewards: Numbers, n: int) -> Numbers:
    """The probability of each candidate to be chosen among n that are drawn from its pool, the first among equals.

    The candidate at rank r, the best being at 0, is chosen where it is drawn and all others are of those behind it:
    C(m - 1 - r, n - 1) of C(m, n) subsets of m candidates.
    """
    m = len(rewards)
    probability = np.empty(m)
    probability[np.argsort(-rewards, kind="stable")] = _by_rank(m, min(n, m))
    return probability


def chosen_evenly(rewards: Numbers, n: int) -> Numbers:
    """As `chosen`, but of equals each is as likely."""
    probability = chosen(rewards, n)
    _, level, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    return (np.bincount(level.ravel(), probability) / counts)[level.ravel()]


def oracle(correct: Numbers, n: int) -> float:
    """The probability that one of n drawn candidates is right."""
    m, wrong = len(correct), int(len(correct) - correct.sum())
    return 1 - comb(wrong, min(n, m)) / comb(m, min(n, m))


def tied(rewards: Sequence[Numbers]) -> int:
    """The number of pools whose highest reward several candidates have."""
    return sum(int((reward == reward.max()).sum() > 1) for reward in rewards)


def groups(item: Item) -> NDArray[np.intp]:
    """For each candidate the number of its answer's group, in the order of first candidates; -1 without an answer."""
    index: dict[str, int] = {}
    answers = (one.answer for one in item.candidates)
    return np.array([-1 if a is None else index.setdefault(a.strip(), len(index)) for a in answers], np.intp)


def vote(group: NDArray[np.intp], weights: Numbers, correct: Numbers, n: int) -> Numbers:
    """How often the vote of n drawn candidates is right, for each way to weigh them.

    The heaviest group of one answer wins, of equals the one whose first candidate comes first; its candidate with the
    highest weight, the first among equals, is the choice. Without any answer nothing is right.

    Args:
        group: Of each candidate; -1 has no vote.
        weights: float64 [ways, num_candidates], of each candidate's vote, from 0 on.
        correct: Whether each is right.
        n: How many are drawn.
    """
    voting = _subsets(len(group), min(n, len(group))) & (group >= 0)
    members = [np.flatnonzero(group == g) for g in range(group.max(initial=-1) + 1)]
    if not members:
        return np.zeros(len(weights))
    drawn = [voting[:, some] for some in members]
    first = np.stack([np.where(d.any(1), s[d.argmax(1)], len(group)) for d, s in zip(drawn, members, strict=True)], 1)
    found = []
    for way in weights:
        heaviness = np.stack([d @ way[s] for d, s in zip(drawn, members, strict=True)], 1)
        heaviness = np.where(first < len(group), heaviness, -np.inf)
        heaviest = heaviness.max(1, keepdims=True)
        winner = np.where(heaviness >= heaviest - 1e-12 * np.abs(heaviest), first, len(group)).argmin(1)
        eligible = voting & (group == winner[:, None])
        choice = np.where(eligible, way, -np.inf).argmax(1)
        found.append(np.where(eligible.any(1), correct[choice], 0.0).mean())
    return np.array(found)


def _votes(pools: Sequence[Item], rewards: dict[str, list[Numbers]]) -> dict[str, list[Numbers]]:
    """The weights of votes by the vote's name; none where no candidate has an answer."""
    if not any(one.answer is not None for item in pools for one in item.candidates):
        return {}
    weighted = {
        f"weighted {name}": totals
        for name, totals in rewards.items()
        if all(bool((total >= 0).all()) for total in totals)
    }
    return {"majority": [np.ones(len(item.candidates)) for item in pools], **weighted}


@lru_cache(maxsize=256)
def _by_rank(m: int, n: int) -> Numbers:
    return np.array([comb(m - 1 - rank, n - 1) / comb(m, n) for rank in range(m)])


@lru_cache(maxsize=64)
def _subsets(m: int, n: int) -> NDArray[np.bool_]:
    """All subsets of n among m, or DRAWS that are drawn, always the same: bool [subsets, m]."""
    if comb(m, n) <= DRAWS:
        members = np.array(list(combinations(range(m), n)), np.intp)
    else:
        rng = np.random.default_rng(0)
        members = np.argsort(rng.random((DRAWS, m)), axis=1)[:, :n]
    drawn = np.zeros((len(members), m), np.bool_)
    np.put_along_axis(drawn, members, values=True, axis=1)
    return drawn
