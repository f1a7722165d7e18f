r"""A response as the steps that a PRM judges.

In: text, or steps, or a thinking trajectory and a response. Out: a `Trace`, whose spans tile its text. Knows
nothing of models, templates or tokens.

Text is split at blank lines (`\n\n`), as the authors of ReasonFlux-PRM do (ReasonFlux_PRM/README.md). A thinking
part is recognised in two written forms:

    1. Deepseek-R1: `<think> thinking </think> response`; the opening marker may be missing.
    2. Sky-T1: `<|begin_of_thought|> thinking <|end_of_thought|> <|begin_of_solution|> response <|end_of_solution|>`;
       any but the end of the thinking may be missing.

An opening marker without a closing one is a trace that was cut off while thinking: it has no response.
A marker counts where it stands in its form (the opening one at the very beginning, the first closing one, those of
the solution at its edges), and is then no part of any step's text. Elsewhere it is text. Anything else is one response
without a thinking part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.question import Question

Part = Literal["thinking", "response"]

Conversation = Sequence[Mapping[str, Any]]
"""A list of messages with role and content, the last one of the user."""
Problem = str | Conversation | Question
"""A question: text, a chat conversation in its place, or a `Question` with more for the PRM to read."""

DELIMITER = "\n\n"
"""The blank line between two steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trace.

    The spans of a trace's steps tile its text, so that a span holds its step's text and whatever blank lines and
    markers stand beside it. All offsets are characters of the trace's text.

    Attributes:
        text: The text that the PRM sees.
        start: Where the step's span begins.
        end: Where the step's span ends.
        part: "thinking" or "response".
        text_start: Where `text` begins.
    """

    text: str
    start: int
    end: int
    part: Part
    text_start: int

    @property
    def text_end(self) -> int:
        """The character of the trace's text at which `text` ends."""
        return self.text_start + len(self.text)


@dataclass(frozen=True, slots=True)
class Trace:
    """A reasoning trace: its whole text and at least one step, none blank, whose spans tile the text.

    Make one with `parse`, `from_steps` or `from_parts`.

    Attributes:
        text: The whole text.
        steps: Its steps, in order.

    Raises:
        InputError: If there is no step, if one is blank, or if their spans don't tile the text.
        InputTypeError: If the text is no str.
    """

    text: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        require_text("a trace's text", self.text)
        if not self.steps:
            raise InputError("the response has no step")
        at = 0
        for i, step in enumerate(self.steps):
            if not step.text.strip():
                raise InputError(f"step {i} is empty: a step needs text to be judged")
            inside = step.start == at <= step.text_start <= step.text_end <= step.end
            if not inside or self.text[step.text_start : step.text_end] != step.text:
                raise InputError(f"step {i} of the trace is not at its place in the text: make traces with Trace.parse")
            at = step.end
        if at != len(self.text):
            raise InputError(f"the steps of the trace end at character {at} of {len(self.text)}")

    @classmethod
    def parse(cls, text: str) -> Trace:
        """Split a response into steps, and recognise its thinking part. Blank pieces are no steps.

        Args:
            text: A response, in one of the written forms above or in none of them.

        Raises:
            InputTypeError: If `text` is no str.
            InputError: If it holds no step.
        """
        require_text("the response", text)
        pieces = _marked_pieces(text)
        if pieces is None:
            pieces = _split(text, 0, len(text), "response")
        if not pieces:
            raise InputError("the response has no step: it is empty, or holds only blanks and markers")
        return _tile(text, pieces)

    @classmethod
    def from_steps(cls, steps: Iterable[str], *, thinking: int = 0) -> Trace:
        """A trace of steps taken as they are, nothing stripped or split.

        Args:
            steps: The texts of the steps; a blank line is put between each two.
            thinking: How many of them, from the first on, are the thinking part.

        Raises:
            InputTypeError: If a step is no str.
            InputError: If one is blank, if there is none, or if `thinking` exceeds their number.
        """
        if isinstance(steps, (str, bytes)):
            raise InputTypeError(f"steps are several texts, not one {type(steps).__name__}: use Trace.parse for that")
        texts = list(steps)
        if not texts:
            raise InputError("the response has no step: the list is empty")
        if not 0 <= thinking <= len(texts):
            raise InputError(f"thinking={thinking}, but there are {len(texts)} steps")
        pieces: list[_Piece] = []
        at = 0
        for i, text in enumerate(texts):
            require_text(f"step {i}", text)
            if not text.strip():
                raise InputError(f"step {i} is empty: a step needs text to be judged")
            pieces.append(_Piece(at, at + len(text), "thinking" if i < thinking else "response"))
            at += len(text) + len(DELIMITER)
        return _tile(DELIMITER.join(texts), pieces)

    @classmethod
    def from_parts(cls, *, thinking: str, response: str) -> Trace:
        """A trace of a thinking trajectory and a response that come as two texts, each split at blank lines.

        Args:
            thinking: The thinking trajectory, without markers; may be empty.
            response: The final response; may be empty if the thinking is not.

        Raises:
            InputTypeError: If one of them is no str.
            InputError: If both are empty.
        """
        require_text("thinking", thinking)
        require_text("the response", response)
        between = DELIMITER if thinking and response else ""
        text = thinking + between + response
        pieces = _split(text, 0, len(thinking), "thinking")
        pieces += _split(text, len(thinking + between), len(text), "response")
        if not pieces:
            raise InputError("thinking and response are both empty")
        return _tile(text, pieces)

    @property
    def thinking(self) -> tuple[Step, ...]:
        """The steps of the thinking trajectory."""
        return tuple(step for step in self.steps if step.part == "thinking")

    @property
    def response(self) -> tuple[Step, ...]:
        """The steps of the final response."""
        return tuple(step for step in self.steps if step.part == "response")


Response = str | Trace
"""The answer that is scored: text, split into steps at blank lines, or a `Trace`."""


def as_trace(response: Response | None, steps: Iterable[str] | None = None) -> Trace:
    """A response, or the steps of one, as a `Trace`.

    Raises:
        InputTypeError: If neither or both are given, or if the response is neither text nor a Trace.
        InputError: If there is no step.
    """
    if steps is not None:
        if response is not None:
            raise InputTypeError("a response and steps=[...] were both given: one of them is scored")
        return Trace.from_steps(steps)
    if isinstance(response, Trace):
        return response
    if isinstance(response, str):
        return Trace.parse(response)
    if response is None:
        raise InputTypeError("there is no response: give text or a Trace, or steps=[...]")
    raise InputTypeError(
        f"a response is a str or a Trace, not {type(response).__name__}. The steps of one response are given by "
        "steps=[...] or Trace.from_steps([...]); several responses by score_many or best_of_n"
    )


def response_of_row(value: str | list[str]) -> Response:
    """A response as a row of a file holds it: text, or a list of steps.

    Args:
        value: The row's value.

    Raises:
        InputError: If there is no step, or an empty one.
    """
    return Trace.from_steps(value) if isinstance(value, list) else value


def require_text(what: str, value: object) -> None:
    """Raise unless a value is a str that UTF-8 can hold.

    Args:
        what: What the message calls it.
        value: The value.

    Raises:
        InputTypeError: If it is no str.
        InputError: If it has a lone surrogate.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is no valid unicode: a lone surrogate at character {error.start}") from None


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    part: Part


@dataclass(frozen=True, slots=True)
class _Markers:
    thinking_open: str
    thinking_close: str
    response_open: str = ""
    response_close: str = ""


_FORMS = (
    _Markers("<think>", "</think>"),
    _Markers("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
)


def _marked_pieces(text: str) -> list[_Piece] | None:
    """The pieces of a text in one of the written forms; None where it is in none of them.

    An opening marker at the beginning decides the form; without one, a closing marker does.
    """
    begin = len(text) - len(text.lstrip())
    for form in _FORMS:
        if text.startswith(form.thinking_open, begin):
            return _form_pieces(text, begin + len(form.thinking_open), form)
    for form in _FORMS:
        if form.thinking_close in text:
            return _form_pieces(text, 0, form)
    return None


def _form_pieces(text: str, start: int, form: _Markers) -> list[_Piece]:
    close = text.find(form.thinking_close, start)
    if close < 0:  # cut off while still thinking
        return _stripped(text, start, len(text), "thinking")
    response = _response_span(text, close + len(form.thinking_close), form)
    return _stripped(text, start, close, "thinking") + _stripped(text, *response)


def _response_span(text: str, start: int, form: _Markers) -> tuple[int, int, Part]:
    end = len(text)
    opened = start + len(text[start:]) - len(text[start:].lstrip())
    if form.response_open and text.startswith(form.response_open, opened):
        start = opened + len(form.response_open)
    stripped = text.rstrip()
    if form.response_close and stripped.endswith(form.response_close):
        end = max(start, len(stripped) - len(form.response_close))
    return start, end, "response"


def _stripped(text: str, start: int, end: int, part: Part) -> list[_Piece]:
    """The pieces of a part that stands between markers, without the blanks beside the markers."""
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip())
    return _split(text, start, start + len(inner.strip()), part)


def _split(text: str, start: int, end: int, part: Part) -> list[_Piece]:
    pieces: list[_Piece] = []
    for piece in text[start:end].split(DELIMITER):
        if piece.strip():
            pieces.append(_Piece(start, start + len(piece), part))
        start += len(piece) + len(DELIMITER)
    return pieces


def _tile(text: str, pieces: list[_Piece]) -> Trace:
    bounds = [0, *(piece.start for piece in pieces[1:]), len(text)]
    return Trace(
        text,
        tuple(
            Step(text[piece.start : piece.end], bounds[i], bounds[i + 1], piece.part, piece.start)
            for i, piece in enumerate(pieces)
        ),
    )
