"""A response as the steps that a PRM judges.

In: text, or steps, or a thinking trajectory and a response. Out: a `Trace`, whose spans tile its text. Knows
nothing of models, templates or tokens.

Where the thinking ends is said in `written/thinking.py`, where a step ends in `written/splitting.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.lists import listed
from rfprm_lite.question import Question
from rfprm_lite.written.forms import Markers, Part, Region
from rfprm_lite.written.splitting import BLANK_LINES, WHOLE, Splitter, split
from rfprm_lite.written.thinking import regions

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
    def parse(
        cls,
        text: str,
        *,
        splitter: Splitter = BLANK_LINES,
        markers: Markers | None = None,
        started_thinking: bool = False,
    ) -> Trace:
        """Split a response into steps, and recognise its thinking part. Blank pieces are no steps.

        Args:
            text: A response, in one of the known written forms or in none of them.
            splitter: "blank-lines", "lines", "markdown", a separator of your own, or a function from text to pieces;
                "whole" takes the text as one step, markers included, as outcome models do.
            markers: The markers before and behind the thinking, where they are none of the known ones.
            started_thinking: Whether the text began in the thinking, because the prompt ended with the opening marker.

        Raises:
            InputTypeError: If `text` is no str.
            InputError: If it holds no step, or if the splitter or the markers are wrong.
        """
        require_text("the response", text)
        parts = [Region(0, len(text), "response")] if splitter == WHOLE else None
        trace = _trace(text, parts or regions(text, markers, started=started_thinking), splitter)
        if trace is None:
            raise InputError("the response has no step: it is empty, or holds only blanks and markers")
        return trace

    @classmethod
    def from_steps(cls, steps: Iterable[str], *, thinking: int = 0) -> Trace:
        """A trace of steps taken as they are, nothing stripped or split.

        Args:
            steps: The texts of the steps, in a list or an array; a blank line is put between each two.
            thinking: How many of them, from the first on, are the thinking part.

        Raises:
            InputTypeError: If a step is no str.
            InputError: If one is blank, if there is none, or if `thinking` exceeds their number.
        """
        texts = listed("steps", steps)
        if not texts:
            raise InputError("the response has no step: the list is empty")
        if not 0 <= thinking <= len(texts):
            raise InputError(f"thinking={thinking}, but there are {len(texts)} steps")
        pieces: list[Region] = []
        at = 0
        for i, text in enumerate(texts):
            require_text(f"step {i}", text)
            if not text.strip():
                raise InputError(f"step {i} is empty: a step needs text to be judged")
            pieces.append(Region(at, at + len(text), "thinking" if i < thinking else "response"))
            at += len(text) + len(DELIMITER)
        return _tiled(DELIMITER.join(texts), pieces)

    @classmethod
    def from_parts(cls, *, thinking: str, response: str, splitter: Splitter = BLANK_LINES) -> Trace:
        """A trace of a thinking trajectory and a response that come as two texts, each split into steps.

        Args:
            thinking: The thinking trajectory; may be empty. Markers around it are no part of its steps.
            response: The final response; may be empty if the thinking is not.
            splitter: As in `parse`.

        Raises:
            InputTypeError: If one of them is no str.
            InputError: If both are empty.
        """
        require_text("thinking", thinking)
        require_text("the response", response)
        between = DELIMITER if thinking and response else ""
        text = thinking + between + response
        behind = len(thinking + between)
        parts = [Region(part.start, part.end, "thinking") for part in regions(thinking)]
        parts += [Region(behind + part.start, behind + part.end, part.part) for part in regions(response)]
        trace = _trace(text, parts, splitter)
        if trace is None:
            raise InputError("thinking and response are both empty")
        return trace

    @property
    def thinking(self) -> tuple[Step, ...]:
        """The steps of the thinking trajectory."""
        return tuple(step for step in self.steps if step.part == "thinking")

    @property
    def response(self) -> tuple[Step, ...]:
        """The steps of the final response."""
        return tuple(step for step in self.steps if step.part == "response")


@dataclass(frozen=True, slots=True)
class Unsplit:
    """A response that is not split yet, with what is known of its thinking. Whoever scores it splits it.

    Attributes:
        response: The response, as `Trace.parse` or `Trace.from_parts` takes it.
        thinking: The thinking trajectory, where it came apart from the response; otherwise "".
        started_thinking: Whether the response began in the thinking, as in `Trace.parse`.
        markers: The markers of the thinking in the response, as in `Trace.parse`.
    """

    response: str
    thinking: str = ""
    started_thinking: bool = False
    markers: Markers | None = None

    def split(self, splitter: Splitter) -> Trace:
        """Its trace. Raises as `Trace.parse` and `Trace.from_parts` do."""
        if self.thinking:
            return Trace.from_parts(thinking=self.thinking, response=self.response, splitter=splitter)
        return Trace.parse(
            self.response, splitter=splitter, markers=self.markers, started_thinking=self.started_thinking
        )


Response = str | Trace | Unsplit
"""The answer that is scored: text, split into steps, or a `Trace`."""


def as_trace(
    response: Response | None, steps: Iterable[str] | None = None, *, splitter: Splitter = BLANK_LINES
) -> Trace:
    """A response, or the steps of one, as a `Trace`.

    Args:
        response: Text or a Trace.
        steps: In its place, steps as they are.
        splitter: How text is split, as in `Trace.parse`.

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
        return Trace.parse(response, splitter=splitter)
    if isinstance(response, Unsplit):
        return response.split(splitter)
    if response is None:
        raise InputTypeError("there is no response: give text or a Trace, or steps=[...]")
    raise InputTypeError(
        f"a response is a str or a Trace, not {type(response).__name__}. The steps of one response are given by "
        "steps=[...] or Trace.from_steps([...]); several responses by score_many or best_of_n"
    )


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


def _trace(text: str, regions: Iterable[Region], splitter: Splitter) -> Trace | None:
    """The trace of the regions, each split; None where there is no step in them."""
    pieces = [
        Region(region.start + start, region.start + end, region.part)
        for region in regions
        for start, end in split(text[region.start : region.end], splitter)
    ]
    return _tiled(text, pieces) if pieces else None


def _tiled(text: str, pieces: Sequence[Region]) -> Trace:
    bounds = [0, *(piece.start for piece in pieces[1:]), len(text)]
    return Trace(
        text,
        tuple(
            Step(text[piece.start : piece.end], bounds[i], bounds[i + 1], piece.part, piece.start)
            for i, piece in enumerate(pieces)
        ),
    )
