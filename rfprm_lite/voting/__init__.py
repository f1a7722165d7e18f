"""Weighted majority voting: the final answer that candidates agree on, each with the weight of its reward.

In: candidates and their rewards. Out: the answers, grouped by meaning, and the best candidate of the heaviest group.
This is the "weighted best-of-N" of arXiv 2408.03314 (section 5.1), with a PRM's reward as the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from rfprm_lite.errors import InputError
from rfprm_lite.voting.answers import MathAnswers


class Answers(Protocol):
    """How answers are found and compared."""

    def find(self, candidate: str) -> str | None:
        """A candidate's final answer; None where it gives none."""

    def same(self, candidate: str, other: str) -> bool:
        """Whether the answers of two candidates that give one mean the same."""


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that give the same answer. answer: as the first of them writes it. candidates: their indices. weight:
    the sum of their rewards."""

    answer: str
    candidates: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """groups: heaviest first, of equal weights the first. index: the candidate with the highest reward in the heaviest
    group, the first among equals. unanswered: candidates that give no answer, and have no vote."""

    groups: tuple[Group, ...]
    index: int
    unanswered: tuple[int, ...]

    @property
    def answer(self) -> str:
        """Of the heaviest group."""
        return self.groups[0].answer


def weighted_majority(candidates: Sequence[str], rewards: Sequence[float], *, answers: Answers | None = None) -> Vote:
    """The answer whose candidates' rewards add up to most.

    rewards: one a candidate, finite and from 0 on, such as `[score.reward for score in best.scores]` of an exhaustive
        `PRM.best_of_n`; equal ones make it plain majority voting (self-consistency).
    answers: how they are found and compared; None for `MathAnswers`, in a process that is started for this call.

    Raises InputError where no candidate gives an answer, and MissingExtraError where math-verify is needed and missing.
    """
    weights = np.asarray(rewards, np.float64)
    if weights.shape != (len(candidates),) or not len(candidates):
        raise InputError(f"{len(candidates)} candidates and rewards of shape {list(weights.shape)}: one each is needed")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"rewards are weights, finite and from 0 on, not {weights.min()} to {weights.max()}")
    with MathAnswers() if answers is None else nullcontext(answers) as how:
        found = [how.find(candidate) for candidate in candidates]
        groups = _grouped(candidates, found, how)
    if not groups:
        raise InputError(f"none of {len(candidates)} candidates gives an answer that can be found: give `answers`")
    made = [Group(str(found[own[0]]), tuple(own), float(weights[own].sum())) for own in groups]
    made.sort(key=lambda group: -group.weight)  # stable: of equal ones the first
    index = max(made[0].candidates, key=lambda i: (weights[i], -i))
    return Vote(tuple(made), index, tuple(i for i, answer in enumerate(found) if answer is None))


def _grouped(candidates: Sequence[str], found: Sequence[str | None], answers: Answers) -> list[list[int]]:
    """Indices of candidates with an answer, those of the same answer together."""
    groups: list[list[int]] = []
    for i, answer in enumerate(found):
        if answer is None:
            continue
        written = (group for group in groups if found[group[0]] == answer)
        meant = (group for group in groups if answers.same(candidates[group[0]], candidates[i]))
        group = next(chain(written, meant), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups
