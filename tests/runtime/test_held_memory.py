"""What a PRM holds: refused where it does not fit, pinned while it is needed, right after an interrupt."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from coins import BAD, GOOD, LONG, PROBLEM, all_of, of
from rfprm_lite import PRM, MemoryLimitError


def test_what_does_not_fit_is_refused_before_it_starts(demo: PRM) -> None:
    small = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=2**20)
    with pytest.raises(MemoryLimitError, match="memory_bytes") as caught:
        small.score(PROBLEM, steps=LONG)
    assert caught.value.needed > caught.value.limit == 2**20
    assert pickle.loads(pickle.dumps(caught.value)).needed == caught.value.needed
    assert isinstance(caught.value, MemoryError)
    needed = caught.value.needed
    tight = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed)
    assert (
        tight.score(PROBLEM, steps=LONG).step_rewards.tolist() == demo.score(PROBLEM, steps=LONG).step_rewards.tolist()
    )
    best = tight.best_of_n(PROBLEM, all_of([BAD, LONG, GOOD]))
    assert best.index == demo.best_of_n(PROBLEM, all_of([BAD, LONG, GOOD])).index


def test_a_trace_that_grows_begins_with_what_earlier_calls_computed() -> None:
    demo = PRM.from_pretrained("demo", threads=2)
    scored = demo.score(PROBLEM, steps=GOOD[:2])
    trace = demo.live(PROBLEM)
    for step in GOOD:
        trace.append(step)
    grown = trace.score().tokens
    assert grown.computed == demo.score(PROBLEM, steps=GOOD).tokens.total - scored.tokens.total
    demo.clear_cache()
    assert demo.score(PROBLEM, steps=GOOD).tokens.computed == 0  # the trace pins it
    fork = trace.fork()
    del trace
    demo.clear_cache()
    assert demo._scorer.cache.nbytes > 0
    del fork
    demo.clear_cache()
    assert demo._scorer.cache.nbytes == 0


def test_live_traces_together_keep_within_the_limit() -> None:
    token = 50_000  # bytes, more than one token's keys and values take
    limit = 40 * 2**20
    prm = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=limit)
    expected = prm.score(PROBLEM, steps=LONG).step_rewards.tolist()
    traces = [prm.live(f"{i} {PROBLEM}") for i in range(8)]
    for step in LONG[:30]:
        for trace in traces:
            trace.append(step)
            assert prm._scorer.cache.held_bytes <= limit // 2 + token
    same = prm.live(PROBLEM)
    assert [same.append(step) for step in LONG] == expected


def test_pins_yield_to_a_call_that_needs_their_room(prm: PRM) -> None:
    needed = prm._scorer.footprint.bytes(prm.score(PROBLEM, steps=LONG).tokens.total, 1)
    small = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed)
    trace = small.live(PROBLEM)
    for step in GOOD:
        trace.append(step)
    assert small._scorer.cache.nbytes > 0
    assert (
        small.score(PROBLEM, steps=LONG).step_rewards.tolist() == prm.score(PROBLEM, steps=LONG).step_rewards.tolist()
    )
    assert small._scorer.cache.nbytes == 0
    assert trace.append("Done.") == prm.score(PROBLEM, steps=[*GOOD, "Done."]).step_rewards[-1]


def test_one_text_too_many_is_refused_before_any_other_runs(
    demo: PRM, prm: PRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = prm._scorer.footprint.bytes(prm.score(PROBLEM, steps=LONG).tokens.total, 1)
    tight = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed - 1)
    runs: list[object] = []
    prefill = type(tight._scorer._engine).prefill

    def counting(engine, lanes, chunks, cancel):  # type: ignore[no-untyped-def]
        runs.append(chunks)
        return prefill(engine, lanes, chunks, cancel)

    monkeypatch.setattr(type(tight._scorer._engine), "prefill", counting)
    for call in (
        lambda: tight.score_many([(PROBLEM, of(GOOD)), (PROBLEM, of(LONG))]),
        lambda: tight.best_of_n(PROBLEM, all_of([GOOD, LONG])),
    ):
        with pytest.raises(MemoryLimitError) as caught:
            call()
        assert caught.value.__notes__ == ["in response 1 of this call"]
        assert runs == []


@pytest.mark.parametrize("name", ["past.1.key.1", "past.0.key.1"])
def test_an_interrupt_while_lanes_are_bound_leaves_them_right(prm: PRM, name: str) -> None:
    """The lane that idles and the one that runs are bound in turn; an interrupt comes in between."""

    class Interrupted:
        def __init__(self, binding: Any) -> None:
            self.binding = binding
            self.done = False

        def __getattr__(self, attribute: str) -> Any:
            method = getattr(self.binding, attribute)

            def call(bound: str, *rest: Any) -> Any:
                if bound == name and not self.done:
                    self.done = True
                    raise KeyboardInterrupt
                return method(bound, *rest)

            return call if attribute == "bind_input" else method

    small = PRM.from_pretrained("demo", threads=1, cache_bytes=0)
    problem = "What is 1 + 1?"
    steps = [["1 + 1 = 2", "So 2.", "7 + 1 = 8"], ["1 + 1 = 3", "So 3.", "9 + 1 = 10"]]
    race = small.race(problem, 2, aggregate="min")
    race.trace(0).append("long " * 60)  # lanes with room
    for i in range(2):
        race.extend({0: steps[0][i], 1: steps[1][i]})
    lanes = next(held for held, _ in small._scorer.cache._idle.values()).opened
    binding = lanes.binding
    lanes.binding = interrupted = Interrupted(binding)
    with pytest.raises(KeyboardInterrupt):
        race.append(0, steps[0][2])
    lanes.binding = binding
    assert interrupted.done
    race.append(0, steps[0][2])
    race.append(1, steps[1][2])
    for i in range(2):
        assert race.trace(i).step_rewards == tuple(prm.score(problem, steps=steps[i]).step_rewards.tolist())


def test_lanes_that_wait_count_among_what_is_pinned_and_yield() -> None:
    prm = PRM.from_pretrained("demo", threads=1, cache_bytes=0)
    cache = prm._scorer.cache
    cache._pin_capacity = 1_000_000
    traces = [prm.live("Q?") for _ in range(10)]
    for trace in traces:
        trace.append("1 + 1 = 2 " * 60)
        assert cache.held_bytes <= 1_000_000
    expected = prm.score("Q?", steps=["1 + 1 = 2 " * 60, "So 2."]).step_rewards[-1]
    assert [trace.append("So 2.") for trace in traces] == [expected] * 10
