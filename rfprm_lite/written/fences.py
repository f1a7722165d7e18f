"""Fenced code, as Markdown (CommonMark) has it: from a line of three or more ` or ~ to another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

OPENING = r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*$"
_OPENING = re.compile(OPENING, re.MULTILINE)
_CLOSING = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*(?=\r?$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fence:
    """A block of fenced code. closed: whether it has an end; without one it goes on to the end of the text."""

    start: int
    end: int
    closed: bool


def fence_at(text: str, opening: re.Match[str]) -> Fence:
    """The block that an opening line begins."""
    for line in _CLOSING.finditer(text, opening.end()):
        if line.group(1).startswith(opening["fence"]):
            return Fence(opening.start(), line.end(), closed=True)
    return Fence(opening.start(), len(text), closed=False)


def fences(text: str) -> Iterator[Fence]:
    """All blocks of a text, in order."""
    at = 0
    while opening := _OPENING.search(text, at):
        fence = fence_at(text, opening)
        at = fence.end
        yield fence
