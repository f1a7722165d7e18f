"""its_hub's own algorithms on our rewards, with a scripted generator in place of a language model."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

pytest.importorskip("its_hub")

from its_hub.api import AbstractLanguageModel, ChatMessage, ChatMessages
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from its_hub.core.algorithms.self_consistency import SelfConsistency
from its_hub.core.lms.step_generation import StepGeneration

from rfprm_lite import PRM, CustomAggregate, InputError, Trace
from rfprm_lite.aggregate import AggregateName
from rfprm_lite.errors import InputTypeError
from rfprm_lite.integrations.its_hub import OutcomeRewardModel, ProcessRewardModel, RaceResult, RacingBestOfN

PROBLEM = "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?"
RIGHT = ["Tom now has 12 + 5 = 17 apples.", "Tom now has 17 - 3 = 14 apples.", "The answer is 14."]
WRONG = ["Tom now has 12 + 5 = 19 apples.", "Tom now has 19 + 3 = 22 apples.", "The answer is 22."]


class Scripted(AbstractLanguageModel):  # type: ignore[misc]
    """Gives right or wrong steps, by chance; one step where a stop is asked for, else the whole response."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    async def agenerate(self, messages: Any, stop: str | None = None, **_options: object) -> Any:
        if isinstance(messages[0], list):
            return [self.one(own, stop) for own in messages]
        return self.one(messages, stop)

    async def agenerate_single(self, messages: list[ChatMessage], stop: str | None = None, **_options: object) -> Any:
        return self.one(messages, stop)

    def one(self, messages: list[ChatMessage], stop: str | None) -> dict[str, str]:
        steps = self.random.choice([RIGHT, WRONG])
        if stop is None:
            return {"role": "assistant", "content": "\n\n".join(steps)}
        so_far = messages[-1].content if messages[-1].role == "assistant" else ""
        return {"role": "assistant", "content": steps[min(so_far.count("\n\n"), 2)]}


def generation() -> StepGeneration:
    return StepGeneration(max_steps=2, step_token="\n\n")  # it is no password


def test_beam_search_finds_the_right_steps_and_computes_each_once(demo: PRM) -> None:
    rewards = ProcessRewardModel(demo, aggregate="min")
    result = asyncio.run(
        BeamSearch(generation(), rewards, beam_width=4).ainfer(Scripted(), PROBLEM, 32, return_response_only=False)
    )
    assert result.the_one["content"] == "\n\n".join(RIGHT)
    assert max(result.scores) == demo.score(PROBLEM, steps=RIGHT, aggregate="min").reward
    # Every prefix of tokens that the search went through, once: those of the few different paths.
    paths = {tuple(r["content"].split("\n\n")[:n]) for r in result.responses for n in (1, 2, 3)}
    fresh = PRM.from_pretrained("demo", threads=2)
    distinct = sum(s.tokens.computed for s in fresh.score_many([(PROBLEM, Trace.from_steps(path)) for path in paths]))
    assert distinct <= rewards.tokens.computed < distinct + 60  # paths that the search left are not in its result
    assert rewards.tokens.total > 8 * rewards.tokens.computed


@pytest.mark.parametrize("aggregate", [None, "min"])
def test_particle_filtering_runs_on_our_rewards(demo: PRM, aggregate: AggregateName | None) -> None:
    rewards = ProcessRewardModel(demo, aggregate=aggregate)
    best = asyncio.run(ParticleFiltering(generation(), rewards).ainfer(Scripted(), PROBLEM, 6))
    assert best["content"].startswith(RIGHT[0])
    assert rewards.tokens.reused > rewards.tokens.computed


def test_best_of_n_takes_the_best_whole_response(demo: PRM) -> None:
    outcome = OutcomeRewardModel(demo, aggregate="mean")
    result = asyncio.run(BestOfN(outcome).ainfer(Scripted(), PROBLEM, 6, return_response_only=False))
    assert result.the_one["content"] == "\n\n".join(RIGHT)
    assert sorted(set(result.scores)) == sorted(
        demo.score(PROBLEM, steps=steps, aggregate="mean").reward for steps in (RIGHT, WRONG)
    )


def test_a_race_finds_the_right_steps_and_leaves_the_losers(demo: PRM) -> None:
    lm = Scripted()
    race = RacingBestOfN(generation(), demo, width=2)
    result = asyncio.run(race.ainfer(lm, PROBLEM, 8, return_response_only=False))
    assert isinstance(result, RaceResult)
    assert result.the_one["content"] == "\n\n".join(RIGHT)
    assert result.scores[result.selected_index] == demo.score(PROBLEM, steps=RIGHT, aggregate="min").reward
    assert len(result.steps_used) == 8
    assert len(result.scores) < 8
    assert min(result.steps_used) < 3
    assert asyncio.run(race.ainfer(Scripted(), PROBLEM, 8)) == result.the_one


def test_self_consistency_runs_beside_it(demo: PRM) -> None:
    """It votes without rewards; the answers it votes on can be weighed by ours."""
    answer = asyncio.run(
        SelfConsistency(lambda text: text.rpartition(" ")[2]).ainfer(Scripted(), PROBLEM, 9, return_response_only=False)
    )
    weights = ProcessRewardModel(demo).score(PROBLEM, [r["content"] for r in answer.responses])
    assert len(weights) == 9


def test_strings_messages_and_batches_are_scored_alike(demo: PRM) -> None:
    process, outcome = ProcessRewardModel(demo), OutcomeRewardModel(demo)
    text = "\n\n".join(RIGHT)
    expected = demo.score(PROBLEM, steps=RIGHT).reward
    share = expected / 2  # of mean + final, which goes up to 2
    asked, answered = ChatMessage("user", PROBLEM), ChatMessage("assistant", text)
    for prompt in (PROBLEM, [asked], ChatMessages(PROBLEM), [{"role": "user", "content": PROBLEM}], [[asked], [asked]]):
        count = 2 if prompt == [[asked], [asked]] else 1
        assert process.score(prompt, [text] * count) == [share] * count
        assert asyncio.run(process.ascore(prompt, [text] * count)) == [share] * count
    assert process.score(PROBLEM, text) == [share]
    assert outcome.score([asked, answered]) == expected
    assert outcome.score([[asked, answered]] * 2) == [expected] * 2
    assert asyncio.run(outcome.ascore([[asked, answered]])) == [expected]


def test_what_cannot_be_scored_gets_the_lowest_reward(demo: PRM, caplog: pytest.LogCaptureFixture) -> None:
    process, outcome = ProcessRewardModel(demo), OutcomeRewardModel(demo)
    paths = ["", RIGHT[0], "1 + 1 = 2. " * 2000]
    found = process.score(PROBLEM, paths)
    assert found == [0, demo.score(PROBLEM, RIGHT[0]).reward / 2, 0]
    assert asyncio.run(process.ascore(PROBLEM, paths)) == found
    assert process.unscored == 4
    assert "2 of 3 completions" in caplog.text
    conversations = [[ChatMessage("user", PROBLEM), ChatMessage("assistant", path)] for path in paths]
    assert outcome.score(conversations) == [0, demo.score(PROBLEM, RIGHT[0]).reward, 0]


def test_rewards_need_a_range(demo: PRM) -> None:
    with pytest.raises(InputError, match="reward_range"):
        ProcessRewardModel(demo, aggregate=lambda rewards: float(rewards.sum()))
    from_minus_1 = CustomAggregate(lambda rewards: 2 * float(rewards.min()) - 1, reward_range=(-1, 1))
    expected = demo.score(PROBLEM, WRONG[0], aggregate="min").reward
    assert ProcessRewardModel(demo, aggregate=from_minus_1).score(PROBLEM, WRONG[0]) == [pytest.approx(expected)]


def test_messages_lose_nothing(demo: PRM) -> None:
    """its_hub's own ChatMessage.from_dict would drop what it does not know."""
    asked = {"role": "user", "content": PROBLEM, "name": "Tom"}
    answered = {"role": "assistant", "content": RIGHT[-1], "reasoning": "\n\n".join(RIGHT[:-1])}
    trace = Trace.from_parts(thinking="\n\n".join(RIGHT[:-1]), response=RIGHT[-1])
    assert OutcomeRewardModel(demo).score([asked, answered]) == demo.score(PROBLEM, trace).reward
    with pytest.raises(InputError, match="'reasoning'"):
        ProcessRewardModel(demo).score([asked, answered, asked], RIGHT[0])
    with pytest.raises(InputError, match="'tool_calls'"):
        OutcomeRewardModel(demo).score([asked, ChatMessage("assistant", None, tool_calls=[{"id": "1"}])])


def test_what_is_no_problem_is_refused(demo: PRM) -> None:
    process, outcome = ProcessRewardModel(demo), OutcomeRewardModel(demo)
    system, asked = ChatMessage("system", "Be brief."), ChatMessage("user", PROBLEM)
    with pytest.raises(InputError, match="'system'"):
        process.score([asked, system], ["1"])
    assert process.score([system, asked], RIGHT[0]) != process.score([asked], RIGHT[0])
    own = ProcessRewardModel(demo, problem_of=lambda messages: messages[-1].content)
    assert own.score([system, asked], RIGHT[0]) == [demo.score(PROBLEM, steps=RIGHT[:1]).reward / 2]
    with pytest.raises(InputError, match="2 conversations for 3 responses"):
        process.score([[asked], [asked]], ["1"] * 3)
    with pytest.raises(InputTypeError, match="NoneType"):
        process.score(None, ["1"])
    with pytest.raises(InputError, match="assistant"):
        outcome.score([asked])
