"""Small sets for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rfprm_lite.evaluate import Candidate, Item, Items, Judged
from rfprm_lite.evaluate.items import Kind, Label

Trace = tuple[Sequence[Label], Sequence[float]]
"""The labels and the rewards of its steps."""


def labelled(kind: Kind, traces: Iterable[Trace], groups: Sequence[str] = (), name: str = "set") -> Judged:
    """A set of traces, one a problem, with their rewards."""
    items, rewards = [], []
    for row, (labels, steps) in enumerate(traces, start=1):
        texts = tuple(f"step {i}" for i in range(len(labels)))
        group = groups[row - 1] if groups else ""
        items.append(Item(row, f"problem {row}", (Candidate(texts, tuple(labels)),), group))
        rewards.append((np.array(steps, float),))
    finals = tuple((float(steps[-1]),) for (steps,) in rewards)
    return Judged("judge", Items(name, kind, tuple(items)), tuple(rewards), finals)


def pools(candidates: Iterable[Sequence[tuple[bool, float]]], judge: str = "judge", name: str = "pools") -> Judged:
    """A set of pools: of each candidate whether it is right, and the reward of its only step."""
    items, rewards = [], []
    for row, some in enumerate(candidates, start=1):
        texts = [Candidate((f"candidate {i}",), correct=right) for i, (right, _) in enumerate(some)]
        items.append(Item(row, f"problem {row}", tuple(texts)))
        rewards.append(tuple(np.array([reward]) for _, reward in some))
    finals = tuple(tuple(float(steps[-1]) for steps in some) for some in rewards)
    return Judged(judge, Items(name, "pools", tuple(items)), tuple(rewards), finals)
