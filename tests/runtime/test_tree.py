"""The prefix plan: right for arbitrary token lists, and not a token computed twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeEngine, expected_rewards, score_sequences
from rfprm_lite.plan.budget import RunBudget
from rfprm_lite.plan.packing import Packing
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.plan.tree import plan

# Few different tokens, so that sequences share prefixes, are prefixes of each other and repeat.
Sequences = list[tuple[list[int], list[int]]]


@st.composite
def sequences(draw: st.DrawFn) -> Sequences:
    found: Sequences = []
    for _ in range(draw(st.integers(0, 8))):
        stem = draw(st.sampled_from([[], *[ids for ids, _ in found]]))
        ids = stem[: draw(st.integers(0, len(stem)))] + draw(st.lists(st.integers(0, 2), min_size=1, max_size=12))
        read_at = sorted(draw(st.sets(st.integers(0, len(ids) - 1), min_size=1)))
        found.append((ids, read_at))
    return found


def token_sequences(cases: Sequences) -> list[TokenSequence]:
    return [TokenSequence(np.array(ids, np.int64), np.array(read_at, np.int64)) for ids, read_at in cases]


def distinct_prefixes(cases: Sequences) -> int:
    return len({tuple(ids[: n + 1]) for ids, _ in cases for n in range(len(ids))})


@given(sequences(), st.integers(1, 7), st.integers(1, 30), st.integers(1, 4))
def test_rewards_are_those_without_reuse_and_each_prefix_is_computed_once(
    cases: Sequences, chunk_tokens: int, read_scores: int, lanes: int
) -> None:
    engine = FakeEngine(lanes)
    budget = RunBudget(chunk_tokens, read_scores)
    results = score_sequences(engine, token_sequences(cases), budget=budget)
    for (ids, read_at), result in zip(cases, results, strict=True):
        assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()
    assert engine.computed == distinct_prefixes(cases) == sum(result.computed for result in results)
    assert all(sum(run) <= chunk_tokens for run in engine.runs)


@given(sequences())
def test_the_plan_reads_each_wanted_position_once(cases: Sequences) -> None:
    made = plan(token_sequences(cases))
    wanted = {tuple(ids[: read + 1]) for ids, read_at in cases for read in read_at}
    assert sum(len(segment.read_at) for segment in made.segments) == len(wanted)
    assert made.capacity == max((len(ids) for ids, _ in cases), default=0)


@given(sequences())
def test_a_segment_goes_on_where_its_parent_is(cases: Sequences) -> None:
    made = plan(token_sequences(cases))
    for i, segment in enumerate(made.segments):
        assert segment.start < segment.end
        if segment.parent is None:
            assert segment.start == 0
            continue
        parent = made.segments[segment.parent]
        assert segment.parent < i
        assert parent.start < segment.start <= parent.end
        before = cases[parent.sequence][0][: segment.start]
        assert before == cases[segment.sequence][0][: segment.start]


@given(sequences(), st.randoms())
def test_the_order_of_the_input_changes_nothing(cases: Sequences, random: np.random.RandomState) -> None:
    order = list(range(len(cases)))
    random.shuffle(order)
    straight = score_sequences(FakeEngine(), token_sequences(cases))
    shuffled = score_sequences(FakeEngine(), token_sequences([cases[i] for i in order]))
    for position, i in enumerate(order):
        assert shuffled[position].rewards.tolist() == straight[i].rewards.tolist()


def test_a_reward_inside_a_shared_prefix_is_read_when_the_prefix_is_computed() -> None:
    # Only the second sequence wants position 1, which the first one computes.
    results = score_sequences(engine := FakeEngine(), token_sequences([([5, 6, 7], [2]), ([5, 6, 8], [1, 2])]))
    assert results[1].rewards.tolist() == np.array(expected_rewards([5, 6, 8], [1, 2]), np.float32).tolist()
    assert engine.runs == [[3], [1]]


def test_best_of_n_computes_the_prompt_once() -> None:
    prompt = list(range(100))
    cases = [([*prompt, 200 + i, 300], [100, 101]) for i in range(16)]
    score_sequences(engine := FakeEngine(), token_sequences(cases))
    assert engine.computed == 100 + 16 * 2


def test_short_segments_share_runs_and_long_ones_do_not() -> None:
    prompt = list(range(100))
    short = [([*prompt, *[200 + i] * 20], [119]) for i in range(8)]
    score_sequences(engine := FakeEngine(4), token_sequences(short))
    assert engine.runs == [[120], [20, 20, 20, 20], [20, 20, 20]]
    long = [([*prompt, *[200 + i] * 512], [611]) for i in range(2)]
    score_sequences(engine := FakeEngine(4), token_sequences(long))
    assert engine.runs == [[256], [256], [100, 156], [256], [100]]


def test_a_lane_is_the_least_that_a_call_needs() -> None:
    prompt = list(range(10))
    cases = [([*prompt, 200 + i], [10]) for i in range(5)]
    for lanes in (1, 2, 9):
        engine = FakeEngine(4)
        results = score_sequences(engine, token_sequences(cases), lanes=lanes)
        assert max(map(len, engine.runs)) == min(lanes, 4)
        assert [r.rewards.tolist() for r in results] == [
            np.array(expected_rewards(*case), np.float32).tolist() for case in cases
        ]


def test_a_long_past_is_copied_into_other_lanes_only_where_that_saves_runs() -> None:
    prompt = list(range(1000))

    def lanes_used(candidates: int, run_tokens: float) -> int:
        cases = [([*prompt, 2000 + i, 3000], [1001]) for i in range(candidates)]
        engine = FakeEngine(4)
        results = score_sequences(engine, token_sequences(cases), packing=Packing(run_tokens))
        assert [r.rewards.tolist() for r in results] == [
            np.array(expected_rewards(*case), np.float32).tolist() for case in cases
        ]
        return max(map(len, engine.runs))

    assert lanes_used(5, 2000) == 4  # copying takes half as long as a run
    assert lanes_used(5, 100) == 1  # ten times as long
    assert lanes_used(60, 100) == 4  # and serves fifteen runs


@given(sequences(), st.integers(1, 4), st.floats(0, 30))
def test_packing_changes_no_reward(cases: Sequences, lanes: int, run_tokens: float) -> None:
    engine = FakeEngine(lanes)
    results = score_sequences(engine, token_sequences(cases), packing=Packing(run_tokens))
    for (ids, read_at), result in zip(cases, results, strict=True):
        assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()
    assert engine.computed == distinct_prefixes(cases)
