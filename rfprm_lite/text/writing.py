"""A problem and a trace as the text that the model sees, with its read-outs: a recipe's pieces, their slots filled.

In: a problem, a trace and a recipe. Out: lists of pieces without slots, one for each text. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfprm_lite.bundle.pieces import Atom, Cut, Piece, Read, Slot, Special, Text, filled
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.errors import InputError
from rfprm_lite.text.conversation import prompt_pieces
from rfprm_lite.trace import Problem, Step, Trace

Draft = list[Atom]
"""One text with its read-outs, up to the last of them: nothing behind it changes a reward."""

BETWEEN = "\n\n"
"""What stands between the steps of a text that is written anew for each of them."""


def step_drafts(recipe: Recipe, problem: Problem, trace: Trace) -> list[Draft]:
    """The texts whose read-outs, in order, are the rewards of the trace's steps: one, or one a step.

    Raises:
        InputError: If the problem can't be judged, or if a step can't be written.
        InputTypeError: If the problem is neither text nor a list of messages.
    """
    prompt = prompt_pieces(problem, recipe)
    if recipe.probes:
        whole = _probe(recipe, prompt, trace, len(trace.steps) - 1)
        return [*(_probe(recipe, prompt, trace, i) for i in range(len(trace.steps) - 1)), whole]
    if recipe.closing:
        return [_closed(recipe, prompt, trace)]
    return [_steps(recipe, prompt, _lines(recipe, trace, trace.steps))]


def last_step_draft(recipe: Recipe, problem: Problem, trace: Trace) -> Draft:
    """The last of `step_drafts`. Raises as it does."""
    if recipe.probes:
        return _probe(recipe, prompt_pieces(problem, recipe), trace, len(trace.steps) - 1)
    (draft,) = step_drafts(recipe, problem, trace)
    return draft


def response_draft(recipe: Recipe, problem: Problem, trace: Trace) -> Draft | None:
    """The text with the whole final response as one step, after the steps of the thinking part.

    None where the last read-out of `step_drafts` is just that.

    Raises:
        InputError: If the trace has no response, or as `step_drafts`.
    """
    if not trace.response:
        raise InputError("final='response' needs a response, but the trace ends within its thinking part")
    if recipe.probes or recipe.closing:
        return None
    start, end = trace.response[0].text_start, trace.response[-1].text_end
    whole = Step(trace.text[start:end], trace.response[0].start, trace.response[-1].end, "response", start)
    return _steps(recipe, prompt_pieces(problem, recipe), _lines(recipe, trace, [*trace.thinking, whole]))


@dataclass(frozen=True, slots=True)
class _Line:
    """A step's text, and the blank lines that are written before it."""

    text: str
    blank_lines: Sequence[str]


def _lines(recipe: Recipe, trace: Trace, steps: Sequence[Step]) -> list[_Line]:
    if not recipe.blank_line:
        return [_Line(step.text, ()) for step in steps]
    ends = [0, *(step.text_end for step in steps)]
    gaps = [trace.text[end : step.text_start].split("\n") for end, step in zip(ends, steps, strict=False)]
    # What stands before the first line break belongs to the line of the step before, if there is one.
    return [_Line(step.text, gap[i > 0 : -1]) for i, (step, gap) in enumerate(zip(steps, gaps, strict=True))]


def _steps(recipe: Recipe, prompt: Draft, lines: Sequence[_Line]) -> Draft:
    draft = list(prompt)
    for i, line in enumerate(lines):
        pieces = recipe.first if recipe.first and i == 0 else recipe.step
        for blank in line.blank_lines:
            draft += _written(recipe.blank_line, blank if not blank.strip() else "")  # a marker is no blank line
        _add_step(recipe, draft, pieces, i, line.text)
    return _up_to_last_read(draft)


def _add_step(recipe: Recipe, draft: Draft, pieces: Sequence[Piece], i: int, step: str) -> None:
    slot = next(at for at, piece in enumerate(pieces) if isinstance(piece, Slot))
    draft += filled(pieces[:slot], _unfilled)
    draft += _written(pieces[slot:], _cleaned(recipe, i, step, _text_before(recipe, draft)))


def _closed(recipe: Recipe, prompt: Draft, trace: Trace) -> Draft:
    """Steps of the thinking part, then the response as one step."""
    if trace.thinking and not trace.response:
        return _steps(recipe, prompt, _lines(recipe, trace, trace.steps))
    if not trace.thinking or len(trace.response) != 1:
        raise InputError(
            f"{recipe.name} reads the steps of a thinking trajectory and then a final response as one step; this trace "
            f"has {len(trace.thinking)} steps of thinking and {len(trace.response)} of a response: make it by "
            "Trace.from_steps([*thinking, response], thinking=len(thinking))"
        )
    draft = _steps(recipe, prompt, _lines(recipe, trace, trace.thinking))
    rest = recipe.step[recipe.step.index(Read()) + 1 :]
    draft += filled(rest, _unfilled)
    _add_step(recipe, draft, recipe.closing, len(trace.thinking), trace.response[0].text)
    return _up_to_last_read(draft)


def _probe(recipe: Recipe, prompt: Draft, trace: Trace, i: int) -> Draft:
    """The text of step i, which ends with it."""
    (slot,) = (piece for piece in recipe.step if isinstance(piece, Slot))
    if slot.name == "text":
        text = trace.text[: trace.steps[i].text_end] if i + 1 < len(trace.steps) else trace.text
        _require_no_meaning(recipe, "the response", text, _text_before(recipe, prompt))
    else:
        first = _text_before(recipe, prompt)
        steps = enumerate(trace.steps[: i + 1])
        text = BETWEEN.join(_cleaned(recipe, at, step.text, BETWEEN if at else first) for at, step in steps)
    return _up_to_last_read([*prompt, *_written(recipe.step, text)])


def _written(pieces: Sequence[Piece], text: str) -> Draft:
    return filled(pieces, lambda _: text)


def _unfilled(slot: Slot) -> str:
    raise InputError(f"the slot {slot.name} stands where nothing fills it")


def _cleaned(recipe: Recipe, i: int, step: str, before: str) -> str:
    """A step as it is written. before: the text that it is written behind."""
    cleaning = recipe.cleaning
    _require_no_meaning(recipe, f"step {i}", step)
    for text, other in cleaning.replace:
        step = step.replace(text, other)
    number = cleaning.number.format(n=i + 1) if cleaning.number else ""
    step = step if step.lstrip().startswith(number) else number + step
    _require_no_meaning(recipe, f"step {i}", step, before)
    return step


def _text_before(recipe: Recipe, draft: Draft) -> str:
    """The end of a draft's text, as far as it could become one of the recipe's markers with what follows."""
    most = max(map(len, recipe.cleaning.refuse), default=0)
    text = ""
    for piece in reversed(draft):
        if len(text) >= most or isinstance(piece, (Special, Cut)):
            break
        text = piece.text[-most:] + text if isinstance(piece, Text) else text
    return text


def _require_no_meaning(recipe: Recipe, what: str, text: str, before: str = "") -> None:
    """Raise where a text holds a marker of the recipe, or makes one together with the text that stands before it."""
    for refused in recipe.cleaning.refuse:
        if refused in before[max(0, len(before) - len(refused) + 1) :] + text:
            made = "" if refused in text else f" together with {before[-10:]!r}, which is written before it"
            raise InputError(
                f"{what} holds {refused!r}{made}, which has a meaning of its own in what {recipe.name} reads: split it "
                "there, or write it otherwise"
            )


def _up_to_last_read(draft: Draft) -> Draft:
    return draft[: len(draft) - draft[::-1].index(Read())]
