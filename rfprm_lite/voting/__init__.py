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
    """A way to find answers and to compare them."""

    def find(self, candidate: str) -> str | None:
        """A candidate's final answer; None where it gives none."""

    def same(self, candidate: str, other: str) -> bool:
        """Whether the answers of two candidates mean the same; both give one."""


@dataclass(frozen=True, slots=True)
class Group:
    """The candidates that give the same answer.

    Attributes:
        answer: The answer as the first of them writes it.
        candidates: Their indices.
        weight: The sum of their rewards.
    """

    answer: str
    candidates: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """The result of a vote.

    Attributes:
        groups: The heaviest first, of equal weights the one that came first.
        index: The candidate with the highest reward in the heaviest group, the first among equals.
        unanswered: Indices of candidates that give no answer, and have no vote.
    """

    groups: tuple[Group, ...]
    index: int
    unanswered: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The answer of the heaviest group."""
        return self.groups[0].answer


def weighted_majority(candidates: Sequence[str], rewards: Sequence[float], *, answers: Answers | None = None) -> Vote:
    """Vote for the answer whose candidates' rewards add up to most.

    Args:
        candidates: Responses to one problem.
        rewards: One a candidate, finite and from 0 on, such as `[score.reward for score in best.scores]` of an
            exhaustive `PRM.best_of_n`; equal ones make it plain majority voting (self-consistency).
        answers: How they are found and compared; None for `MathAnswers`, in a process that is started for this call.

    Raises:
        InputError: If no candidate gives an answer, or if the rewards are not weights of the candidates.
        MissingExtraError: If math-verify is needed and not installed.
        EngineError: If math-verify does not start.
    """
    weights = np.asarray(rewards, np.float64)
    if weights.shape != (len(candidates),) or not len(candidates):
        raise InputError(f"{len(candidates)} candidates and rewards of shape {list(weights.shape)}: one each is needed")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"rewards are weights, finite and from 0 on, not {weights.min()} to {weights.max()}")
    with MathAnswers() if answers is None else nullcontext(answers) as finder:
        texts = [finder.find(candidate) for candidate in candidates]
        members = _grouped(candidates, texts, finder)
    if not members:
        raise InputError(f"none of {len(candidates)} candidates gives an answer that can be found: give `answers`")
    groups = [Group(str(texts[some[0]]), tuple(some), float(weights[some].sum())) for some in members]
    groups.sort(key=lambda group: -group.weight)  # stable: of equal ones the first
    index = max(groups[0].candidates, key=lambda i: (weights[i], -i))
    return Vote(tuple(groups), index, tuple(i for i, text in enumerate(texts) if text is None))


def _grouped(candidates: Sequence[str], texts: Sequence[str | None], answers: Answers) -> list[list[int]]:
    """The indices of candidates with an answer, those of the same answer together."""
    groups: list[list[int]] = []
    for i, text in enumerate(texts):
        if text is None:
            continue
        written = (group for group in groups if texts[group[0]] == text)
        meant = (group for group in groups if answers.same(candidates[group[0]], candidates[i]))
        group = next(chain(written, meant), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups
