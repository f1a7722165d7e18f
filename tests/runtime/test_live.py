"""Growing traces and many responses, on the fake engine: right for any order of steps, forks and errors."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import TOKEN_BYTES, FakeBlock, FakeEngine, FakeLanes, score_sequences
from rfprm_lite import Aggregate, InputError, Score, Trace
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.bundle.pieces import Read, Slot
from rfprm_lite.errors import NumericalError
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.budget import Footprint, ModelSizes
from rfprm_lite.plan.cache import Lease, PrefixCache
from rfprm_lite.plan.call import Call
from rfprm_lite.scale import PROBABILITY
from rfprm_lite.scoring.batches import in_windows
from rfprm_lite.scoring.live import LiveTrace
from rfprm_lite.scoring.request import Request
from rfprm_lite.text.encoding import Encoder

BUNDLE = open_bundle("demo", LoadOptions(verify=False))
SEPARATED = BUNDLE.manifest.recipe
WHOLE = msgspec.structs.replace(SEPARATED, step=(Slot("text"), Read()), expect=None)
"""As the 1.5B recipe: one reward a text, so that a step may end where the tokenizer would merge."""
ENCODERS = {recipe.probes: Encoder.from_file(BUNDLE.tokenizer, recipe, 10**6) for recipe in (SEPARATED, WHOLE)}
PROBLEM = "How many?"


class FakeScorer:
    """What a live trace needs of a scorer, on the fake engine. capacity: bytes that may be pinned."""

    def __init__(self, encoder: Encoder, capacity: int) -> None:
        self.encoder = encoder
        self.scale = PROBABILITY
        self.cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, capacity)
        self.footprint = Footprint(ModelSizes(1, 1, 1, TOKEN_BYTES, 0), 2, 0, None)

    def call(self, *, lease: Lease[FakeBlock]) -> Call[FakeLanes]:
        return Call(FakeEngine(2), lease)


steps = st.lists(st.sampled_from(["1", "12", "12 + 5 = 17", "So", "a b", "17.", "\n\nx"]), min_size=1, max_size=6)


def whole(encoder: Encoder, texts: list[str], how: Aggregate) -> Score:
    reading = Request.of(encoder, PROBLEM, Trace.from_steps(texts), how, PROBABILITY)
    found = score_sequences(FakeEngine(), reading.sequences)
    return reading.score(np.concatenate([one.rewards for one in found]), 0)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3), steps), min_size=1, max_size=4),
    st.sampled_from(list(ENCODERS)),
    st.sampled_from(["last", "response"]),
    st.sampled_from([0, 300, 10**6]),
)
def test_traces_and_forks_give_what_whole_texts_give(
    grown: list[tuple[int, list[str]]], probes: bool, final: str, capacity: int
) -> None:
    encoder, how = ENCODERS[probes], Aggregate("mean+final", 0.5, final)  # type: ignore[arg-type]
    traces = [LiveTrace(FakeScorer(encoder, capacity), PROBLEM, how)]  # type: ignore[arg-type]
    for origin, texts in grown:
        fork = traces[origin % len(traces)].fork()
        for text in texts:
            reward = fork.append(text)
            assert reward == fork.step_rewards[-1]
        traces.append(fork)
    for trace in traces[1:]:
        expected = whole(encoder, list(trace.steps), how)
        assert trace.step_rewards == tuple(expected.step_rewards.tolist())
        assert trace.score().reward == expected.reward


@given(st.lists(st.sampled_from(["good", "unreadable", "failing"]), max_size=12), st.integers(1, 5))
def test_each_response_has_its_result_in_its_place(kinds: list[str], window: int) -> None:
    reading = Request.of(ENCODERS[False], PROBLEM, Trace.from_steps(["1"]), Aggregate("mean"), PROBABILITY)
    good = whole(ENCODERS[False], ["1"], Aggregate("mean"))
    bad = Request.of(ENCODERS[False], PROBLEM, Trace.from_steps(["2"]), Aggregate("mean"), PROBABILITY)

    def read(kind: str) -> Request:
        if kind == "unreadable":
            raise InputError("no")
        return bad if kind == "failing" else reading

    def score_all(readings: Sequence[Request]) -> list[Score]:
        if bad in readings:
            raise NumericalError("no number")
        return [good for _ in readings]

    expected = {"good": Score, "unreadable": InputError, "failing": NumericalError}
    found = list(in_windows(kinds, read, score_all, "return", window))
    assert [type(result) for result in found] == [expected[kind] for kind in kinds]
    first = next((i for i, kind in enumerate(kinds) if kind != "good"), len(kinds))
    before = in_windows(kinds, read, score_all, "raise", window)
    assert [next(before) for _ in range(first)] == [good] * first
    if first < len(kinds):
        with pytest.raises(expected[kinds[first]]) as caught:
            next(before)
        assert caught.value.__notes__ == [f"in response {first} of this call"]
