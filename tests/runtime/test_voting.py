"""Weighted majority voting over answers that are equal as mathematics."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import PRM, InputError
from rfprm_lite.errors import EngineError
from rfprm_lite.voting import weighted_majority, worker
from rfprm_lite.voting.answers import MathAnswers


@pytest.fixture(scope="module")
def mathematics() -> Iterator[MathAnswers]:
    pytest.importorskip("math_verify")
    with MathAnswers(seconds=2.0) as answers:
        yield answers


def test_the_answer_with_most_reward_wins(mathematics: MathAnswers) -> None:
    candidates = [r"So it is \boxed{\frac{1}{2}}.", "The answer is 0.5", "The answer is 3.", "I do not know."]
    vote = weighted_majority(candidates, [0.4, 0.5, 0.8, 0.9], answers=mathematics)
    assert [group.candidates for group in vote.groups] == [(0, 1), (2,)]
    assert vote.groups[0].weight == pytest.approx(0.9)
    assert (vote.index, vote.answer, vote.unanswered) == (1, r"\frac{1}{2}", (3,))
    assert weighted_majority(candidates[1:3], [0.5, 0.8], answers=mathematics).answer == "3"


@pytest.mark.needs("math_verify")
def test_with_the_rewards_of_a_prm(prm: PRM) -> None:
    problem = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
    candidates = [f"Tom now has 12 + 5 = {n} apples.\n\nThe answer is {n}." for n in (27, 17, 27, 17, 15)]
    best = prm.best_of_n(problem, candidates, exhaustive=True)
    vote = weighted_majority(candidates, [score.reward for score in best.scores])
    assert vote.answer == "17"
    assert vote.index == best.index


@pytest.mark.parametrize("hostile", [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{10^{10^{10}}!}"])
def test_a_hostile_answer_costs_its_own_vote_alone(mathematics: MathAnswers, hostile: str) -> None:
    started = time.monotonic()
    candidates = [hostile, "The answer is 4.", "It is 2 + 2 = 4", "So 8/2", r"\boxed{4.0}", "The answer is 5."]
    vote = weighted_majority(candidates, [9.0, *[0.3] * 5], answers=mathematics)
    assert [group.candidates for group in vote.groups] == [(1, 2, 3, 4), (5,)]
    assert vote.unanswered == (0,)
    assert time.monotonic() - started < 20  # 2 seconds, and a process that starts again


@pytest.mark.needs("math_verify")
def test_a_process_that_does_not_start_is_no_vote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with MathAnswers() as answers:
        assert answers.find("The answer is 4.") == "4"  # no module of the current folder is loaded
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with MathAnswers() as answers, pytest.raises(EngineError, match="broken"):
        answers.find("The answer is 4.")


class Letters:
    """The last letter, upper and lower case alike."""

    def find(self, candidate: str) -> str | None:
        return candidate[-1:] or None

    def same(self, candidate: str, other: str) -> bool:
        return candidate[-1:].lower() == other[-1:].lower()


@given(st.lists(st.tuples(st.text("abAB", max_size=3), st.integers(0, 8)), min_size=1, max_size=12))
def test_every_vote_counts_once(cast: list[tuple[str, int]]) -> None:
    candidates, rewards = [text for text, _ in cast], [eighths / 8 for _, eighths in cast]
    if not any(candidates):
        with pytest.raises(InputError, match="answer"):
            weighted_majority(candidates, rewards, answers=Letters())
        return
    vote = weighted_majority(candidates, rewards, answers=Letters())
    assert sorted([i for group in vote.groups for i in group.candidates] + [*vote.unanswered]) == [*range(len(cast))]
    weights = [sum(rewards[i] for i in group.candidates) for group in vote.groups]
    assert weights == [group.weight for group in vote.groups] == sorted(weights, reverse=True)
    assert vote.index in vote.groups[0].candidates
    assert rewards[vote.index] == max(rewards[i] for i in vote.groups[0].candidates)


@pytest.mark.parametrize("rewards", [[1.0], [1.0, -0.1], [float("nan"), 1.0], [[1.0, 1.0]]])
def test_rewards_are_weights(rewards: list[float]) -> None:
    with pytest.raises(InputError, match="rewards"):
        weighted_majority(["a", "b"], rewards, answers=Letters())


def test_a_system_without_limits_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*limits: object) -> None:
        raise ValueError("current limit exceeds maximum limit")  # as macOS says it

    monkeypatch.setattr("resource.setrlimit", refuse)
    worker._limit_memory()
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has no such module
    worker._limit_memory()
