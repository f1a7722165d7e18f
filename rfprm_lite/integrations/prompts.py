"""The way from a trainer's prompts and completions to the problems and responses of a PRM.

A prompt is text or a conversation (messages as dicts of role and content). Needs no other library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.text.conversation import text_of
from rfprm_lite.trace import Problem, Response, Trace

Message: TypeAlias = Mapping[str, object]
Prompt: TypeAlias = str | Sequence[Message]
ProblemOf: TypeAlias = Callable[[Prompt], Problem]
"""The way from a prompt to the problem of a PRM."""

_RENDERED = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<｜User｜>")


def plain_problem(prompt: Prompt) -> Problem:
    """The prompt itself as the problem: a text, or a conversation, which `PRM.score` takes in its place.

    Raises:
        InputError: If a chat template has rendered the text, since the PRM would take the template's words as part of
            the problem.
    """
    if not isinstance(prompt, str):
        return prompt
    for marker in _RENDERED:
        if marker in prompt:
            raise InputError(
                f"the prompt holds {marker!r}, so a chat template has rendered it: say by problem_of where the problem "
                "stands in it, as with between('<|im_start|>user\\n', '<|im_end|>')"
            )
    return prompt


def between(before: str, after: str) -> ProblemOf:
    """A `problem_of` for rendered prompts: the text from the last `before` to the next `after`.

    It raises InputError for a prompt without them, and InputTypeError for a conversation.

    Args:
        before: The end of the template's text before the problem.
        after: The beginning of the template's text after it.
    """

    def problem_of(prompt: Prompt) -> str:
        if not isinstance(prompt, str):
            raise InputTypeError(f"a rendered prompt is text, not {type(prompt).__name__}")
        start = prompt.rfind(before)
        end = prompt.find(after, start + len(before))
        if start < 0 or end < 0:
            raise InputError(f"the prompt {prompt!r:.60} has no {before!r} with {after!r} behind it")
        return prompt[start + len(before) : end]

    return problem_of


def response_of(completion: Prompt) -> Response:
    """A completion as a response: its text, or its one message of the assistant.

    Thinking that a chat template's parser took apart (`reasoning_content`, `thinking`) is the thinking part.

    Raises:
        InputError: If there are several messages: the policy is not rewarded for what tools said.
    """
    if isinstance(completion, str):
        return completion
    roles = [message["role"] for message in completion]
    if roles != ["assistant"]:
        raise InputError(
            f"a completion is one message of the assistant, not {roles}: rollouts with tools are not judged"
        )
    (message,) = completion
    response = text_of(message.get("content"))
    thinking = text_of(message.get("reasoning_content") or message.get("thinking"))
    return Trace.from_parts(thinking=thinking, response=response) if thinking.strip() else response
