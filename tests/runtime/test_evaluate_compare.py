"""Two judges: paired differences, where they part, and how often pairs are swapped."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import labelled, pools
from rfprm_lite import InputError
from rfprm_lite.evaluate import Report, Result, agreement, compare

RIGHT = [[(True, 0.9), (False, 0.2)], [(True, 0.8), (False, 0.7)], [(False, 0.3), (True, 0.6)]]


def test_a_judge_against_itself() -> None:
    found = compare(Result(pools(RIGHT)), Result(pools(RIGHT)))
    assert (found.tau, found.same_choice, list(found.parted)) == (1, 1, [])
    assert found.rewards is not None
    assert found.rewards.largest == 0
    for one in found.differences.values():
        assert (one.value, one.low, one.high) == (0, 0, 0)
    assert found.sentence == "pools: judge costs 0.0 ± 0.0 points of best of 2 by mean against judge."


def test_where_they_part() -> None:
    other = [[(True, 0.9), (False, 0.2)], [(True, 0.6), (False, 0.7)], [(False, 0.3), (True, 0.6)]]
    found = compare(Result(pools(other, "int8")), Result(pools(RIGHT, "fp32")))
    assert [(one.row, one.one, one.other) for one in found.parted] == [(2, 1, 0)]
    assert found.same_choice == pytest.approx(2 / 3)
    assert found.tau == pytest.approx(1 / 3)
    difference = found.differences["best_of_n", "2", "mean"]
    assert difference.value == pytest.approx(-1 / 3)
    assert found.sentence.startswith("pools: int8 costs 33.3 ± ")
    assert found.to_dict()["differences"]["best_of_n"]["2"]["mean"] == pytest.approx(-1 / 3)
    back = compare(Result(pools(RIGHT, "fp32")), Result(pools(other, "int8")))
    assert back.sentence.startswith("pools: fp32 gains 33.3 ± ")


def test_first_errors_that_differ() -> None:
    one = labelled("processbench", [([True, False], [0.9, 0.2]), ([True], [0.9])])
    other = labelled("processbench", [([True, False], [0.4, 0.2]), ([True], [0.8])])
    found = compare(Result(one), Result(other))
    assert [(parted.row, parted.one, parted.other) for parted in found.parted] == [(1, 1, 0)]
    assert found.rewards is not None
    assert found.rewards.largest == pytest.approx(0.5)
    assert found.rewards.mean == pytest.approx(0.2)
    assert found.tau is None


def test_only_what_both_judged_is_compared() -> None:
    fewer = pools(RIGHT).only({1, 3})
    found = compare(Result(fewer), Result(pools(RIGHT)))
    assert found.rows == 2
    with pytest.raises(InputError, match="no items in common"):
        compare(Result(pools(RIGHT, name="a")), Result(pools(RIGHT, name="b")))


def test_a_paired_interval_is_narrower_than_two() -> None:
    """Two judges that err on the same problems: each is unsure, their difference is not."""
    rng = np.random.default_rng(0)
    hits = rng.random(200) < 0.5
    one = pools([[(bool(hit), 0.9), (not hit, 0.1)] for hit in hits])
    found = compare(Result(one), Result(one))
    assert found.differences["best_of_n", "2", "mean"].half_width == 0
    assert (Result(one).numbers["best_of_n", "2", "mean"].half_width or 0) > 0.05


POOL = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=7)


@given(st.lists(POOL, min_size=1, max_size=4))
def test_swaps_pair_by_pair(given_pools: list[list[tuple[int, int]]]) -> None:
    pairs = []
    for pool in given_pools:
        for (a, x), (b, y) in combinations(pool, 2):
            if a != b:
                pairs.append((abs(a - b), 0.5 if x == y else float((a < b) != (x < y))))
    found = agreement.swaps([(np.array([a for a, _ in p]), np.array([x for _, x in p])) for p in given_pools])
    assert sum(one.pairs for one in found) == len(pairs)
    assert sum(one.pairs * one.swapped for one in found) == pytest.approx(sum(swapped for _, swapped in pairs))
    edges = [edge for one in found for edge in (one.nearest, one.farthest)]
    assert edges == sorted(edges)


def test_differences() -> None:
    found = agreement.Differences.of(np.array([-0.5, 0.1, 0.0, 0.2]))
    assert found.mean == pytest.approx(0.2)
    assert (found.largest, found.rewards) == (0.5, 4)
    assert found.p99 == pytest.approx(0.2 + 0.97 * 0.3)  # numpy's linear quantile of four values


def test_names_are_no_markup_of_a_card() -> None:
    """The name of a judge comes with its bundle, that of a set is a file's: strangers gave both."""
    name = "a|b\\|c <img src=x>\n\n# [d](http://x) `e`\u202e &lt;"
    one, other = (Result(pools(RIGHT, judge, name)) for judge in (name, "fp32"))
    text = Report((one,), {"fp32": (other,)}).markdown()
    assert r"a\|b\\\|c \<img src=x\> # \[d\](http://x) \`e\`\\x202e \&lt;" in text
    assert not re.search(r"(?<!\\)[<\[`]", text)
    assert len(re.findall(r"^#", text, re.MULTILINE)) == 3
    (table,) = {line for line in text.splitlines() if line.startswith("| judges")}
    rows = [line for line in text.splitlines() if "against" in line and line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in (table, *rows)} == {9}
