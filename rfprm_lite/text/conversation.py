"""The question that a PRM judges answers to: a problem as text, or a chat conversation in its place.

In: a problem, a conversation or a `Question`, and a recipe. Out: the pieces of the template up to where the steps
begin. Knows nothing of tokens.

A conversation is a list of messages as `messages.py` reads them. It ends with a message of the user, and the response
to that is judged. It is written as the checkpoint's own chat template writes it: a system message of the conversation
takes the place of the recipe's. What the template can't write is an error, not left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rfprm_lite.bundle.pieces import Atom, Slot, filled, slot_names
from rfprm_lite.bundle.recipe import Chat, Recipe
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed_again
from rfprm_lite.question import Question
from rfprm_lite.text.messages import Message, read
from rfprm_lite.trace import Problem, require_text

EXTRAS = ("reference", "choices")


def prompt_pieces(problem: Problem, recipe: Recipe) -> list[Atom]:
    """The pieces up to the first step, with the problem in them.

    Args:
        problem: Text, a conversation, or a `Question` with more.
        recipe: How the PRM is scored.

    Raises:
        InputError: If the problem is empty, if the conversation can't be judged, if it has more than one message and
            the recipe knows no chat template, or if a `Question` has more than the recipe reads, or less.
        InputTypeError: If it is neither text nor a list of messages.
    """
    question = problem if isinstance(problem, Question) else Question(problem)
    texts = _extras(question, recipe)
    if not isinstance(question.problem, str):
        messages = _messages(question.problem)
        if len(messages) > 1:
            return _conversation(messages, recipe)
        question = Question(messages[0][1])
    _require_content("the problem", question.problem)
    texts["problem"] = str(question.problem)
    return filled(recipe.opening, lambda slot: texts[slot.name])


def _extras(question: Question, recipe: Recipe) -> dict[str, str]:
    """The texts for the slots beside the problem."""
    slots = {piece.name: piece for piece in recipe.opening if isinstance(piece, Slot)}
    texts: dict[str, str] = {}
    for name in EXTRAS:
        value = getattr(question, name)
        if value is not None:
            require_text(f"the {name} of the question", value)
            if name not in slots:
                raise InputError(f"{recipe.name} reads no {name}: leave it out of the Question")
        elif name in slots:
            value = slots[name].default
            if value is None:
                raise InputError(f"{recipe.name} reads a {name}: give it by Question(problem, {name}=...)")
        if value is not None:
            texts[name] = value
    return texts


def _conversation(messages: list[tuple[str, str]], recipe: Recipe) -> list[Atom]:
    chat = recipe.chat
    extras = sorted(set(slot_names(recipe.opening)) & set(EXTRAS))
    if chat is None or extras:
        reads = f"a {extras[0]} beside the problem" if extras else "a problem without a chat template"
        raise InputError(
            f"{recipe.name} reads {reads}: a conversation must be one message of the user, not "
            f"{[role for role, _ in messages]}"
        )
    turns = [atom for i, message in enumerate(messages) for atom in _turn(i, *message, chat, recipe.name)]
    if messages[0][0] != "system" and chat.system is not None:
        turns = [*_turn(0, "system", chat.system, chat, recipe.name), *turns]
    return [*filled(chat.begin, _no_slot), *turns, *filled(chat.opening, _no_slot)]


def _turn(i: int, role: str, content: str, chat: Chat, name: str) -> list[Atom]:
    if role not in chat.turns:
        raise InputError(
            f"message {i} of the conversation, of role {role!r}, has no place in the chat template of {name}, "
            f"which has {', '.join(chat.turns)}"
        )
    for text in chat.refuse if role == "assistant" else ():
        if text in content:
            raise InputError(
                f"message {i} of the conversation holds {text!r}, around which the chat template of {name} changes an "
                "answer: leave out what it would, the thinking part"
            )
    return filled(chat.turns[role], lambda _: content)


def _no_slot(slot: Slot) -> str:
    raise InputError(f"the chat template has the slot {slot.name} outside its messages")


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
