"""A tokenizer's chat template as data: the pieces that it writes around messages, found by rendering probes.

In: the checkpoint's tokenizer. Out: `ChatParts`, or a RecipeError where the template does what pieces can't say. What
is found is rendered again with other texts and compared: a template that looks into its messages is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

import msgspec
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rfprm_export.errors import RecipeError
from rfprm_export.families.family import ChatParts
from rfprm_lite.bundle.pieces import STRIPS, Atom, Piece, Slot, Special, Strip, Text, filled
from rfprm_lite.bundle.recipe import Chat

Message = Mapping[str, str]
USER, ANSWER = "Qzuser", "Qzanswer"
TODAY = "strftime_now"
"""The function by which a template asks for the date of the day."""
TREATED = ("</think>", "<think>")
"""Texts that templates are known to look for in an answer."""
PROBE = "\n \nmiddle \n "
"""A text by which every entry of STRIPS is told from the others."""


def chat_parts(tokenizer: PreTrainedTokenizerBase, system: str | None) -> ChatParts:
    """Find the parts of a chat template.

    Args:
        tokenizer: The checkpoint's own.
        system: The system message that is passed to the template; None for none.

    Raises:
        RecipeError: There is no template, it refuses plain messages, or it is not of parts.
    """
    if not tokenizer.chat_template:
        raise RecipeError(
            "the recipe needs a chat template, and the tokenizer has none: write what stands around the problem and "
            "the response as a recipe of your own (`rfprm-export recipes sequence-classification` prints one to start "
            "from), and give it by --recipe FILE.toml"
        )
    before = [{"role": "system", "content": system}] if system is not None else []
    opening, between, end = _between(render(tokenizer, [*before, *_turns(USER, ANSWER)]), USER, ANSWER)
    parts = {"open": opening, "answer": between, "end": end}
    following = _following(tokenizer, before, (opening, between, end))
    if following is not None:
        parts["next"] = following

    def with_earlier(text: str) -> tuple[str, str, str]:
        messages = [*_turns(USER, text), {"role": "user", "content": f"{USER}2"}]
        start, rest = _between(render(tokenizer, [*_turns(USER, ANSWER), messages[-1]]), ANSWER)
        return render(tokenizer, messages), start, rest

    def with_user(text: str) -> tuple[str, str, str]:
        return render(tokenizer, [*before, *_turns(text, ANSWER)]), opening, f"{between}{ANSWER}{end}"

    def with_answer(text: str) -> tuple[str, str, str]:
        return render(tokenizer, [*before, *_turns(USER, text)]), f"{opening}{USER}{between}", end

    strip = {"user": _strip(*with_user(PROBE)), "assistant": _strip(*with_answer(PROBE))}
    refuse = tuple(text for text in TREATED if not _is_plain(text, *with_answer(f"a{text}b")))
    pieces = {name: tuple(split(tokenizer, text)) for name, text in parts.items()}
    dated = TODAY in str(tokenizer.chat_template)
    try:
        earlier = _strip(*with_earlier(PROBE))
        treated = tuple(text for text in TREATED if not _is_plain(text, *with_earlier(f"a{text}b")))
        chat = chat_of(tokenizer, system, {"user": strip["user"], "assistant": earlier}, treated)
    except RecipeError:
        chat = None  # it writes no conversations, or changes earlier answers
    return ChatParts(pieces, strip, chat, refuse, dated)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Render messages by the tokenizer's own chat template.

    Raises:
        RecipeError: The template refuses them.
    """
    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False))
    except TemplateError as error:
        raise RecipeError(f"the tokenizer's chat template refuses a plain trace: {error}") from error


def split(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Piece]:
    """Split text of a template at the tokens that were added to the vocabulary."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    if not added:
        return [Text(text)] if text else []
    found = re.split(f"({'|'.join(map(re.escape, added))})", text)
    return [Special(part) if i % 2 else Text(part) for i, part in enumerate(found) if part]


def text_of(atoms: Sequence[Atom]) -> str:
    """The text of pieces, special tokens as they are written."""
    return "".join(
        atom.token if isinstance(atom, Special) else atom.text if isinstance(atom, Text) else "" for atom in atoms
    )


def _turns(user: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def _between(rendered: str, *marks: str | None) -> list[str]:
    """The parts of a text between marks; a mark that is None is passed over."""
    parts = [rendered]
    for mark in marks:
        if mark is None:
            continue
        before, found, after = parts.pop().partition(mark)
        if not found:
            raise RecipeError(f"the tokenizer's chat template does not write the text of a message: {rendered!r}")
        parts += [before, after]
    return parts


def _following(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[Message], single: tuple[str, str, str]
) -> str | None:
    """The part between an answer and the next message; None where the template writes several turns otherwise."""
    messages = [*before, *_turns(f"{USER}1", f"{ANSWER}1"), *_turns(f"{USER}2", f"{ANSWER}2")]
    try:
        parts = _between(render(tokenizer, messages), f"{USER}1", f"{ANSWER}1", f"{USER}2", f"{ANSWER}2")
    except RecipeError:
        return None
    opening, first, following, second, end = parts
    return following if (opening, first, end) == single and second == first else None


def _strip(rendered: str, before: str, after: str) -> Strip:
    """How a template strips PROBE."""
    for name, strip in STRIPS.items():
        if rendered == before + strip(PROBE) + after:
            return name
    raise RecipeError(f"the tokenizer's chat template changes the text of a message, {PROBE!r}, to {rendered!r}")


def _is_plain(text: str, rendered: str, before: str, after: str) -> bool:
    return rendered == f"{before}a{text}b{after}"


def chat_of(
    tokenizer: PreTrainedTokenizerBase, system: str | None, strip: Mapping[str, Strip], refuse: tuple[str, ...] = ()
) -> Chat | None:
    """How the template writes conversations; None where turns are not written alike wherever they stand.

    Args:
        tokenizer: The checkpoint's own.
        system: The system message that is passed to the template; None for none.
        strip: What it leaves out of the texts of a user's and of an earlier answer, by role.
        refuse: Texts that it treats specially within an earlier answer.
    """
    try:
        chat = _decomposed(tokenizer, strip)
    except (RecipeError, ValueError):
        return None
    chat = msgspec.structs.replace(chat, system=chat.system if system is None else system, refuse=refuse)
    for conversation in _conversations(USER, ANSWER, with_system="system" in chat.turns):
        default = (
            [] if system is None or conversation[0]["role"] == "system" else [{"role": "system", "content": system}]
        )
        answered = [*default, *conversation, {"role": "assistant", "content": ANSWER}]
        if not render(tokenizer, answered).startswith(_written(chat, conversation) + ANSWER):
            return None
    return chat


def _decomposed(tokenizer: PreTrainedTokenizerBase, strip: Mapping[str, Strip]) -> Chat:
    """The pieces before and behind the message of each role."""
    user = [{"role": "user", "content": USER}]
    opening, behind_user = _between(render(tokenizer, user), USER)
    to_last_answer = _between(render(tokenizer, _turns(USER, ANSWER)), USER, ANSWER)[1]
    again = [*_turns(USER, ANSWER), {"role": "user", "content": f"{USER}2"}]
    _, to_answer, to_user, _ = _between(render(tokenizer, again), USER, ANSWER, f"{USER}2")
    if not (to_last_answer.startswith(behind_user) and to_answer.startswith(behind_user)):
        raise RecipeError("a message of the user ends otherwise before an answer")
    before_user = _common_end(split(tokenizer, opening), split(tokenizer, to_user))
    begin = opening.removesuffix(before_user)
    turns = {
        "user": (before_user, behind_user),
        "assistant": (to_answer.removeprefix(behind_user), to_user.removesuffix(before_user)),
    }
    default: str | None = None
    try:
        with_system = render(tokenizer, [{"role": "system", "content": ANSWER}, *user])
        before_system, behind_system, _ = _between(with_system, ANSWER, USER)
    except RecipeError:
        behind_system = ""  # the template knows no system message, or writes it elsewhere
    if behind_system.endswith(before_user):
        behind_system = behind_system.removesuffix(before_user)
        if not before_system.startswith(begin) and begin.startswith(before_system) and begin.endswith(behind_system):
            default = begin.removeprefix(before_system).removesuffix(behind_system)
            begin = ""
        elif before_system.startswith(begin) and behind_system and begin.startswith(before_system):
            default, begin = "", ""
        turns["system"] = (before_system.removeprefix(begin), behind_system)
    slots = {role: Slot("content", strip["assistant" if role == "assistant" else "user"]) for role in turns}
    return Chat(
        {role: (*split(tokenizer, a), slots[role], *split(tokenizer, b)) for role, (a, b) in turns.items()},
        opening=tuple(split(tokenizer, to_last_answer.removeprefix(behind_user))),
        begin=tuple(split(tokenizer, begin)),
        system=default,
    )


def _conversations(user: str, answer: str, *, with_system: bool) -> list[list[Message]]:
    """Conversations to compare on: with blanks at the ends of messages, of several lengths."""
    short: list[Message] = [{"role": "user", "content": f" {user}\n"}]
    long: list[Message] = [*_turns(f"{user} 1", f"\n{answer} 1 "), *_turns(f"{user}\n\n2", answer), *short]
    system: list[Message] = [{"role": "system", "content": "Be brief. "}]
    return [short, long, *([[*system, *short], [*system, *long]] if with_system else [])]


def _written(chat: Chat, conversation: Sequence[Message]) -> str:
    default = chat.system is not None and conversation[0]["role"] != "system"
    system = [{"role": "system", "content": chat.system or ""}] if default else []

    def turn(message: Message) -> str:
        return text_of(filled(chat.turns[message["role"]], lambda _: message["content"]))

    def around(pieces: Sequence[Piece]) -> str:
        return text_of(filled(pieces, lambda _: ""))

    return around(chat.begin) + "".join(map(turn, [*system, *conversation])) + around(chat.opening)


def _common_end(one: Sequence[Piece], other: Sequence[Piece]) -> str:
    """The text in which both end; it begins within no special token."""
    same = ""
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            return (_same_letters(a.text, b.text) if isinstance(a, Text) and isinstance(b, Text) else "") + same
        same = text_of(filled([a], lambda _: "")) + same
    return same


def _same_letters(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other), strict=False))
    return "".join(a for a, _ in same)[::-1]
