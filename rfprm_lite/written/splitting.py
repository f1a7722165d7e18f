r"""The ways to split text into steps: a table of names, a separator, or a function.

In: a text. Out: the spans of its steps, in order. Knows nothing of thinking, traces or models.

    blank-lines   the authors' rule (ReasonFlux_PRM/README.md), `text.split("\n\n")`; "\r\n" counts as "\n"
    lines         every line
    markdown      blank lines, but not inside fenced code, `$$ ... $$` and `\[ ... \]`
    whole         the whole text as one step, as outcome models read it
    other text    that text as the separator, as `str.split` has it
    a function    what it gives: pieces of the text, or their spans

Pieces of whitespace alone are no steps. Nothing is stripped from the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from operator import index
from typing import SupportsIndex

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed
from rfprm_lite.written.fences import OPENING, fence_at

Span = tuple[int, int]
Splitter = str | Callable[[str], Iterable[str | Span]]
"""A name of the table above, a separator, or a function that gives the pieces of a text or their spans, in order."""

BLANK_LINES = "blank-lines"
"""The default, the authors' rule."""

WHOLE = "whole"

_BLANK_LINE = re.compile(r"\r?\n\r?\n")
_LINE_END = re.compile(r"\r?\n")
_EMPTY_LINES = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")
_OPENING = re.compile(rf"{OPENING}|\$\$|(?<!\\)\\\[", re.MULTILINE)


def split(text: str, splitter: Splitter) -> list[Span]:
    """The spans of a text's steps, in order; none is blank.

    Args:
        text: The text.
        splitter: How it is split.

    Raises:
        InputError: If the splitter is an empty text or nearly one of the names, or if a function's pieces leave
            something out.
        InputTypeError: If it is neither text nor a function, or gives something else.
    """
    return [(start, end) for start, end in _pieces(text, splitter) if text[start:end].strip()]


def require_splitter(splitter: Splitter) -> Splitter:
    """The same splitter, checked as `split` does."""
    _pieces("", splitter)
    return splitter


def _pieces(text: str, splitter: Splitter) -> Iterable[Span]:
    if not isinstance(splitter, str):
        if not callable(splitter):
            raise InputTypeError(f"a splitter is a name, a separator or a function, not {type(splitter).__name__}")
        return _placed(text, splitter(text)) if text else ()
    if splitter in NAMED:
        return NAMED[splitter](text)
    if not splitter:
        raise InputError(f"an empty text separates nothing: a splitter is one of {', '.join(NAMED)}, or a separator")
    if near := get_close_matches(splitter.lower().replace("_", "-"), NAMED, cutoff=0.8):
        raise InputError(f"splitter={splitter!r}: is {near[0]!r} meant? There are {', '.join(NAMED)}, or a separator")
    return _between(text, re.finditer(re.escape(splitter), text))


def _between(text: str, separators: Iterable[re.Match[str]]) -> Iterator[Span]:
    start = 0
    for separator in separators:
        yield start, separator.start()
        start = separator.end()
    yield start, len(text)


def _markdown(text: str) -> Iterator[Span]:
    blocks = _blocks(text)
    block = next(blocks, None)
    separators: list[re.Match[str]] = []
    for separator in _EMPTY_LINES.finditer(text):
        while block and block[1] <= separator.start():
            block = next(blocks, None)
        if block is None or separator.start() < block[0]:
            separators.append(separator)
    return _between(text, separators)


def _blocks(text: str) -> Iterator[Span]:
    """Fenced code, which without an end goes on to the end of the text as in Markdown, and displays, which must end."""
    at = 0
    unclosed: set[str] = set()
    while opening := _OPENING.search(text, at):
        at = opening.end()
        if opening["fence"]:
            at = fence_at(text, opening).end
            yield opening.start(), at
        elif (close := "$$" if opening.group() == "$$" else r"\]") not in unclosed:
            end = text.find(close, at)
            if end < 0:
                unclosed.add(close)
            else:
                at = end + len(close)
                yield opening.start(), at


def _placed(text: str, pieces: object) -> Iterator[Span]:
    """The spans of a function's pieces: nothing but blanks may stand between them."""
    at = 0
    for i, piece in enumerate(listed("the pieces of a splitter", pieces)):
        start, end = _place(text, at, piece, i)
        _require_blank(text, at, start)
        yield start, end
        at = end
    _require_blank(text, at, len(text))


def _place(text: str, at: int, piece: object, i: int) -> Span:
    match piece:
        case str():
            start = text.find(piece, at)
            if start < 0:
                raise InputError(f"piece {i} of the splitter is not in the text behind the others: {piece!r:.60}")
            return start, start + len(piece)
        case (SupportsIndex() as first, SupportsIndex() as last):
            start, end = index(first), index(last)
            if not at <= start <= end <= len(text):
                raise InputError(f"piece {i} of the splitter spans {start} to {end}, behind {at}, of {len(text)}")
            return start, end
    raise InputTypeError(f"piece {i} of the splitter is neither text nor (start, end), but {type(piece).__name__}")


def _require_blank(text: str, start: int, end: int) -> None:
    if text[start:end].strip():
        raise InputError(
            f"the splitter leaves out characters {start} to {end}, {text[start:end]!r:.60}: its pieces hold all of the "
            "text but blanks; a separator that is dropped is given as the splitter itself"
        )


NAMED: dict[str, Callable[[str], Iterable[Span]]] = {
    BLANK_LINES: lambda text: _between(text, _BLANK_LINE.finditer(text)),
    "lines": lambda text: _between(text, _LINE_END.finditer(text)),
    "markdown": _markdown,
    WHOLE: lambda text: [(0, len(text))],
}
"""The splitters with names."""
