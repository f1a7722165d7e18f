"""The question that a PRM judges answers to: a problem as text, or a chat conversation in its place.

In: a problem or a conversation, and a recipe. Out: the pieces of the template up to where the steps begin. Knows
nothing of tokens.

A conversation is a list of messages as `messages.py` reads them. It ends with a message of the user, and the response
to that is judged. It is written as the checkpoint's own chat template writes it: a system message of the conversation
takes the place of the recipe's. What the template can't write is an error, not left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rfprm_lite.bundle.recipe import Piece, Recipe, Slot, Text, written
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed_again
from rfprm_lite.text.messages import Message, read
from rfprm_lite.trace import Problem, require_text

ROLES = ("system", "user", "assistant")


def prompt_pieces(problem: Problem, recipe: Recipe) -> list[Piece]:
    """The recipe's template with the problem in it, without the slot of the steps.

    Args:
        problem: Text, or a conversation.
        recipe: How the PRM is scored.

    Raises:
        InputError: If the problem is empty, if the conversation can't be judged, or if it has more than one message and
            the recipe knows no chat template.
        InputTypeError: If it is neither text nor a list of messages.
    """
    if isinstance(problem, str):
        return _filled(recipe.template, problem)
    messages = _messages(problem)
    if len(messages) == 1:
        return _filled(recipe.template, messages[0][1])
    if recipe.chat is None:
        raise InputError(
            f"{recipe.name} reads a problem without a chat template: a conversation must be one message of the user, "
            f"not {[role for role, _ in messages]}"
        )
    if messages[0][0] != "system":
        messages.insert(0, ("system", recipe.chat.system))
    turns = [piece for role, content in messages for piece in written(recipe.chat.message, role, Text(content))]
    return [*turns, *recipe.chat.opening]


def _filled(template: Sequence[Piece], problem: str) -> list[Piece]:
    _require_content("the problem", problem)
    return [Text(problem) if isinstance(piece, Slot) else piece for piece in template[:-1]]


def _messages(conversation: object) -> list[tuple[str, str]]:
    """Role and content of each message."""
    if isinstance(conversation, (bytes, Mapping)) or not isinstance(conversation, Iterable):
        raise InputTypeError(f"a problem is text or a list of messages, not one {type(conversation).__name__}")
    values = listed_again("the messages of a problem", conversation)
    messages = [_read(value, f"message {i} of the conversation") for i, value in enumerate(values)]
    roles = [message.own_role for message in messages]
    if not messages or messages[-1].role != "user":
        raise InputError(
            f"a conversation ends with a message of the user, whose response is judged; its roles: {roles}"
        )
    if any(message.role == "system" for message in messages[1:]):
        raise InputError(f"a system message comes first in a conversation, and is the only one; its roles: {roles}")
    return [(message.role, message.text or "") for message in messages]


def _read(value: object, where: str) -> Message:
    """A message, if the template has a place for all that it holds."""
    message = read(value, where)
    if not message.role:
        raise InputTypeError(f"{where} has no role: {value!r:.60}")
    named = f"{where}, of role {message.own_role!r},"
    if message.role not in ROLES:
        raise InputError(f"{named} has no place in the PRM's chat template, which has {', '.join(ROLES)}")
    if message.tool_calls:
        raise InputError(f"{named} has 'tool_calls', which the PRM's chat template has no place for")
    if message.thinking:
        raise InputError(
            f"{named} has thinking in {message.thinking_key!r}, which the PRM's chat template has no place for: chat "
            "templates leave out what was thought in earlier turns; take it out, or put it into the content"
        )
    if message.text is None:
        raise InputError(f"{named} has no 'content'")
    require_text(f"the content of {where}", message.text)
    if message.role == "user":
        _require_content(where, message.text)
    return message


def _require_content(what: str, content: object) -> None:
    require_text(what, content)
    if not str(content).strip():
        raise InputError(f"{what} is empty: a reward without a problem means nothing")
