r"""A response as regions of thinking and of response, without the markers between them.

In: a text. Out: its regions. Knows nothing of steps.

A marker that is only mentioned is text. These count; "alone" is alone on its line:

    1. An opening marker at the very beginning, or one that begins a line, with its closing one on a later line.
    2. Its closing marker: the first one that begins or ends a line, stands directly behind text, or stands before a
       wrapper of the response; if there is none such, the first of all. Opening markers in between that are alone or
       double the first one nest: the thinking goes on to the closing marker that balances them, or to the last one. It
       goes on as well where another opening marker follows directly.
    3. A closing marker without an opening one: alone; or, with no opening marker before it on its line, before a
       wrapper, directly behind text, or at the end of a line behind a sentence. With `started` it counts as in 2.
    4. A wrapper of the response: the opening one that begins the response or a line, and the closing one behind it that
       ends a line or stands directly behind text.
    5. Any marker that is alone, wherever it stands, and the end of a turn (`<|im_end|>`) that is alone.

Thinking that nothing closes was cut off: there is no response.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from rfprm_lite.written.fences import fences
from rfprm_lite.written.forms import ENDS, Form, Markers, Part, Region, forms_of
from rfprm_lite.written.harmony import channels

_SENTENCE_ENDS = tuple(".!?…。！？")
_TEXT_ENDS = (*_SENTENCE_ENDS, *")]}$%*")
"""What a marker may stand directly behind, besides letters and digits. A blank or a quotation mark shows a mention."""


def regions(text: str, markers: Markers | None = None, *, started: bool = False) -> list[Region]:
    """The regions of a text, in order, thinking before response. None is blank.

    Args:
        text: The text.
        markers: The opening and the closing marker of its thinking; those of all known forms where None.
        started: Whether the text began in the thinking, its opening marker being part of the prompt.

    Raises:
        InputError: If the markers are none.
        InputTypeError: If they are no pair of texts.
    """
    forms = forms_of(markers)
    marks = _marks(text, forms)
    if markers is None and (found := channels(text, started=started and not marks)) is not None:
        return found
    if not marks:
        return [Region(0, len(text), "thinking" if started else "response")] if text.strip() else []
    thought = _thought(text, forms, marks, started=started)
    outside = [mark for mark in marks if not mark.in_code]
    cuts = [*thought.cuts, *_wrapped(forms, outside, thought.end), *(mark for mark in outside if mark.alone)]
    if not cuts:  # then nothing is stripped: the authors' split of a plain text
        whole = Region(0, len(text), "thinking" if thought.end else "response")
        return [whole] if text.strip() else []
    between = _between(text, sorted({(mark.start, mark.end) for mark in cuts}), thought.end)
    marker, _ = _patterns(forms)
    return [region for region in between if marker.sub("", text[region.start : region.end]).strip()]


def _between(text: str, cuts: Sequence[tuple[int, int]], thinking_end: int) -> Iterator[Region]:
    """What stands between the cuts, without the blanks beside them."""
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(text)]
    for start, end in zip(starts, ends, strict=True):
        inner = text[start:end]
        if inner.strip():
            first = start + len(inner) - len(inner.lstrip())
            part: Part = "thinking" if first < thinking_end else "response"
            yield Region(first, start + len(inner.rstrip()), part)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A marker in the text, counted or not.

    Attributes:
        text: The marker.
        start: Where it begins.
        end: Where it ends.
        line: The number of its line.
        begins: Whether nothing but markers stands before it on its line.
        ends: Whether nothing but markers stands behind it on its line.
        gap: The text between the marker before it, or the beginning, and it.
        after: The character behind it; "" at the end.
        leads: Whether a wrapper of the response follows.
        in_code: Whether it stands in fenced code.
    """

    text: str
    start: int
    end: int
    line: int
    begins: bool
    ends: bool
    gap: str
    after: str
    leads: bool
    in_code: bool

    @property
    def alone(self) -> bool:
        return self.begins and self.ends

    @property
    def doubles(self) -> bool:
        """Whether nothing stands between it and the marker before it, or the beginning."""
        return not self.gap.strip()

    @property
    def at_beginning(self) -> bool:
        """Whether nothing stands before it in the text."""
        return self.start == len(self.gap) and self.doubles

    @property
    def behind_text(self) -> bool:
        """Whether it stands directly behind text, which no mention in a sentence does."""
        return self.gap[-1:].isalnum() or self.gap.endswith(_TEXT_ENDS)

    @property
    def closes(self) -> bool:
        """Whether it closes thinking that is known to be open."""
        return self.begins or self.ends or self.behind_text or self.leads

    @property
    def closes_unopened(self) -> bool:
        """Whether it closes thinking whose opening marker is not in the text."""
        if self.alone or self.leads:
            return True
        if self.behind_text or self.at_beginning:
            return self.after.isalnum() or (self.behind_text and not self.after.strip())
        return self.ends and self.gap.rstrip(" \t").endswith(_SENTENCE_ENDS)


def _marks(text: str, forms: tuple[Form, ...]) -> list[_Mark]:
    pattern, openings = _patterns(forms)
    found = list(pattern.finditer(text))
    edges = [0, *(edge for match in found for edge in match.span()), len(text)]
    gaps = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    begins, ends = [True], [True]
    for gap in gaps[:-1]:
        begins.append(gap.rstrip(" \t").endswith("\n") or (begins[-1] and not gap.strip(" \t")))
    for gap in reversed(gaps[1:]):
        ends.append(gap.lstrip(" \t\r").startswith("\n") or (ends[-1] and not gap.strip(" \t\r")))
    ends.reverse()
    in_code = _code(text)
    marks: list[_Mark] = []
    line = 0
    for i, match in enumerate(found):
        line += gaps[i].count("\n")
        leads = i + 1 < len(found) and found[i + 1].group() in openings and not gaps[i + 1].strip()
        start, end = match.span()
        around = (line, begins[i + 1], ends[i], gaps[i], text[end : end + 1], leads, in_code(start))
        marks.append(_Mark(match.group(), start, end, *around))
    return marks


def _code(text: str) -> Callable[[int], bool]:
    """Whether a character stands within a block of fenced code that has an end."""
    blocks = [fence for fence in fences(text) if fence.closed]
    starts = [block.start for block in blocks]
    return lambda at: (i := bisect_right(starts, at)) > 0 and at < blocks[i - 1].end


@lru_cache(maxsize=16)
def _patterns(forms: tuple[Form, ...]) -> tuple[re.Pattern[str], frozenset[str]]:
    """What finds every marker, those of thinking before others, and the opening wrappers among them."""
    thinking = sorted((marker for form in forms for marker in (form.open, form.close)), key=len, reverse=True)
    wrappers = [marker for form in forms for pair in form.wrappers for marker in pair]
    markers = dict.fromkeys([*thinking, *wrappers, *ENDS])
    openings = frozenset(pair[0] for form in forms for pair in form.wrappers)
    return re.compile("|".join(map(re.escape, markers))), openings


@dataclass(frozen=True, slots=True)
class _Thought:
    """Where the thinking ends, 0 if there is none, and the markers of it that count."""

    end: int = 0
    cuts: tuple[_Mark, ...] = ()

    @property
    def first(self) -> int:
        return self.cuts[0].start


def _thought(text: str, forms: Sequence[Form], marks: Sequence[_Mark], *, started: bool) -> _Thought:
    """The thinking of a text. The opening marker at the very beginning decides the form, or else what counts first."""
    first = marks[0]
    for form in forms:
        if first.text == form.open and first.at_beginning:
            return _open(text, form, _own(form, marks[1:]), first)
    if started:
        thoughts = [_open(text, form, _own(form, marks)) for form in forms]
        return min((t for t in thoughts if t.cuts), key=lambda t: t.first, default=_Thought(len(text)))
    thoughts = [_unopened(text, form, [m for m in marks if form.has(m.text) and not m.in_code]) for form in forms]
    return min((t for t in thoughts if t.cuts), key=lambda t: t.first, default=_Thought())


def _own(form: Form, marks: Sequence[_Mark]) -> list[_Mark]:
    """The marks of a form where thinking is open.

    Those in code count where no other closes it: thinking may break off within code.
    """
    own = [mark for mark in marks if form.has(mark.text)]
    outside = [mark for mark in own if not mark.in_code]
    return outside if any(mark.text == form.close and mark.closes for mark in outside) else own


def _unopened(text: str, form: Form, marks: Sequence[_Mark]) -> _Thought:
    """Rules 1 and 3, for a text that does not begin with an opening marker."""
    last_line = max((mark.line for mark in marks if mark.text == form.close and mark.closes), default=-1)
    opened_on = -1
    for i, mark in enumerate(marks):
        if mark.text == form.open:
            opened_on = mark.line
            if mark.begins and mark.line < last_line:
                return _open(text, form, marks[i + 1 :], mark)
        elif mark.alone or (mark.closes_unopened and opened_on < mark.line):
            return _open(text, form, marks[i:])
    return _Thought()


def _open(text: str, form: Form, marks: Sequence[_Mark], *counted: _Mark) -> _Thought:
    """The thinking that is open before some marks of its form (rule 2). counted: its opening marker."""
    cuts = list(counted)
    last = max((i for i, mark in enumerate(marks) if mark.text == form.close and mark.closes), default=-1)
    at = 0
    while (close := _closing(form, marks, at, last)) is not None:
        cuts += [mark for mark in marks[at:close] if (mark.doubles if mark.text == form.open else mark.closes)]
        cuts.append(marks[close])
        at = close + 1
        while at < len(marks) and marks[at].doubles and marks[at].text == form.close:
            cuts.append(marks[at])
            at += 1
        if at == len(marks) or not marks[at].doubles:
            return _Thought(cuts[-1].end, tuple(cuts))
        cuts.append(marks[at])  # another opening one follows directly
        at += 1
    return _Thought(len(text), (*cuts, *takewhile(lambda mark: mark.doubles, marks[at:])))


def _closing(form: Form, marks: Sequence[_Mark], at: int, last: int) -> int | None:
    """The mark that closes the thinking which is open before marks[at]. last: the last one that closes anything."""
    if last < at:
        return next((i for i in range(at, len(marks)) if marks[i].text == form.close), None)
    depth = 1
    for i in range(at, last):
        mark = marks[i]
        if mark.text == form.open:
            depth += mark.alone or mark.doubles
        elif mark.closes:
            depth -= 1
        if depth == 0:
            return i
    return last


def _wrapped(forms: Sequence[Form], marks: Sequence[_Mark], thinking_end: int) -> Iterator[_Mark]:
    """The wrappers of the response that count (rule 4)."""
    response = [mark for mark in marks if mark.start >= thinking_end]
    first = response[0] if thinking_end and response and response[0].doubles else None
    for opening, closing in dict.fromkeys(pair for form in forms for pair in form.wrappers):
        opened: _Mark | None = None
        mentioned = False
        for mark in response:
            if mark.text == opening:
                opened = mark if mark.begins or mark is first else opened
                mentioned = not (mark.begins or mark is first)
            elif mark.text == closing and opened:
                if mark.ends or mark.behind_text or opened is first:
                    yield from (opened, mark)
                    opened = None
            elif mark.text == closing:
                if mark.ends and mark.behind_text and not mentioned:
                    yield mark
                mentioned = False
        if opened and (opened is first or opened.after.strip()):  # its response was cut off
            yield opened
