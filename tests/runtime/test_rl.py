"""Rewards for reinforcement learning: the formula, rewards at a policy's tokens, and the trainers' signatures."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rfprm_lite import PRM, Aggregate, InputError, LoadOptions, Score, Trace, Usage
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.errors import InputTypeError
from rfprm_lite.integrations import verl
from rfprm_lite.integrations.prompts import between, completed, plain_problem
from rfprm_lite.integrations.trl import RewardFunction
from rfprm_lite.rl import mix_rewards, token_offsets, token_rewards

PROBLEM = "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nTom now has 17 - 3 = 14 apples.\n\nThe answer is 14."
WRONG = "Tom now has 12 + 5 = 17 apples.\n\nTom now has 17 + 3 = 20 apples.\n\nThe answer is 20."
TOKENIZER = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))


def score(text: str, rewards: Sequence[float] | None = None) -> Score:
    """A score of made-up rewards, by default 1, 2, 3, ..., which tell the steps apart."""
    steps = Trace.parse(text).steps
    given_rewards = np.array(rewards or range(1, len(steps) + 1), np.float32)
    return Score(given_rewards, Aggregate("mean"), steps, Usage(1, 1), reward=1.0, final=1.0)


# The formula.


@given(st.floats(-5, 5), st.floats(0, 2), st.floats(0, 1))
def test_mixed_is_the_papers_formula(outcome: float, r_hat: float, beta: float) -> None:
    assert mix_rewards(outcome, r_hat, beta) == (1 - beta) * outcome + beta * r_hat
    assert mix_rewards(outcome, r_hat, 0) == outcome
    assert mix_rewards(outcome, r_hat, 1) == pytest.approx(r_hat)


def test_upstreams_beta_is_the_default() -> None:
    assert mix_rewards(1.0, 2.0) == 0.25 * 1.0 + 0.75 * 2.0
    for beta in (-0.1, 1.5, float("nan"), "0.5"):
        with pytest.raises(InputError, match="from 0 to 1"):
            mix_rewards(1.0, 1.0, beta)  # type: ignore[arg-type]


# Rewards at tokens.

TEXTS = st.lists(st.text("ab \n<think>é", min_size=1, max_size=8), min_size=1, max_size=6).map("\n\n".join)


@st.composite
def tokenized(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text with a step, and tokens that cover it; special tokens stand between some."""
    text = draw(TEXTS.filter(lambda text: text.strip()).filter(steps))
    cuts = sorted(draw(st.sets(st.integers(1, len(text)))) | {len(text)})
    spans = list(zip([0, *cuts[:-1]], cuts, strict=True))
    for at in draw(st.lists(st.integers(0, len(spans)), max_size=3)):
        spans.insert(at, (0, 0))
    return text, spans


def steps(text: str) -> bool:
    try:
        return bool(Trace.parse(text).steps)
    except InputError:
        return False


@given(tokenized())
def test_last_keeps_the_sum_and_puts_each_step_at_its_last_token(case: tuple[str, list[tuple[int, int]]]) -> None:
    text, spans = case
    scored = score(text)
    found = token_rewards(scored, spans)
    assert found.shape == (len(spans),)
    assert found.dtype == np.float32
    assert found.sum() == scored.step_rewards.sum()
    assert not any(found[i] for i, (start, end) in enumerate(spans) if start == end)
    ends = [end for _, end in spans]
    if all(step.end in ends for step in scored.steps):  # no token reaches across
        expected = [next((i for i, step in enumerate(scored.steps, 1) if step.end == end), 0) for end in ends]
        assert found.tolist() == expected


@given(tokenized())
def test_every_gives_each_token_the_reward_of_its_step(case: tuple[str, list[tuple[int, int]]]) -> None:
    text, spans = case
    scored = score(text)
    for (start, end), reward in zip(spans, token_rewards(scored, spans, "every"), strict=True):
        owners = [i for i, step in enumerate(scored.steps, 1) if step.start < end <= step.end]
        assert [reward] == (owners if end > start else [0])


def test_a_tokenizers_offsets(prm: PRM) -> None:
    scored = prm.score(PROBLEM, RIGHT)
    encoding = TOKENIZER.encode(RIGHT)
    found = token_rewards(scored, encoding.offsets)
    (at,) = np.nonzero(found)
    assert found[at].tolist() == scored.step_rewards.tolist()
    assert [RIGHT[: encoding.offsets[i][1]].count("=") for i in at] == [1, 2, 2]
    assert at[-1] == len(encoding.ids) - 1
    assert set(token_rewards(scored, encoding.offsets, "every")) == set(scored.step_rewards)


def test_a_token_across_steps_carries_what_else_would_be_lost() -> None:
    scored = score("a\n\nb\n\nc")
    assert token_rewards(scored, [[0, 5], [5, 7]]).tolist() == [1 + 2, 3]
    assert token_rewards(scored, [[0, 7]]).tolist() == [6]
    assert token_rewards(scored, [[0, 5], [5, 7]], "every").tolist() == [2, 3]


def test_parts_of_a_character_share_its_span_and_the_last_is_rewarded() -> None:
    assert token_rewards(score("é"), [[0, 1], [0, 1], [0, 0]]).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([[0, 1], [3, 8]], "token 1 .*3 to 8.* 7"),
        ([[-2, 1], [3, 7]], "token 0 .*-2 to 1"),
        ([[2, 1], [3, 7]], "token 0 .* 2 to 1"),
        ([[0, 4]], "step 2.*6 to 7"),
        (np.zeros((0, 2), int), "step 0"),
        ([0, 7], r"int64 \[2\]"),
        ([[0.0, 7.0]], "float64"),
    ],
)
def test_offsets_of_another_text_are_refused(offsets: Any, message: str) -> None:
    for placement in ("last", "every"):
        with pytest.raises(InputError, match=message):
            token_rewards(score("a\n\nb\n\nc"), offsets, placement)


def test_a_placement_that_is_none() -> None:
    with pytest.raises(InputError, match="'every'"):
        token_rewards(score("a"), [[0, 1]], "first")  # type: ignore[arg-type]


# Spans of sampled tokens.


@given(st.text())
def test_spans_end_where_the_tokenizers_do(text: str) -> None:
    encoding = TOKENIZER.encode(text)
    found = token_offsets(encoding.ids, TOKENIZER.decode)
    # Where a character is made of several tokens, as here any but ASCII may be, all of them share its span.
    if text.isascii():
        assert found[:, 1].tolist() == [end for _, end in encoding.offsets]


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40))
def test_spans_of_any_tokens_tile_what_they_decode_to(ids: list[int]) -> None:
    text = TOKENIZER.decode(ids)
    at = 0
    for start, end in token_offsets(ids, TOKENIZER.decode):
        assert start <= at <= end  # a token that shares a character begins before the end of the last one
        at = end
    assert at == len(text)


def test_a_skipped_token_spans_nothing() -> None:
    (end,) = TOKENIZER.encode("<|im_end|>").ids
    ids = [*TOKENIZER.encode("The answer").ids, end, *TOKENIZER.encode(" is 14.").ids, end]
    spans = token_offsets(ids, TOKENIZER.decode)
    assert [(start, stop) for token, (start, stop) in zip(ids, spans.tolist(), strict=True) if token == end] == [
        (10, 10),
        (17, 17),
    ]
    assert token_rewards(score(TOKENIZER.decode(ids)), spans).tolist()[-2:] == [1, 0]


def test_a_decoder_that_cleans_up_is_refused() -> None:
    with pytest.raises(InputError, match="clean-up"):
        token_offsets([0, 1, 2], lambda ids: "".join("a ."[i] for i in ids).replace(" .", "."))


# TRL.


def right_answer(completions: Sequence[str], answer: Sequence[str], **_columns: object) -> list[float | None]:
    return [float(text.endswith(f"{own}.")) for text, own in zip(completions, answer, strict=True)]


def test_trl_gets_the_papers_reward_of_each_completion(demo: PRM) -> None:
    reward = RewardFunction(demo, outcome=right_answer, beta=0.5)
    found = reward([PROBLEM] * 2, [RIGHT, WRONG], answer=["14", "14"], completion_ids=[[1], [2]], trainer_state=None)
    expected = [0.5 * 1 + 0.5 * demo.score(PROBLEM, RIGHT).reward, 0.5 * 0 + 0.5 * demo.score(PROBLEM, WRONG).reward]
    assert found == expected
    assert found[0] > found[1]  # type: ignore[operator]
    assert reward.__name__ == "rfprm"
    assert reward.tokens.reused > 20  # the prompt, and the step that both have


def test_trl_without_an_outcome_the_reward_is_r_hat(demo: PRM) -> None:
    found = RewardFunction(demo, aggregate="min")([PROBLEM], [RIGHT])
    assert found == [demo.score(PROBLEM, RIGHT, aggregate="min").reward]
    with pytest.raises(InputError, match="beta=0.5"):
        RewardFunction(demo, beta=0.5)
    with pytest.raises(InputError, match="from 0 to 1"):
        RewardFunction(demo, outcome=right_answer, beta=2)


def test_trl_conversations_are_scored_like_text(demo: PRM) -> None:
    prompt, answer = [{"role": "user", "content": PROBLEM}], {"role": "assistant", "content": RIGHT}
    parts = {"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}
    found = RewardFunction(demo)([prompt, prompt], [[answer], [parts]])
    assert found == [demo.score(PROBLEM, RIGHT).reward] * 2
    thought = {"role": "assistant", "reasoning_content": RIGHT, "content": "The answer is 14."}
    trace = Trace.from_parts(thinking=RIGHT, response="The answer is 14.")
    assert RewardFunction(demo)([prompt], [[thought]]) == [demo.score(PROBLEM, trace).reward]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_trl_thinking_is_scored_wherever_it_stands(demo: PRM, key: str) -> None:
    """With the thinking dropped, the answer alone would be judged, for next to nothing."""
    thinking, answer = RIGHT.rsplit("\n\n", 1)
    expected = demo.score(PROBLEM, Trace.from_parts(thinking=thinking, response=answer)).reward
    parts = [{"type": key if key == "thinking" else "reasoning", "text": thinking}, {"type": "text", "text": answer}]
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": answer, key: thinking},
        {"content": answer, key: thinking},
        {"role": "assistant", "content": parts},
        {"role": "assistant", "content": np.array(parts, object)},
    ]
    for message in messages:
        completions: list[Any] = [[message], np.array([message], object)]
        assert RewardFunction(demo)([PROBLEM] * 2, completions) == [expected] * 2
    with pytest.raises(InputError, match="'thoughts'"):
        RewardFunction(demo)([PROBLEM], [[{"role": "assistant", "content": answer, "thoughts": thinking}]])


def test_trl_completions_that_began_in_the_thinking(demo: PRM) -> None:
    """Cut off, they have no marker at all; with final="response" they are no answer."""
    cut_off, aggregate = RIGHT, Aggregate("mean+final", final="response")
    assert RewardFunction(demo, aggregate=aggregate)([PROBLEM], [cut_off])[0] > 1  # type: ignore[operator]
    assert RewardFunction(demo, aggregate=aggregate, started_thinking=True)([PROBLEM], [cut_off]) == [0.0]
    rendered = RewardFunction(demo, aggregate=aggregate, problem_of=lambda prompt: PROBLEM)
    assert rendered([f"{PROBLEM}\n<think>\n"], [cut_off]) == [0.0]
    closed = f"{RIGHT}\n</think>\n\nThe answer is 14."
    assert rendered([f"{PROBLEM}\n<think>\n"], [closed]) == [demo.score(PROBLEM, closed, aggregate=aggregate).reward]


def test_trl_a_completion_that_cannot_be_scored_is_counted_and_logged(
    demo: PRM, caplog: pytest.LogCaptureFixture
) -> None:
    empty, long = "", "1 + 1 = 2. " * 2000
    reward = RewardFunction(demo, outcome=right_answer)
    with caplog.at_level(logging.WARNING, "rfprm_lite"):
        found = reward([PROBLEM] * 3, [RIGHT, empty, long], answer=["14"] * 3)
    assert found[0] > 1  # type: ignore[operator]
    assert found[1:] == [0.0, 0.0]
    assert reward.unscored == 2
    assert "2 of 3 completions" in caplog.text
    left_out = RewardFunction(demo, outcome=right_answer, unscorable=None)
    assert left_out([PROBLEM] * 2, [empty, RIGHT], answer=["14"] * 2) == [None, found[0]]


def test_trl_what_is_wrong_with_the_run_is_raised(demo: PRM) -> None:
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    said = [{"role": "assistant", "content": RIGHT}]
    assert RewardFunction(demo)([system], [said]) == [demo.score(system, RIGHT).reward]
    with pytest.raises(InputError, match="user"):
        RewardFunction(demo)([system[:1]], [said])
    last = RewardFunction(demo, problem_of=lambda messages: str(messages[-1]["content"]))  # type: ignore[index]
    assert last([system], [said]) == [demo.score(PROBLEM, RIGHT).reward]
    with pytest.raises(InputError, match="tools"):
        RewardFunction(demo)([PROBLEM], [[*said, {"role": "tool", "content": "14"}]])
    with pytest.raises(InputTypeError, match="int"):
        RewardFunction(demo, problem_of=lambda prompt: 3)([PROBLEM], [RIGHT])  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match=r"problem(?s:.*)completion 1"):
        RewardFunction(demo)([PROBLEM, " "], [RIGHT, RIGHT])
    with pytest.raises(InputError, match="1 rewards for 2"):
        RewardFunction(demo, outcome=lambda **_: [1.0])([PROBLEM] * 2, [RIGHT, WRONG])


def test_trl_where_the_outcome_does_not_apply_nothing_is_read(demo: PRM) -> None:
    reward = RewardFunction(demo, outcome=lambda completions, **_: [None] * len(completions))
    assert reward([PROBLEM], [RIGHT]) == [None]
    assert reward.tokens == Usage(0, 0)


def test_trl_an_asynchronous_outcome_is_refused(demo: PRM) -> None:
    async def outcome(**_columns: object) -> list[float]:
        return await asyncio.sleep(0, [1.0])

    with pytest.raises(InputTypeError, match="asynchronous"):
        RewardFunction(demo, outcome=outcome)  # type: ignore[arg-type]


def test_trl_logs_step_rewards(demo: PRM) -> None:
    metrics: dict[str, float] = {}
    extra: dict[str, list[list[float] | None]] = {}
    RewardFunction(demo, name="prm")(
        [PROBLEM] * 2, [RIGHT, ""], log_metric=metrics.__setitem__, log_extra=extra.__setitem__
    )
    expected = demo.score(PROBLEM, RIGHT)
    assert metrics["prm/r_hat"] == expected.reward
    assert metrics["prm/step_reward"] == pytest.approx(expected.step_rewards.mean())
    assert metrics["prm/unscorable"] == 0.5
    assert extra == {"prm/step_rewards": [expected.step_rewards.tolist(), None]}


def test_trl_a_reward_function_may_be_sent_to_another_process(demo: PRM) -> None:
    reward = RewardFunction(demo, outcome=right_answer, beta=0.25, name="prm")
    again = pickle.loads(pickle.dumps(reward))
    arguments: dict[str, Any] = {"prompts": [PROBLEM], "completions": [RIGHT], "answer": ["14"]}
    assert again(**arguments) == reward(**arguments)
    assert again.__name__ == "prm"


# Prompts.


def test_prompts_and_completions() -> None:
    rendered = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InputError, match="template"):
        plain_problem(rendered)
    problem_of = between("<|im_start|>user\n", "<|im_end|>")
    assert problem_of(rendered) == "1 + 1?"
    with pytest.raises(InputError, match=r"1 \+ 1.*<\|im_start\|>user"):
        problem_of("1 + 1?")
    with pytest.raises(InputTypeError, match="list"):
        problem_of([])
    assert completed([{"role": "assistant", "content": None}]) == ""
    assert completed([{"content": RIGHT}]) == completed({"role": "assistant", "content": RIGHT}) == RIGHT


# verl.


def ends_right(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
    return float(solution_str.endswith(f"{ground_truth}."))


def graded(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> dict[str, Any]:
    return {"score": 1.0, "acc": True}


async def awaited(**_arguments: object) -> float:
    return 1.0


def test_verl_gets_the_papers_reward_and_what_it_is_made_of(demo: PRM) -> None:
    r_hat = demo.score(PROBLEM, RIGHT).reward
    info = {"question": PROBLEM, "index": 0}
    found = verl.compute_score("gsm8k", RIGHT, "14", info, model="demo", threads=2, outcome="test_rl:ends_right")
    assert found == {"score": 0.25 + 0.75 * r_hat, "outcome": 1.0, "r_hat": r_hat, "num_steps": 3, "unscorable": 0}
    alone = verl.compute_score("gsm8k", RIGHT, "14", info, model="demo", threads=2)
    assert alone == {"score": r_hat, "r_hat": r_hat, "num_steps": 3, "unscorable": 0}
    own = verl.compute_score("gsm8k", RIGHT, "14", info, model="demo", threads=2, outcome=graded, beta=0.5)
    assert (own["score"], own["acc"]) == (0.5 + 0.5 * r_hat, True)


def test_verl_passes_other_keywords_on_to_an_outcome_that_takes_them() -> None:
    def strict(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
        return 0.0

    def sandboxed(*_arguments: object, sandbox: str = "", **_others: object) -> float:
        return float(sandbox == "http://here")

    info = {"question": [{"role": "user", "content": PROBLEM}]}
    others: dict[str, Any] = {"sandbox": "http://here", "memory_limit_mb": 1024}
    for outcome, expected in ((strict, 0.0), (sandboxed, 1.0)):
        found = verl.compute_score("", RIGHT, "", info, model="demo", threads=2, outcome=outcome, **others)
        assert found["outcome"] == expected
    assert verl.compute_score("", RIGHT, "", info, model="demo", threads=2, **others)["num_steps"] == 3
    messages = {"question": np.array(info["question"], object)}
    assert verl.compute_score("", RIGHT, "", messages, model="demo", threads=2)["num_steps"] == 3


def test_verl_a_response_that_cannot_be_scored_keeps_its_outcome(caplog: pytest.LogCaptureFixture) -> None:
    found = verl.compute_score("", "", "", {"question": PROBLEM}, model="demo", threads=2, outcome=graded)
    assert found == {"score": 0.25, "acc": True, "outcome": 1.0, "r_hat": 0.0, "num_steps": 0, "unscorable": 1}
    assert "1 of 1 completions" in caplog.text


def test_verl_what_is_wrong_with_the_run_is_raised() -> None:
    with pytest.raises(InputError, match="'question'.*'index'"):
        verl.compute_score("", RIGHT, "", {"index": 0}, model="demo")
    with pytest.raises(InputError, match="'problem'"):
        verl.compute_score("", RIGHT, "", None, model="demo", problem_key="problem")
    with pytest.raises(InputError, match="beta=1"):
        verl.compute_score("", RIGHT, "", {"question": PROBLEM}, model="demo", beta=1.0)
    with pytest.raises(InputError, match="'aggregate' meant"):
        verl.compute_score("", RIGHT, "", {"question": PROBLEM}, model="demo", agregate="min")
    with pytest.raises(InputError, match="module:function"):
        verl.compute_score("", RIGHT, "", {"question": PROBLEM}, model="demo", outcome="graded")
    with pytest.raises(InputTypeError, match="awaited"):
        verl.compute_score("", RIGHT, "", {"question": PROBLEM}, model="demo", outcome="test_rl:awaited")


def test_verl_threads_load_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    original = PRM.load

    def load(model: str, options: LoadOptions) -> PRM:
        loaded.append(model)
        return original(model, options)

    monkeypatch.setattr(PRM, "load", load)
    verl._load.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(verl.compute_score, "", RIGHT, "", {"question": PROBLEM}, model="demo") for _ in range(8)]
    assert len({call.result()["score"] for call in calls}) == 1
    assert loaded == ["demo"]
