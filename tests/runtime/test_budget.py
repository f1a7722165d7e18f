"""What a call takes in memory, told before it starts; test_memory.py compares it with a process."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import MemoryLimitError
from rfprm_lite.plan.budget import DEFAULT_PINNED_BYTES, RUN_BYTES, Footprint, ModelSizes, RunBudget

sizes = st.builds(ModelSizes, *[st.integers(1, 4096)] * 4, st.integers(0, 8))
budgets = st.builds(RunBudget, st.integers(1, 512), st.integers(1, 2**18))
LANES = 7
lengths, kept = st.integers(1, 2**17), st.integers(0, 2**30)


def footprint(sizes: ModelSizes, budget: RunBudget, limit: int | None = None, cache: int = 0) -> Footprint:
    return Footprint(sizes, max_lanes=LANES, cache_bytes=cache, limit=limit, budget=budget)


@given(sizes, budgets, lengths, st.integers(1, 7), kept)
def test_every_lane_has_its_keys_and_values_and_several_share_a_prefix(
    sizes: ModelSizes, budget: RunBudget, longest: int, lanes: int, cache: int
) -> None:
    told = footprint(sizes, budget, cache=cache)
    lane = (longest + sizes.spare_tokens) * sizes.token_bytes
    one, two = told.bytes(longest, 1), told.bytes(longest, 2)
    assert two - one == 2 * lane
    assert told.bytes(longest, lanes + 1) - two == (lanes - 1) * lane
    assert one - footprint(sizes, budget).bytes(longest, 1) == cache
    assert one > lane + cache
    assert told.lane_bytes(longest, lanes) == lanes * lane + sizes.token_bytes  # a token for lanes that idle


@given(sizes, budgets, lengths, lengths)
def test_it_grows_with_the_tokens_and_never_with_their_square(
    sizes: ModelSizes, budget: RunBudget, shorter: int, more: int
) -> None:
    told = footprint(sizes, budget)
    assert told.bytes(shorter, 1) < told.bytes(shorter + more, 1)
    assert told.bytes(2 * shorter, 1) <= 2 * told.bytes(shorter, 1)


@given(sizes, budgets, lengths)
def test_a_run_takes_what_its_layers_or_its_read_outs_take(sizes: ModelSizes, budget: RunBudget, longest: int) -> None:
    """The hidden states of a chunk; or 4 copies of the attention scores and of a layer's keys and values, in
    float32."""
    told = footprint(sizes, budget)
    attended = budget.most_scores(longest, LANES) * sizes.num_heads + longest * sizes.kv_size
    layers = budget.chunk_tokens * sizes.hidden_size * RUN_BYTES
    assert told.bytes(longest, 1) - told.lane_bytes(longest, 1) == max(layers, 4 * 4 * attended)


@given(sizes, budgets, lengths, st.integers(1, 2**36), st.integers(0, 2**30))
def test_the_most_lanes_that_keep_within_the_limit_beside_what_is_pinned(
    sizes: ModelSizes, budget: RunBudget, longest: int, limit: int, pinned: int
) -> None:
    told = footprint(sizes, budget, limit)
    if told.bytes(longest, 1) > limit:
        with pytest.raises(MemoryLimitError) as caught:
            told.admit(longest, pinned, LANES)
        assert caught.value.needed == told.bytes(longest, 1)
        assert caught.value.limit == limit
        return
    lanes, stays = told.admit(longest, pinned, LANES)
    assert told.bytes(longest, lanes) + stays <= limit
    assert lanes == LANES or told.bytes(longest, lanes + 1) + stays > limit
    assert (
        stays == limit - told.bytes(longest, lanes) >= min(pinned, limit - told.bytes(longest, 1))
    )  # one lane goes before pins
    assert told.room(longest, lanes) == stays
    for most in range(1, LANES + 1):
        assert told.admit(longest, pinned, most)[0] == min(lanes, most)


@given(sizes, budgets, lengths, st.integers(1, LANES))
def test_just_enough_is_enough(sizes: ModelSizes, budget: RunBudget, longest: int, lanes: int) -> None:
    enough = footprint(sizes, budget).bytes(longest, lanes)
    assert footprint(sizes, budget, enough).lanes(longest) == lanes
    assert footprint(sizes, budget, enough + 1).admit(longest, 1, LANES) == (lanes, 1)
    with pytest.raises(MemoryLimitError):
        footprint(sizes, budget, footprint(sizes, budget).bytes(longest, 1) - 1).lanes(longest)
    assert footprint(sizes, budget).admit(longest, 2**40, LANES) == (LANES, DEFAULT_PINNED_BYTES)


@given(sizes, budgets, lengths, st.integers(1, 2**36), st.integers(0, 2**36))
def test_what_a_call_may_pin_is_half_of_the_limit_and_fits_beside_the_call(
    sizes: ModelSizes, budget: RunBudget, longest: int, limit: int, more: int
) -> None:
    told = footprint(sizes, budget, limit)
    assert told.may_pin(longest, more) == (2 * more <= limit and told.bytes(longest, 1) + more <= limit)
    assert footprint(sizes, budget).may_pin(longest, more) == (more <= DEFAULT_PINNED_BYTES)
    needed = told.bytes(longest, 1)
    assert not footprint(sizes, budget, 2 * needed - 2).may_pin(longest, needed - 1)  # half of it, and one too many
    for times in (2, 3, 4):  # from 3 on, half of the limit is less than what is left beside the call
        assert footprint(sizes, budget, times * needed).may_pin(longest, times * needed // 2)
        assert not footprint(sizes, budget, times * needed).may_pin(longest, times * needed // 2 + 1)


def test_by_default_a_run_has_256_tokens_and_the_scores_of_64_read_outs_of_4096() -> None:
    assert RunBudget() == RunBudget(chunk_tokens=256, read_scores=64 * 4096, least_readouts=1)


def test_beside_an_unlimited_model_two_gigabytes_may_be_pinned() -> None:
    assert footprint(ModelSizes(1, 1, 1, 1, 1), RunBudget()).pin_capacity == DEFAULT_PINNED_BYTES == 2 * 1024**3


@given(st.builds(RunBudget, *[st.integers(1, 64)] * 3), st.integers(0, 99), lengths)
def test_a_few_read_outs_count_as_the_least_that_a_run_computes(budget: RunBudget, readouts: int, tokens: int) -> None:
    assert budget.scores(0, tokens) == 0
    assert budget.scores(readouts, tokens) == (tokens * max(readouts, budget.least_readouts) if readouts else 0)


@given(st.builds(RunBudget, st.integers(1, 6), st.integers(1, 300), st.integers(1, 5)), st.integers(1, 3), lengths)
def test_no_way_to_fill_a_run_takes_more_scores(budget: RunBudget, lanes: int, tokens: int) -> None:
    ways = itertools.product(range(budget.chunk_tokens + 1), repeat=lanes)
    most = max(sum(budget.scores(n, tokens) for n in way) for way in ways if sum(way) <= budget.chunk_tokens)
    one = tokens * budget.least_readouts
    for limit in (1, one, most // 2, most, most + 1):
        limited = replace(budget, read_scores=limit)
        assert limited.most_scores(tokens, lanes) == max(one, min(limit, most))
