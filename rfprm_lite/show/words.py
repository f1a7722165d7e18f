"""Small texts that every view shares."""

from __future__ import annotations

import unicodedata

from rfprm_lite.plan.usage import Usage

_UNSEEN = ("Cc", "Cf", "Cs")


def tokens_line(tokens: Usage) -> str:
    """The token counts of a result, in words."""
    saved = tokens.reused / tokens.total if tokens.total else 0.0
    skipped = f", {tokens.skipped} not read" if tokens.skipped else ""
    return (
        f"{tokens.computed} of {tokens.total} tokens computed, "
        f"{tokens.reused} reused from shared prefixes ({saved:.0%}){skipped}"
    )


def counted(number: int, what: str) -> str:
    """A number and its noun: `1 step`, `2 steps`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    """The text with everything escaped that could drive a terminal or reorder a line.

    These are control and format characters but newlines and tabs, lone surrogates, and what is no character at all,
    which XML can't hold.
    """
    return "".join(c if _is_seen(c) else f"\\x{ord(c):02x}" for c in text)


def _is_seen(c: str) -> bool:
    code = ord(c)
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return False
    return c in "\n\t" or unicodedata.category(c) not in _UNSEEN
