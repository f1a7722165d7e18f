"""Length: what the model reads is told beforehand, and a text that is too long is shortened by name alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recipes
from rfprm_lite import PRM, Aggregate, ContextLengthError, InputError, Trace
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.rl import token_rewards
from rfprm_lite.scale import PROBABILITY
from rfprm_lite.scoring.request import Request
from rfprm_lite.scoring.truncation import shortened
from rfprm_lite.text.encoding import Encoder

TOKENIZER = DEMO_FOLDER / "tokenizer.json"
PROBLEM = "Mia has 42 stickers and buys 84 more. How many has she?"
MEAN = Aggregate("mean")


def encoder(most: int, *, separated: bool = True) -> Encoder:
    recipe = recipes.SEPARATED if separated else msgspec.structs.replace(recipes.UNSEPARATED, max_tokens=most)
    return Encoder.from_file(TOKENIZER, recipe, most)


def thoughts(count: int, answers: int = 1) -> Trace:
    steps = [f"Thought {i}: 42 + 84 = 126." for i in range(count)] + ["The answer is 126."] * answers
    return Trace.from_steps(steps, thinking=count)


@pytest.fixture(scope="module")
def prm() -> PRM:
    return PRM.from_pretrained("demo", threads=1)


def test_tokens_are_counted_as_they_are_read(prm: PRM) -> None:
    trace = thoughts(3)
    rendered = prm.render(PROBLEM, trace)
    assert prm.count_tokens(PROBLEM, trace) == len(rendered.ids) == len(rendered.tokens)
    assert prm.score(PROBLEM, trace).tokens.total == len(rendered.ids)
    too_long = thoughts(400)
    with pytest.raises(ContextLengthError) as caught:
        prm.score(PROBLEM, too_long)
    assert (caught.value.tokens, caught.value.limit) == (prm.count_tokens(PROBLEM, too_long), prm.max_tokens)


def test_what_is_rendered_is_what_is_read(prm: PRM) -> None:
    rendered = prm.render(PROBLEM, steps=["a <extra_0> b", "c"])
    assert rendered.text.endswith("<|im_start|>assistant\na <extra_0> b<extra_0>c<extra_0>")
    assert str(rendered).endswith("a <extra_0> b<extra_0>⟦1⟧c<extra_0>⟦2⟧")
    assert [rendered.tokens[at] for at in rendered.read_at] == ["<extra_0>"] * 2
    assert rendered.tokens.count("<extra_0>") == 2  # the one in the step is text


@given(st.integers(0, 12), st.integers(1, 3), st.integers(40, 400))
def test_the_newest_steps_are_kept(count: int, answers: int, most: int) -> None:
    """As many as fit, and no thought fewer; what is scored is the trace of those alone."""
    trace, reads = thoughts(count, answers), encoder(most)
    try:
        request = shortened(reads, PROBLEM, trace, MEAN, PROBABILITY, "drop-oldest-thoughts")
    except ContextLengthError:
        rest = Trace.from_steps([step.text for step in trace.response])
        assert count == 0 or encoder(10**6).count(PROBLEM, rest) > most
        return
    kept = [step.text for step in trace.steps[request.truncated :]]
    assert request.longest <= most
    alone = Request.of(reads, PROBLEM, Trace.from_steps(kept), MEAN, PROBABILITY)
    assert [s.ids.tolist() for s in request.sequences] == [s.ids.tolist() for s in alone.sequences]
    if request.truncated > 1:
        longer = [step.text for step in trace.steps[request.truncated - 1 :]]
        assert encoder(10**6).count(PROBLEM, Trace.from_steps(longer)) > most
    rewards = np.linspace(0.1, 0.9, request.num_readouts, dtype=np.float32)
    score = request.score(rewards, 0)
    assert len(score.step_rewards) == len(trace.steps) == len(score.steps)
    assert np.isnan(score.step_rewards).sum() == score.truncated == request.truncated
    assert score.reward == pytest.approx(rewards.mean(), abs=1e-6)


@given(st.integers(1, 12), st.integers(30, 200))
def test_the_authors_cut_is_theirs(count: int, most: int) -> None:
    """Their tokenizer call: truncation=True, max_length=max_tokens, on the right; the reward at the last token left."""
    trace = thoughts(count)
    sequences, cut = encoder(most, separated=False).cut_sequences(PROBLEM, trace)
    whole = encoder(10**6, separated=False).step_sequences(PROBLEM, trace)
    assert [s.ids.tolist() for s in sequences] == [s.ids.tolist()[:most] for s in whole]
    assert [s.read_at.tolist() for s in sequences] == [[len(s.ids) - 1] for s in sequences]
    assert cut == sum(len(s.ids) > most for s in whole)


def test_truncation_is_asked_for_by_name(prm: PRM) -> None:
    too_long = thoughts(400)
    score = prm.score(PROBLEM, too_long, truncate="drop-oldest-thoughts")
    assert 0 < score.truncated < 400
    assert np.isnan(score.step_rewards[: score.truncated]).all()
    assert np.isfinite(score.step_rewards[score.truncated :]).all()
    assert score.to_dict()["step_rewards"][: score.truncated] == [None] * score.truncated  # type: ignore[index]
    assert score._repr_html_().count("not read") == score.truncated
    assert asyncio.run(prm.aio.score(PROBLEM, too_long, truncate="drop-oldest-thoughts")).truncated == score.truncated
    with pytest.raises(InputError, match="truncation"):
        token_rewards(score, [[0, 1]])
    with pytest.raises(InputError, match="cuts no text"):
        prm.score(PROBLEM, too_long, truncate="authors")
    with pytest.raises(InputError, match="truncate"):
        prm.score(PROBLEM, too_long, truncate="left")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="truncate"):
        PRM.from_pretrained("demo", truncate="left")  # type: ignore[arg-type]


def test_a_prm_that_truncates_does_so_in_every_call(tmp_path: Path) -> None:
    prm = PRM.from_pretrained("demo", threads=1, truncate="drop-oldest-thoughts")
    short, too_long = thoughts(2), thoughts(400)
    (one, other) = prm.score_many([(PROBLEM, short), (PROBLEM, too_long)])
    assert (one.truncated, other.truncated > 0) == (0, True)
    best = prm.best_of_n(PROBLEM, [too_long, short])
    assert best.scores[0].truncated == other.truncated
    with pytest.raises(ContextLengthError):
        prm.score(PROBLEM, thoughts(0, answers=400))
