r"""Rewards for the inference-time scaling algorithms of its_hub: `pip install 'rfprm-lite[its-hub]'`.

    from its_hub.core.algorithms.beam_search import BeamSearch
    from rfprm_lite.integrations.its_hub import ProcessRewardModel

    search = BeamSearch(StepGeneration(max_steps=20, step_token="\n\n"), ProcessRewardModel(prm), beam_width=4)

Its searches re-score whole paths at every level. Prefixes are kept between calls, so that only the new steps are
computed. Steps are told apart by blank lines, as everywhere: give a step generation the step token "\n\n".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from its_hub.api import (
    AbstractOrchestrator,
    AbstractOutcomeRewardModel,
    AbstractProcessRewardModel,
    ChatMessage,
    ChatMessages,
)

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.plan.usage import Usage
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.trace import Problem

Conversation: TypeAlias = str | list[ChatMessage] | ChatMessages
"""The forms in which its_hub passes a conversation."""
ProblemOf: TypeAlias = Callable[[Sequence[ChatMessage]], Problem]
"""The way from a conversation to the problem of a PRM."""


def whole_conversation(messages: Sequence[ChatMessage]) -> Problem:
    """The whole conversation as the problem, in the form that `PRM.score` takes."""
    return [{"role": message.role, "content": message.extract_text_content()} for message in messages]


class ProcessRewardModel(AbstractProcessRewardModel):  # type: ignore[misc]  # its_hub has no types
    """Rewards of responses as far as they have come, for beam search and particle filtering.

    Args:
        prm: A loaded model.
        aggregate: As in `PRM.score`.
        problem_of: The way from a conversation to the problem.

    Attributes:
        tokens: Token counts of all calls so far.
    """

    def __init__(
        self, prm: PRM, *, aggregate: AggregateLike | None = None, problem_of: ProblemOf = whole_conversation
    ) -> None:
        self._prm = prm
        self._aggregate = aggregate
        self._problem_of = problem_of
        self.tokens = Usage(0, 0)

    def score(self, prompt_or_messages: Conversation | list[list[ChatMessage]], steps: str | list[str]) -> list[float]:
        """The reward of each response; of a single one, a list of one.

        Args:
            prompt_or_messages: One problem for all, or a conversation for each.
            steps: One response or several, each the steps so far in one text.

        Raises:
            InputError: If there are several conversations, but not as many as responses.
            InputTypeError: If the problem is no conversation.

        Otherwise raises as `PRM.score_many` does.
        """
        return self._counted(self._prm.score_many(self._pairs(prompt_or_messages, steps), aggregate=self._aggregate))

    async def ascore(
        self, prompt_or_messages: Conversation | list[list[ChatMessage]], steps: str | list[str]
    ) -> list[float]:
        """The same as `score`, in a thread of its own, which ends if this is cancelled."""
        pairs = self._pairs(prompt_or_messages, steps)
        return self._counted(await self._prm.aio.score_many(pairs, aggregate=self._aggregate))

    def _pairs(
        self, prompt: Conversation | list[list[ChatMessage]], steps: str | list[str]
    ) -> list[tuple[Problem, str]]:
        responses = [steps] if isinstance(steps, str) else list(steps)
        conversations = _conversations(prompt)
        if len(conversations) == 1:
            conversations *= len(responses)
        if len(conversations) != len(responses):
            raise InputError(f"{len(conversations)} conversations for {len(responses)} responses")
        return [(self._problem_of(c), response) for c, response in zip(conversations, responses, strict=True)]

    def _counted(self, scores: Sequence[Score]) -> list[float]:
        self.tokens = sum((score.tokens for score in scores), self.tokens)
        return [score.reward for score in scores]


class OutcomeRewardModel(AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Rewards of whole conversations, whose last message is the response, for best-of-N.

    Args:
        prm: A loaded model.
        aggregate: As in `PRM.score`.
        problem_of: The way from a conversation, without its last message, to the problem.
    """

    def __init__(
        self, prm: PRM, *, aggregate: AggregateLike | None = None, problem_of: ProblemOf = whole_conversation
    ) -> None:
        self._process = ProcessRewardModel(prm, aggregate=aggregate, problem_of=problem_of)

    @property
    def tokens(self) -> Usage:
        """Token counts of all calls so far."""
        return self._process.tokens

    def score(self, messages: Conversation | list[list[ChatMessage]]) -> list[float] | float:
        """The reward of a conversation, or a list of them for several.

        Raises:
            InputError: If a conversation does not end with a message of the assistant.
            InputTypeError: If it is none.

        Otherwise raises as `PRM.score_many` does.
        """
        prompts, responses, single = _apart(messages)
        rewards = self._process.score(prompts, responses)
        return rewards[0] if single else rewards

    async def ascore(
        self,
        messages: Conversation | list[list[ChatMessage]],
        orchestrator: AbstractOrchestrator | None = None,  # noqa: ARG002  # its_hub passes one; nothing is generated here
    ) -> list[float] | float:
        """The same as `score`, in a thread of its own, which ends if this is cancelled."""
        prompts, responses, single = _apart(messages)
        rewards = await self._process.ascore(prompts, responses)
        return rewards[0] if single else rewards


def _conversations(value: Conversation | list[list[ChatMessage]]) -> list[list[ChatMessage]]:
    """The value as a list of conversations."""
    if isinstance(value, (str, ChatMessages)):
        return [ChatMessages.from_prompt_or_messages(value).to_chat_messages()]
    if not isinstance(value, list) or not value:
        raise InputTypeError(f"a prompt, a conversation or several are needed, not {type(value).__name__}")
    return [_messages(one) for one in value] if isinstance(value[0], list) else [_messages(value)]


def _messages(value: Sequence[object]) -> list[ChatMessage]:
    """The messages, which may also come as dicts of role and content."""
    return [ChatMessage.from_dict(message) if isinstance(message, dict) else message for message in value]


def _apart(value: Conversation | list[list[ChatMessage]]) -> tuple[list[list[ChatMessage]], list[str], bool]:
    """The conversations before their last messages, those messages' texts, and whether there was but one."""
    conversations = _conversations(value)
    for conversation in conversations:
        if len(conversation) < 2 or conversation[-1].role != "assistant":
            raise InputError("a conversation to be judged ends with a message of the assistant")
    single = isinstance(value, ChatMessages) or not isinstance(value[0], list)
    return [c[:-1] for c in conversations], [c[-1].extract_text_content() for c in conversations], single
