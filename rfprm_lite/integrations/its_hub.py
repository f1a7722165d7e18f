r"""Rewards for the inference-time scaling algorithms of its_hub: `pip install 'rfprm-lite[its-hub]'`.

    from its_hub.core.algorithms.beam_search import BeamSearch
    from rfprm_lite.integrations.its_hub import ProcessRewardModel

    search = BeamSearch(StepGeneration(max_steps=20, step_token="\n\n"), ProcessRewardModel(prm), beam_width=4)

Its searches re-score whole paths at every level. Prefixes are kept between calls, so that only the new steps are
computed. Steps are told apart by blank lines, as everywhere: give a step generation the step token "\n\n".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from its_hub.api import (
    AbstractLanguageModel,
    AbstractOrchestrator,
    AbstractOutcomeRewardModel,
    AbstractProcessRewardModel,
    AbstractScalingAlgorithm,
    AbstractScalingResult,
    ChatMessage,
    ChatMessages,
)
from its_hub.core.lms.step_generation import StepGeneration

from rfprm_lite.aggregate import AggregateLike, as_aggregate
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.integrations.judge import Counting, Judge, in_unit, require_range
from rfprm_lite.lists import listed
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.text.messages import METADATA, exchange
from rfprm_lite.trace import Problem, Response

Conversation: TypeAlias = str | list[ChatMessage] | ChatMessages
"""The forms in which its_hub passes a conversation."""
ProblemOf: TypeAlias = Callable[[Sequence[ChatMessage]], Problem]
"""The way from a conversation to the problem of a PRM."""


def whole_conversation(messages: Sequence[ChatMessage]) -> Problem:
    """The whole conversation as the problem, in the form that `PRM.score` takes. Messages may come as dicts, too."""
    return [message.to_dict() if isinstance(message, ChatMessage) else message for message in messages]


class ProcessRewardModel(Counting, AbstractProcessRewardModel):  # type: ignore[misc]  # its_hub has no types
    """Rewards of responses as far as they have come, for beam search and particle filtering.

    They are in [0, 1], as its_hub's particle filtering needs them: `Score.reward` as a share of its range. A response
    that can't be scored, such as an empty first step or a path that has become too long, gets 0, and a warning is
    logged.

    Args:
        prm: A loaded model.
        aggregate: As in `PRM.score`.
        problem_of: The way from a conversation to the problem.

    Raises:
        InputError: If nothing bounds the rewards of the aggregate.
    """

    def __init__(
        self, prm: PRM, *, aggregate: AggregateLike | None = None, problem_of: ProblemOf = whole_conversation
    ) -> None:
        require_range(as_aggregate(aggregate, prm.manifest.recipe.aggregate), prm.scale)
        self._judge = Judge(prm, aggregate, 0.0)
        self._problem_of = problem_of

    def score(self, prompt_or_messages: Conversation | list[list[ChatMessage]], steps: str | list[str]) -> list[float]:
        """The reward of each response, in [0, 1]; of a single one, a list of one.

        Args:
            prompt_or_messages: One problem for all, or a conversation for each.
            steps: One response or several, each the steps so far in one text.

        Raises:
            InputError: If there are several conversations, but not as many as responses, or if one can't be judged.
            InputTypeError: If the problem is no conversation.

        Otherwise raises as `PRM.score_many` does.
        """
        return [0.0 if s is None else in_unit(s) for s in self._judge(self._pairs(prompt_or_messages, steps))]

    async def ascore(
        self, prompt_or_messages: Conversation | list[list[ChatMessage]], steps: str | list[str]
    ) -> list[float]:
        """The same as `score`, in a thread of its own, which ends if this is cancelled."""
        scores = await self._judge.judge(self._pairs(prompt_or_messages, steps))
        return [0.0 if score is None else in_unit(score) for score in scores]

    def _pairs(
        self, prompt: Conversation | list[list[ChatMessage]], steps: str | list[str]
    ) -> list[tuple[Problem, Response]]:
        responses: list[str] = [steps] if isinstance(steps, str) else listed("responses", steps)
        conversations = _conversations(prompt)
        if len(conversations) == 1:
            conversations *= len(responses)
        if len(conversations) != len(responses):
            raise InputError(f"{len(conversations)} conversations for {len(responses)} responses")
        return [(self._problem_of(c), response) for c, response in zip(conversations, responses, strict=True)]


class OutcomeRewardModel(Counting, AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Rewards of whole conversations, whose last message is the response, for best-of-N.

    They are `Score.reward`. A response that can't be scored gets the lowest value of its range; a warning is logged.

    Args:
        prm: A loaded model.
        aggregate: As in `PRM.score`.
        problem_of: The way from a conversation, without its last message, to the problem.
    """

    def __init__(
        self, prm: PRM, *, aggregate: AggregateLike | None = None, problem_of: ProblemOf = whole_conversation
    ) -> None:
        known = as_aggregate(aggregate, prm.manifest.recipe.aggregate).range_over(prm.scale.range)
        self._lowest = known[0] if known else -math.inf
        self._judge = Judge(prm, aggregate, self._lowest)
        self._problem_of = problem_of

    def score(self, messages: Conversation | list[list[ChatMessage]]) -> list[float] | float:
        """The reward of a conversation, or a list of them for several.

        Raises:
            InputError: If a conversation does not end with a message of the assistant, or holds what can't be read.
            InputTypeError: If it is none.

        Otherwise raises as `PRM.score_many` does.
        """
        pairs, single = self._pairs(messages)
        return self._rewards(self._judge(pairs), single=single)

    async def ascore(
        self,
        messages: Conversation | list[list[ChatMessage]],
        orchestrator: AbstractOrchestrator | None = None,  # noqa: ARG002  # its_hub passes one; nothing is generated here
    ) -> list[float] | float:
        """The same as `score`, in a thread of its own, which ends if this is cancelled."""
        pairs, single = self._pairs(messages)
        return self._rewards(await self._judge.judge(pairs), single=single)

    def _pairs(self, value: Conversation | list[list[ChatMessage]]) -> tuple[list[tuple[Problem, Response]], bool]:
        """Problem and response of each conversation, and whether there was but one."""
        single = isinstance(value, (str, ChatMessages)) or not isinstance(value[0], list)
        return [self._pair(conversation) for conversation in _conversations(value)], single

    def _pair(self, conversation: Sequence[ChatMessage]) -> tuple[Problem, Response]:
        if len(conversation) < 2:
            raise InputError("a conversation to be judged ends with a message of the assistant, behind the problem")
        _, response = exchange(whole_conversation(conversation))
        return self._problem_of(conversation[:-1]), response

    def _rewards(self, scores: Sequence[Score | None], *, single: bool) -> list[float] | float:
        rewards = [self._lowest if score is None else score.reward for score in scores]
        return rewards[0] if single else rewards


@dataclass
class RaceResult(AbstractScalingResult):  # type: ignore[misc]
    """The result of a race.

    Attributes:
        responses: Every candidate as far as it was written, as messages.
        scores: The reward of each finished candidate, by its index.
        selected_index: The winner.
        steps_used: Steps of each candidate.
    """

    responses: list[dict[str, str]]
    scores: dict[int, float]
    selected_index: int
    steps_used: list[int]

    @property
    def the_one(self) -> dict[str, str]:
        """The winner's message."""
        return self.responses[self.selected_index]


class RacingBestOfN(AbstractScalingAlgorithm):  # type: ignore[misc]
    r"""Best of N that stops writing candidates that can't win any more; the choice is that of writing all to the end.

    Args:
        sg: its_hub's step generation, with the step token "\n\n".
        prm: The judge.
        aggregate: As in `PRM.race`; min and product stop earliest.
        problem_of: The way from a conversation to the problem.
        width: Candidates that are written at once. With fewer, more of the later ones are stopped early.
    """

    def __init__(
        self,
        sg: StepGeneration,
        prm: PRM,
        *,
        aggregate: AggregateLike = "min",
        problem_of: ProblemOf = whole_conversation,
        width: int = 4,
    ) -> None:
        self._sg = sg
        self._prm = prm
        self._aggregate = aggregate
        self._problem_of = problem_of
        self._width = width

    async def ainfer(
        self,
        lm: AbstractLanguageModel,
        prompt_or_messages: Conversation,
        budget: int,
        return_response_only: bool = True,  # its_hub's own signature
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
    ) -> dict[str, str] | RaceResult:
        """Write `budget` candidates step by step until one is sure to win.

        Args:
            lm: The model that writes.
            prompt_or_messages: The question.
            budget: How many candidates there are.
            return_response_only: Whether to return the winner's message alone.
            tools: For the model.
            tool_choice: For the model.

        Returns:
            The winner's message, or all of the race.

        Raises:
            InputError: If a candidate's first step is empty, and what `PRM.race` raises.
        """
        (conversation,) = _conversations(prompt_or_messages)
        prompt = ChatMessages(conversation).to_prompt()
        most = self._sg.max_steps + 1  # its_hub counts the steps before the one that it writes
        race = self._prm.race(self._problem_of(conversation), budget, aggregate=self._aggregate, max_steps=most)
        while race.winner is None:
            growing = [i for i in race.alive if i not in race.scores][: self._width]
            so_far = [list(race.trace(i).steps) for i in growing]
            written = await self._sg.aforward(lm, [prompt] * len(growing), so_far, tools=tools, tool_choice=tool_choice)
            steps = dict(zip(growing, written, strict=True))
            await asyncio.to_thread(race.extend, {i: text for i, (text, _) in steps.items() if text.strip()})
            for i, (text, stopped) in steps.items():
                if stopped or not text.strip():
                    await asyncio.to_thread(race.finish, i)
        traces = [race.trace(i) for i in range(budget)]
        result = RaceResult(
            responses=[{"role": "assistant", "content": "\n\n".join(trace.steps)} for trace in traces],
            scores={i: score.reward for i, score in race.scores.items()},
            selected_index=race.winner,
            steps_used=[len(trace.steps) for trace in traces],
        )
        return result.the_one if return_response_only else result


def _conversations(value: Conversation | list[list[ChatMessage]]) -> list[list[ChatMessage]]:
    """The value as a list of conversations."""
    if isinstance(value, (str, ChatMessages)):
        return [ChatMessages.from_prompt_or_messages(value).to_chat_messages()]
    if not isinstance(value, list) or not value:
        raise InputTypeError(f"a prompt, a conversation or several are needed, not {type(value).__name__}")
    return [_messages(one) for one in value] if isinstance(value[0], list) else [_messages(value)]


def _messages(value: Sequence[Any]) -> list[ChatMessage]:
    """The messages; one that comes as a dict stays one where a ChatMessage would lose what it holds."""
    return [_chat_message(message) if isinstance(message, dict) else message for message in value]


def _chat_message(message: dict[str, Any]) -> ChatMessage | dict[str, Any]:
    known = {"role", "content", "tool_calls", "tool_call_id"}
    held = {key for key, value in message.items() if value is not None} - METADATA
    return ChatMessage.from_dict({"content": None, **message}) if "role" in held <= known else message
