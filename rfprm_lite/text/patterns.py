r"""The regular expressions of a tokenizer.json: those that could take for ever are found before one is run.

In: the file's bytes. Out: nothing, or an error that quotes the expression. The time of a backtracking search grows
exponentially with the text only where a group is repeated, `(a+)+` or `(a|aa)*`, or where something refers back, `\1`.
No known tokenizer does that, so none may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from rfprm_lite.errors import BundleFormatError

LONGEST = 10_000
"""Characters of an expression. The longest known ones have a tenth of it, and all parts of one are tried at a place."""

_PART = re.compile(
    r"""
    (?P<back> \\[1-9] | \\[kg][<'{] )
    | (?P<atom> \\[pPxo]\{[^}]*\} | \\. )
    | (?P<comment> \(\?\#[^)]*\) )
    | (?P<open> \((?: \?(?: [aims-]*: | [=!>] | <[=!] | <\w+> | '\w+' | P<\w+> ) | (?!\?) ) )
    | (?P<flags> \(\?[aims-]*\) )
    | (?P<odd> \(\? )
    | (?P<close> \) )
    | (?P<repeat> [*+] | \{\d*,?\d*\} )
    | (?P<class> \[ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_CLASS = re.compile(r"\\.|\[:\^?\w+:\]|(?P<open>\[)|(?P<close>\])|.", re.DOTALL)


class _Parts(msgspec.Struct):
    """The parts of a tokenizer.json that hold expressions which a text is searched with."""

    normalizer: Any = None
    pre_tokenizer: Any = None


def require_quick(data: bytes) -> None:
    """Check the expressions of a tokenizer.json.

    Args:
        data: The file. What is no JSON is left to the tokenizers library.

    Raises:
        BundleFormatError: If one could take for ever.
    """
    try:
        parts = msgspec.json.decode(data, type=_Parts)
        found = [*_patterns(parts.normalizer), *_patterns(parts.pre_tokenizer)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleFormatError(f"it is no JSON of a tokenizer: {error}") from error
    for pattern in found:
        if len(pattern) > LONGEST:
            raise BundleFormatError(f"its regular expression {pattern!r:.80} has {len(pattern)} characters")
        if reason := endless(pattern):
            raise BundleFormatError(f"its regular expression {pattern!r:.200} {reason}, so that it could take for ever")


def endless(pattern: str) -> str | None:
    """Why a search could take for ever, in words; None if it can't."""
    at, behind_group = 0, False
    while at < len(pattern):
        part = _PART.match(pattern, at)
        kind = part.lastgroup if part else None
        if part is None or kind in ("back", "odd"):
            return "refers back, or is of a kind that no tokenizer needs"
        if kind == "repeat" and behind_group and part.group() not in ("{0,1}", "{,1}", "{1}"):
            return "repeats a group"
        if kind not in ("comment", "flags") and part.group() != "?":  # what stands between a group and its repeat
            behind_group = kind == "close"
        at = _class_end(pattern, part.end()) if kind == "class" else part.end()
    return None


def _class_end(pattern: str, at: int) -> int:
    """Where a class of characters ends, which may hold others."""
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):
        at += 1
    depth = 1
    while depth and (part := _IN_CLASS.match(pattern, at)):
        at = part.end()
        depth += (part.lastgroup == "open") - (part.lastgroup == "close")
    return at


def _patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)
