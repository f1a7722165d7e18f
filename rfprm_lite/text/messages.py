"""The one reader of chat messages: of conversations, trainers' completions and the rows of files.

In: a message as a chat API, a trainer or a data set has it. Out: a `Message`. Nothing that a message holds is dropped,
or turned into text that it is not: what is understood is read, anything else is an error that names its key.

    role        `role`, or `from` as ShareGPT has it; ROLES are the names that are known
    text        `content`, `value` or `parts`, as text or as parts of the types in PARTS; `refusal`
    thinking    THINKING_KEYS, and the parts of thinking
    tool calls  `tool_calls`, for whoever can write them
    passed by   METADATA, and whatever holds nothing: None, False, empty texts, lists and mappings
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Literal

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed, listed_again
from rfprm_lite.trace import DELIMITER, Problem, Response, Unsplit
from rfprm_lite.written.thinking import regions

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "ai", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
}
"""The known names of roles, and what they are here."""

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "parts")
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details", "thinking_blocks")
"""Where servers put the thinking: the same in several keys, at times."""

Kind = Literal["text", "thinking"]
PARTS: dict[str, tuple[Kind, str]] = {
    "text": ("text", "text"),
    "input_text": ("text", "text"),
    "output_text": ("text", "text"),
    "refusal": ("text", "refusal"),
    "thinking": ("thinking", "thinking"),
    "thought": ("thinking", "thought"),
    "reasoning": ("thinking", "reasoning"),
    "reasoning_text": ("thinking", "text"),
    "reasoning.text": ("thinking", "text"),
    "reasoning.summary": ("thinking", "summary"),
    "summary_text": ("thinking", "text"),
}
"""The types of parts that are text: which, and the key that holds it, if not `text` or `summary`."""

METADATA = frozenset(
    (
        *("author", "model", "name", "object", "provider", "source", "user"),  # who
        *("created", "created_at", "date", "time", "timestamp", "updated_at"),  # when
        *("hash", "id", "index", "tool_call_id", "uuid"),  # which
        *("end_turn", "finish_reason", "status", "stop_reason", "stop_sequence"),  # how it ended
        *("logprobs", "num_tokens", "token_count", "token_ids", "tokens", "usage", "usage_metadata"),
        *("loss", "mask", "rank", "rating", "train", "weight"),  # for training
        *("annotations", "cache_control", "citations", "closed", "format", "signature"),
        *("thought_signature", "thoughtSignature"),
        *("lang", "language", "meta", "metadata", "response_metadata"),
    )
)
"""The keys that say something about a message, or a part, and hold nothing of it."""
_UNDERSTOOD = {"type", *ROLE_KEYS, *CONTENT_KEYS, *THINKING_KEYS, "refusal", "tool_calls", *METADATA}


@dataclass(frozen=True, slots=True)
class Message:
    """A message, read.

    Attributes:
        role: "system", "user", "assistant" or "tool"; "" where it has none.
        text: What it says; None where it has no content.
        thinking: What was thought before; "" if nothing was.
        thinking_key: The key that held the thinking.
        tool_calls: The calls of tools, as they are.
        own_role: The role by the message's own name, such as "developer".
    """

    role: str
    text: str | None
    thinking: str = ""
    thinking_key: str = ""
    tool_calls: tuple[Any, ...] = ()
    own_role: str = ""


def read(message: object, where: str) -> Message:
    """A message.

    Args:
        message: A mapping, or an object of a chat library that gives one (`model_dump` or `to_dict`).
        where: What errors call it: "message 2 of the conversation".

    Raises:
        InputError: If it holds what can't be read; the error names the key.
        InputTypeError: If it is no message, or if something in it is of the wrong type.
    """
    fields = _fields(message, where)
    _require_understood(fields, _UNDERSTOOD, where)
    content = _only(fields, CONTENT_KEYS, where)
    pieces = _pieces(fields[content], f"{content!r} of {where}", "text") if content else []
    last = max((i + 1 for i, (kind, _) in enumerate(pieces) if kind == "thinking"), default=0)
    said = ["".join(text for _, text in pieces[last:])] if content else []
    if refusal := fields.get("refusal"):
        said.append("".join(text for _, text in _pieces(refusal, f"'refusal' of {where}", "text")))
    thoughts = {content or "": pieces[:last]}
    for key in THINKING_KEYS:
        if not _holds_nothing(fields.get(key)):
            thoughts[key] = _pieces(fields[key], f"{key!r} of {where}", "thinking")
    thinking_key, thinking = _agreed(thoughts, where)
    calls = fields.get("tool_calls")
    own_role = _role(fields, where)
    return Message(
        role=ROLES.get(own_role, ""),
        text=DELIMITER.join(filter(None, said)) if said else None,
        thinking=thinking,
        thinking_key=thinking_key,
        tool_calls=() if _holds_nothing(calls) else tuple(listed(f"'tool_calls' of {where}", calls)),
        own_role=own_role,
    )


def response_of(message: Message, where: str) -> Response:
    """What a message of the assistant answers: its text, or its thinking and its text.

    Args:
        message: The message; one without a role counts as the assistant's.
        where: What errors call it.

    Raises:
        InputError: If it is of another role, or calls tools, which a PRM does not read.
    """
    if message.role not in ("assistant", ""):
        raise InputError(f"{where} is of role {message.own_role!r}: a response is a message of the assistant")
    if message.tool_calls:
        raise InputError(f"{where}, of role 'assistant', has 'tool_calls': calls of tools are not judged")
    text = message.text or ""
    between_markers = "".join(text[part.start : part.end] for part in regions(text) if part.part == "thinking")
    if _squeezed(between_markers) == _squeezed(message.thinking):
        return text  # there is none, or the text holds it as well
    return Unsplit(text, message.thinking)


def exchange(messages: object, where: str = "the conversation") -> tuple[Problem, Response]:
    """The problem and the response of a conversation whose last message is the response, all before it the problem.

    Args:
        messages: Messages with role and content, or from and value.
        where: What errors call them: a column, say.

    Raises:
        InputError: If it does not end with a message of the assistant, or if that one can't be read.
        InputTypeError: If it is no list of messages.
    """
    *before, last = listed_again(where, messages) or [None]
    if last is None:
        raise InputError(f"{where} has no message")
    name = f"message {len(before)} of {where}"
    return before, response_of(read(last, name), name)


def _fields(message: object, where: str) -> Mapping[str, Any]:
    for name in ("model_dump", "to_dict"):
        if not isinstance(message, Mapping) and callable(convert := getattr(message, name, None)):
            message = convert()
    if not isinstance(message, Mapping):
        raise InputTypeError(f"{where} is no mapping with role and content: {message!r:.60}")
    return {key: value for key, value in message.items() if value is not None}


def _require_understood(fields: Mapping[str, Any], understood: Iterable[str], where: str) -> None:
    """Raise where a key holds something that nobody would read."""
    unread = [key for key, value in fields.items() if key not in understood and not _holds_nothing(value)]
    if unread:
        held = ", ".join(f"{key!r} ({fields[key]!r:.40})" for key in unread)
        raise InputError(f"{where} holds {held}, which a PRM does not read: take it out, or put it into the content")


def _only(fields: Mapping[str, Any], keys: Iterable[str], where: str) -> str | None:
    """The one of the keys that the message has, and that holds something if one does."""
    found = [key for key in keys if key in fields]
    filled = [key for key in found if not _holds_nothing(fields[key])]
    if len(filled) > 1:
        raise InputError(f"{where} has both {filled[0]!r} and {filled[1]!r}: only one of them can be meant")
    return next(iter(filled or found), None)


def _role(fields: Mapping[str, Any], where: str) -> str:
    key = _only(fields, ROLE_KEYS, where)
    kind = fields.get("type", "message")
    if not key and kind != "message":
        key = "type"  # as LangChain has it
    elif kind != "message":
        raise InputError(f"{where} has 'type' {kind!r:.40}: only a message is read")
    if not key:
        return ""
    role = fields[key]
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"{where} has {key!r} {role!r:.40}; the roles are {', '.join(ROLES)}")
    return role


def _pieces(value: object, what: str, kind: Kind) -> list[tuple[Kind, str]]:
    """The texts of a content, which may come in parts, each with what it is. kind: what plain text is."""
    if isinstance(value, str):
        return [(kind, value)]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise InputTypeError(f"{what} is text or a list of parts, not {type(value).__name__}")
    parts = [value] if isinstance(value, Mapping) else listed(what, value)
    return [piece for i, part in enumerate(parts) for piece in _part(part, f"part {i} of {what}", kind)]


def _part(part: object, what: str, kind: Kind) -> list[tuple[Kind, str]]:
    if not isinstance(part, Mapping):
        raise InputTypeError(f"{what} is no mapping: {part!r:.60}")
    held = {key: value for key, value in part.items() if not _holds_nothing(value)}
    name = held.get("type", "thinking" if held.get("thought") is True or "thinking" in held else "text")
    if not isinstance(name, str) or name not in PARTS:
        raise InputError(f"a PRM reads text alone, and {what} is of type {name!r:.40}")
    own, key = PARTS[name]
    keys = {key, "text", "summary"} if own == "thinking" else {key, "text"}
    flag = {"thought"} if held.get("thought") is True else set()
    _require_understood(held, {"type", *keys, *flag, *METADATA}, what)
    text = _only(held, sorted(keys), what)
    own = "thinking" if kind == "thinking" else own
    return [(own, piece) for _, piece in _pieces(held[text], f"{text!r} of {what}", own)] if text else []


def _agreed(thoughts: Mapping[str, list[tuple[Kind, str]]], where: str) -> tuple[str, str]:
    """The thinking and its key. Several keys may hold the same."""
    texts = {key: DELIMITER.join(text for _, text in pieces if text.strip()) for key, pieces in thoughts.items()}
    different: dict[str, str] = {}
    for key, text in texts.items():
        if text:
            different.setdefault(_squeezed(text), key)
    if len(different) > 1:
        raise InputError(f"{where} has different thinking in {' and '.join(map(repr, different.values()))}")
    return next(((key, texts[key]) for key in different.values()), ("", ""))


def _squeezed(text: str) -> str:
    """The text without blanks, by which two copies of it are known."""
    return "".join(text.split())


def _holds_nothing(value: object) -> bool:
    """Whether a value is but a place for one: None, False, NaN, or empty through and through."""
    if isinstance(value, Mapping):
        return all(_holds_nothing(inner) for inner in value.values())
    if isinstance(value, Sized):
        return len(value) == 0
    return value is None or value is False or (isinstance(value, float) and math.isnan(value))
