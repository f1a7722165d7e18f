"""Agreement of two models on pools: laws of Kendall's tau, and what counts as the same choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite.evaluate import agreement

REWARDS = st.lists(st.integers(0, 20), min_size=2, max_size=12).map(np.array)


@given(REWARDS)
def test_tau_of_the_same_and_of_the_opposite_order(rewards: np.ndarray) -> None:
    same = agreement.tau([(rewards, rewards * 3 + 1)])
    if len(set(rewards.tolist())) == 1:
        assert same is None
    else:
        assert same == pytest.approx(1)
        assert agreement.tau([(rewards, -rewards)]) == pytest.approx(-1)


def test_tau_of_a_known_example() -> None:
    """Five of six pairs in the same order."""
    assert agreement.tau([(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3]))]) == pytest.approx(4 / 6)


def test_the_same_choice_and_near_ties() -> None:
    best_first, near, other = np.array([0.9, 0.1]), np.array([0.9, 0.8995]), np.array([0.2, 0.3])
    assert agreement.same_choice([(best_first, other), (near, other)]) == 0.5
    assert agreement.same_choice([]) is agreement.tau([]) is None
