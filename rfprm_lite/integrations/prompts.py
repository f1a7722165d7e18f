"""The way from a trainer's prompts and completions to the problems and responses of a PRM.

A prompt is text or a conversation, a list of messages as `text/messages.py` reads them. Needs no other library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed
from rfprm_lite.text.messages import read, response_of
from rfprm_lite.trace import Problem, Response, Unsplit
from rfprm_lite.written.forms import FORMS

Message: TypeAlias = Mapping[str, object]
Prompt: TypeAlias = str | Sequence[Message]
ProblemOf: TypeAlias = Callable[[Prompt], Problem]
"""The way from a prompt to the problem of a PRM."""

_RENDERED = (
    "<|im_start|>",  # Qwen, ChatML
    "<|start_header_id|>",  # Llama 3
    "<|header_start|>",  # Llama 4
    "<start_of_turn>",  # Gemma
    "[INST]",  # Mistral
    "<｜User｜>",  # DeepSeek
    "<|start|>user",  # gpt-oss
    "<|START_OF_TURN_TOKEN|>",  # Command
    "<|user|>",  # Phi, GLM
)
"""What a chat template leaves in a prompt that it rendered."""


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


def opens_thinking(prompt: Prompt) -> bool:
    """Whether a prompt ends with an opening marker, so that the completion begins in the thinking."""
    return isinstance(prompt, str) and prompt.rstrip().endswith(tuple(form.open for form in FORMS))


def completed(completion: object, *, started_thinking: bool = False) -> Response:
    """A completion as a response: text, or a message of the assistant, alone or in a list; it may have no role.

    Args:
        completion: The completion.
        started_thinking: Whether its prompt ended with the opening marker of the thinking.

    Thinking that a chat template's parser took apart is the thinking part.

    Raises:
        InputError: If there are several messages: the policy is not rewarded for what tools said. Or if the message
            holds what can't be read; the error names the key.
        InputTypeError: If it is no completion.
    """
    if isinstance(completion, str):
        return Unsplit(completion, started_thinking=True) if started_thinking else completion
    if not isinstance(completion, Iterable):
        raise InputTypeError(f"a completion is text or a message, not {type(completion).__name__}")
    messages = [completion] if isinstance(completion, Mapping) else listed("the messages of a completion", completion)
    read_messages = [read(message, f"message {i} of the completion") for i, message in enumerate(messages)]
    if len(read_messages) != 1:
        roles = [message.own_role or "none" for message in read_messages]
        raise InputError(
            f"a completion is one message of the assistant, not {roles}: rollouts with tools are not judged"
        )
    response = response_of(read_messages[0], "the completion")
    return completed(response, started_thinking=started_thinking) if isinstance(response, str) else response
