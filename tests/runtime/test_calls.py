"""The calls of a PRM end to end, on the bundled demo model."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coins import BAD, GOOD, LONG, PROBLEM, all_of, of
from rfprm_lite import PRM, Aggregate, CustomAggregate, InputError, Score, Trace, Unfinished
from rfprm_lite.aggregate import AggregateName
from rfprm_lite.errors import InputTypeError, NumericalError
from rfprm_lite.scoring import batches

# --- best-of-N --------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from([*GOOD, *BAD]), min_size=1, max_size=6), min_size=1, max_size=8),
    st.sampled_from(["mean+final", "mean", "min", "product", "last"]),
    st.sampled_from([0, 2**16, 2**28]),
)
def test_lazy_and_exhaustive_choose_alike_to_the_last_bit(
    candidates: list[list[str]], name: AggregateName, keep: int
) -> None:
    prm = PRMS.setdefault(keep, PRM.from_pretrained("demo", threads=2, cache_bytes=keep))
    prm.clear_cache()
    lazy = prm.best_of_n(PROBLEM, all_of(candidates), aggregate=name)
    prm.clear_cache()
    full = prm.best_of_n(PROBLEM, all_of(candidates), aggregate=name, exhaustive=True)
    assert lazy.index == full.index
    assert lazy.score.step_rewards.tolist() == full.score.step_rewards.tolist()
    assert lazy.tokens.total == full.tokens.total == lazy.tokens.computed + lazy.tokens.reused + lazy.tokens.skipped
    assert lazy.tokens.computed <= full.tokens.computed
    assert all(full.complete)
    for found, exact in zip(lazy.scores, full.scores, strict=True):
        assert isinstance(exact, Score)
        assert found.step_rewards.tolist() == exact.step_rewards[: len(found.step_rewards)].tolist()
        if isinstance(found, Unfinished):
            assert found.lowest <= exact.reward <= found.highest <= lazy.score.reward


PRMS: dict[int, PRM] = {}


def test_what_cant_win_is_not_read_to_its_end(demo: PRM) -> None:
    best = demo.best_of_n(PROBLEM, all_of([BAD * 5, GOOD, BAD * 5]), aggregate="min")
    assert best.index == 1
    assert best.complete == (False, True, False)
    assert best.tokens.skipped > 0
    lost = best.scores[0]
    assert isinstance(lost, Unfinished)
    assert lost.highest < best.score.reward
    assert lost.to_dict()["bounds"] == [lost.lowest, lost.highest]


def test_top_k_ranks(demo: PRM) -> None:
    candidates = [BAD, GOOD, GOOD[:1], BAD[:2], GOOD]
    full = [s.reward for s in demo.score_many([(PROBLEM, of(c)) for c in candidates], aggregate="min")]
    for k in range(1, 7):
        best = demo.top_k(PROBLEM, all_of(candidates), k, aggregate="min")
        assert list(best.ranking) == sorted(range(5), key=lambda i: (-full[i], i))[:k]
        assert [score.reward for score in best.ranked] == [full[i] for i in best.ranking]
        demo.clear_cache()
    with pytest.raises(InputError, match="k=0"):
        demo.top_k(PROBLEM, all_of(candidates), 0)


# --- the cache across calls -------------------------------------------------------------------------------------------


def test_a_second_call_starts_where_the_last_one_ended(demo: PRM, prm: PRM) -> None:
    first = demo.score(PROBLEM, steps=GOOD)
    assert first.tokens.reused == 0
    again = demo.score(PROBLEM, steps=[*GOOD, "Done."])
    assert again.tokens.reused == first.tokens.total
    assert again.step_rewards[:3].tolist() == first.step_rewards.tolist()
    demo.clear_cache()
    assert demo.score(PROBLEM, steps=GOOD).tokens.reused == 0
    for _ in range(2):
        score = prm.score(PROBLEM, steps=GOOD)
        assert score.tokens.reused == 0
        assert score.step_rewards.tolist() == first.step_rewards.tolist()


def test_best_of_n_takes_from_the_cache_and_gives_to_it(demo: PRM) -> None:
    first = demo.best_of_n(PROBLEM, all_of([BAD, GOOD]))
    assert first.tokens.reused < first.tokens.total
    again = demo.best_of_n(PROBLEM, all_of([BAD, GOOD]))
    assert again.tokens.computed == 0
    assert again.score.step_rewards.tolist() == first.score.step_rewards.tolist()
    assert demo.score(PROBLEM, steps=GOOD).tokens.computed == 0


# --- traces that grow -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["last", "response"])
def test_a_growing_trace_gives_what_the_whole_one_gives(demo: PRM, prm: PRM, final: str) -> None:
    how = Aggregate("mean+final", 0.7, final)  # type: ignore[arg-type]
    trace = demo.live(PROBLEM, aggregate=how)
    rewards = [trace.append(step, thinking=i == 0) for i, step in enumerate(GOOD)]
    grown = trace.score()
    whole = prm.score(PROBLEM, Trace.from_steps(GOOD, thinking=1), aggregate=how)
    assert rewards == list(trace.step_rewards) == whole.step_rewards.tolist() == grown.step_rewards.tolist()
    assert grown.reward == whole.reward
    assert trace.steps == tuple(GOOD)
    assert grown.tokens.computed == whole.tokens.computed


def test_a_step_costs_its_own_tokens(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    for step in LONG:
        trace.append(step)
    score = trace.score()
    assert score.tokens.computed == score.tokens.total
    rescored = sum(demo.score(PROBLEM, steps=LONG[:n]).tokens.total for n in range(1, len(LONG) + 1))
    assert rescored > 8 * score.tokens.computed


def test_forks_share_their_past_and_nothing_else(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    trace.append(GOOD[0])
    one, two = trace.fork(), trace.fork()
    one.append(GOOD[1])
    two.append("6 are lost.")
    assert (trace.steps, one.steps, two.steps) == ((GOOD[0],), (GOOD[0], GOOD[1]), (GOOD[0], "6 are lost."))
    own = two.score().tokens
    assert own.computed == own.total  # its past included, which was computed once
    whole = demo.score(PROBLEM, steps=[GOOD[0], "6 are lost."])
    assert two.step_rewards == tuple(whole.step_rewards.tolist())


def test_a_trace_refuses_what_is_no_step_and_stays_as_it_was(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    with pytest.raises(InputError, match="no step"):
        trace.score()
    trace.append(GOOD[0])
    for wrong in ("", "  "):
        with pytest.raises(InputError, match="step 1"):
            trace.append(wrong)
    with pytest.raises(InputTypeError):
        trace.append(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="response"):
        trace.append("a thought", thinking=True)
    assert trace.steps == (GOOD[0],)
    trace.append(GOOD[1])
    assert trace.score().step_rewards.shape == (2,)


def test_a_trace_lives_without_the_cache_too() -> None:
    prm = PRM.from_pretrained("demo", threads=2, cache_bytes=0)
    trace = prm.live(PROBLEM)
    for step in LONG[:20]:
        trace.append(step)
    assert trace.score().tokens.reused == 0
    assert trace.score().step_rewards.tolist() == prm.score(PROBLEM, steps=LONG[:20]).step_rewards.tolist()


# --- many responses ---------------------------------------------------------------------------------------------------


def test_any_number_of_responses_one_after_another(demo: PRM) -> None:
    taken = itertools.count()
    endless = ((PROBLEM, of([GOOD[n % 3]])) for n in taken)
    scores = demo.score_iter(endless)
    expected = [demo.score(PROBLEM, steps=[step]).reward for step in GOOD]
    assert [next(scores).reward for _ in range(7)] == (expected * 3)[:7]
    assert next(taken) <= 1 + batches.WINDOW


def test_errors_in_their_places(demo: PRM) -> None:
    pairs = [(PROBLEM, of(GOOD)), (PROBLEM, ""), ("", of(GOOD)), (PROBLEM, of(BAD)), (PROBLEM, None)]
    found = demo.score_many(pairs, on_error="return")  # type: ignore[call-overload]
    assert [type(result) for result in found] == [Score, InputError, InputError, Score, InputTypeError]
    scores = demo.score_iter(pairs)  # type: ignore[arg-type]
    assert next(scores).step_rewards.tolist() == demo.score(PROBLEM, steps=GOOD).step_rewards.tolist()
    with pytest.raises(InputError, match="no step") as caught:
        next(scores)
    assert caught.value.__notes__ == ["in response 1 of this call"]
    with pytest.raises(InputError, match="on_error='skip'"):
        demo.score_many([], on_error="skip")  # type: ignore[call-overload]


def test_a_failure_while_running_is_its_own_alone(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = type(demo._scorer._engine).prefill

    def failing(engine, lanes, chunks, cancel):  # type: ignore[no-untyped-def]
        if any(len(chunk.ids) > 250 for chunk in chunks):
            raise NumericalError("no number")
        return prefill(engine, lanes, chunks, cancel)

    monkeypatch.setattr(type(demo._scorer._engine), "prefill", failing)
    found = demo.score_many([(PROBLEM, of(GOOD)), (PROBLEM, of(LONG)), (PROBLEM, of(BAD))], on_error="return")
    assert [type(result) for result in found] == [Score, NumericalError, Score]


def test_a_returned_error_holds_no_memory(demo: PRM) -> None:
    (error,) = demo.score_many([(PROBLEM, "")], on_error="return")
    assert isinstance(error, InputError)
    assert error.__traceback__ is None


# --- determinism ------------------------------------------------------------------------------------------------------


CALLS = st.lists(
    st.tuples(st.sampled_from(["score", "many", "best", "trace", "clear"]), st.permutations([*GOOD, *BAD])),
    max_size=5,
)


@settings(max_examples=15)
@given(CALLS, st.permutations([*GOOD, *BAD]), st.integers(1, 7))
def test_the_same_bits_whatever_came_before(calls: list[tuple[str, list[str]]], steps: list[str], length: int) -> None:
    kept = PRMS.setdefault(2**18, PRM.from_pretrained("demo", threads=2, cache_bytes=2**18))
    fresh = PRMS.setdefault(0, PRM.from_pretrained("demo", threads=2, cache_bytes=0))
    for name, other in calls:
        match name:
            case "score":
                kept.score(PROBLEM, steps=other)
            case "many":
                kept.score_many([(PROBLEM, of(other[:n])) for n in range(1, 8)])
            case "best":
                kept.best_of_n(PROBLEM, all_of([other[:3], other[2:]]))
            case "trace":
                kept.live(PROBLEM).append(other[0])
            case _:
                kept.clear_cache()
    text = steps[:length]
    together = kept.score_many([(PROBLEM, of(text)), (PROBLEM, of(steps)), (PROBLEM, of(text[::-1]))])
    assert together[0].step_rewards.tolist() == fresh.score(PROBLEM, steps=text).step_rewards.tolist()
    assert together[1].step_rewards.tolist() == fresh.score(PROBLEM, steps=steps).step_rewards.tolist()
    assert together[2].step_rewards.tolist() == fresh.score(PROBLEM, steps=text[::-1]).step_rewards.tolist()


# --- aggregates of one's own ------------------------------------------------------------------------------------------


def test_a_function_is_an_aggregate(demo: PRM) -> None:
    def median(rewards: NDArray[np.float32]) -> float:
        return float(np.median(rewards))

    score = demo.score(PROBLEM, steps=GOOD, aggregate=median)
    assert score.reward == float(np.median(score.step_rewards))
    assert (score.reward_range, score.record().aggregate) == (None, "median")
    candidates = all_of([BAD, GOOD, GOOD[:1]])
    with pytest.raises(InputError, match="exhaustive=True"):
        demo.best_of_n(PROBLEM, candidates, aggregate=median)
    full = demo.best_of_n(PROBLEM, candidates, aggregate=median, exhaustive=True)
    assert full.index == int(np.argmax([float(np.median(one.step_rewards)) for one in full.scores]))
    lazy = demo.best_of_n(PROBLEM, candidates, aggregate=CustomAggregate(median, monotone=True))
    assert (lazy.index, lazy.score.reward) == (full.index, full.score.reward)
    with pytest.raises(InputError, match="nan"):
        demo.score(PROBLEM, steps=GOOD, aggregate=lambda _rewards: float("nan"))
    with pytest.raises(InputTypeError, match="int"):
        demo.score(PROBLEM, steps=GOOD, aggregate=3)  # type: ignore[arg-type]


def test_a_function_without_a_value_at_zero_chooses_as_reading_everything_does(demo: PRM) -> None:
    def log(rewards: NDArray[np.float32]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(rewards.astype(float)).sum())

    aggregate = CustomAggregate(log, monotone=True)
    responses = ["1 + 1 = 2\n\nSo 2", *(f"1 + 1 = {n}\n\nSo {n}\n\nIt is {n}" for n in range(3, 9))]
    lazy = demo.best_of_n("What is 1 + 1?", responses, aggregate=aggregate)
    assert lazy.index == demo.best_of_n("What is 1 + 1?", responses, aggregate=aggregate, exhaustive=True).index
    unfinished = [score for score in lazy.scores if isinstance(score, Unfinished)]
    assert {score.lowest for score in unfinished} == {-math.inf}
    for score in unfinished:
        assert json.loads(json.dumps(score.to_dict(), allow_nan=False))["bounds"][0] is None


def test_a_function_that_sorts_changes_no_result(demo: PRM) -> None:
    def lowest_two(rewards: NDArray[np.float32]) -> float:
        rewards.sort()
        return float(rewards[:2].sum())

    expected = demo.score(PROBLEM, steps=BAD).step_rewards.tolist()
    assert sorted(expected) != expected
    assert demo.score(PROBLEM, steps=BAD, aggregate=lowest_two).step_rewards.tolist() == expected
