"""The question that a PRM judges answers to: a problem as text, or a chat conversation in its place.

In: a problem or a conversation, and a recipe. Out: the pieces of the template up to where the steps begin. Knows
nothing of tokens.

A conversation is a list of messages, each a mapping of `role` (system, user or assistant) and `content` (text, or parts
of type text), as chat APIs have them; what else a message has is passed over. It ends with a message of the user, and
the response to that is judged. It is written as the checkpoint's own chat template writes it: a system message of the
conversation takes the place of the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rfprm_lite.bundle.recipe import Piece, Recipe, Slot, Text, written
from rfprm_lite.errors import InputError, InputTypeError
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
    if isinstance(conversation, (bytes, Mapping)) or not isinstance(conversation, Sequence):
        raise InputTypeError(f"a problem is text or a list of messages, not {type(conversation).__name__}")
    messages = [_message(i, message) for i, message in enumerate(conversation)]
    roles = [role for role, _ in messages]
    if not roles or roles[-1] != "user":
        raise InputError(
            f"a conversation ends with a message of the user, whose response is judged; its roles: {roles}"
        )
    if "system" in roles[1:]:
        raise InputError(f"a system message comes first in a conversation; its roles: {roles}")
    return messages


def _message(i: int, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise InputTypeError(f"message {i} of the conversation is no mapping with role and content: {message!r:.60}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise InputError(f"message {i} of the conversation is of role {role!r}; there are {', '.join(ROLES)}")
    text = text_of(content)
    _require_content(f"message {i} of the conversation", text)
    return role, text


def text_of(content: object) -> str:
    """The text of a message, which may come in parts; empty for a message without content.

    Raises:
        InputError: If a part is no text.
        InputTypeError: If the content is neither text nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise InputTypeError(f"the content of a message is text or a list of parts, not {type(content).__name__}")
    kinds = [part.get("type") for part in content]
    if set(kinds) - {"text"}:
        raise InputError(f"a PRM reads text alone, and a message has parts {kinds}")
    return "".join(str(part.get("text", "")) for part in content)


def _require_content(what: str, content: object) -> None:
    require_text(what, content)
    if not str(content).strip():
        raise InputError(f"{what} is empty: a reward without a problem means nothing")
