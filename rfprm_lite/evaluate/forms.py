"""Rows to items: the forms in which labelled traces are published.

In: a row of a file. Out: an `Item`. A form is a row in `FORMS`: the columns by which it is known, and a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.items import Candidate, Item, Kind, Label

Values = Mapping[str, Any]
Columns = Mapping[str, str]
"""The column for each field of `FIELDS`."""

FIELDS = {
    "problem": "the problem",
    "steps": "the steps of a trace, or of a candidate",
    "label": "the first wrong step, the wrong steps, or a label of each step",
    "candidates": "the candidates of a pool",
    "response": "the text of a candidate, or its steps",
    "scores": "step scores that somebody has",
    "correct": "whether a candidate is right",
    "answer": "the problem's right answer",
    "extracted": "a candidate's own answer",
}
"""What columns can be named for, in words."""


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write labelled traces into rows.

    Attributes:
        name: What `--kind` calls it.
        kind: What is asked of its items.
        columns: The columns of its fields, unless others are named.
        known_by: Fields whose columns a row must have, to be told from other forms.
        read: Makes an item of a row's number and its values.
    """

    name: str
    kind: Kind
    columns: Columns
    known_by: tuple[str, ...]
    read: Callable[[int, Values, Columns], Item]


def form_of(name: str | None, values: Values, columns: Columns) -> Form:
    """The form of a name; where None, the first one whose columns a row has.

    Args:
        name: A form's name, or None.
        values: A row.
        columns: The columns that were named for fields.

    Raises:
        InputError: If there is none.
    """
    if name is not None:
        if name not in FORMS:
            raise InputError(f"no kind of set is called {name!r}: there are {', '.join(FORMS)}")
        return FORMS[name]
    for form in FORMS.values():
        if all({**form.columns, **columns}[field] in values for field in form.known_by):
            return form
    raise InputError(
        f"what is asked can't be told from the columns {', '.join(map(repr, values)) or '(none)'}: "
        f"name it by --kind ({', '.join(FORMS)}), and columns by --problem-column and so on"
    )


def _first_error(row: int, values: Values, columns: Columns) -> Item:
    steps = _texts(values, columns["steps"])
    label = values.get(columns["label"], -1)
    if label is not None and (isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps)):
        raise InputError(f"{columns['label']}={label!r}: the index of one of {len(steps)} steps is needed, or -1")
    labels: tuple[Label, ...] = (True,) * len(steps)
    if label is not None and label >= 0:
        labels = (*(True,) * label, False, *(None,) * (len(steps) - label - 1))
    return Item(row, _text(values, columns["problem"]), (Candidate(steps, labels, scores=_scores(values, columns)),))


def _labelled(row: int, values: Values, columns: Columns) -> Item:
    labels = tuple(map(_label, _list(values, columns["label"])))
    steps = _texts(values, columns["steps"])
    return Item(row, _text(values, columns["problem"]), (Candidate(steps, labels, scores=_scores(values, columns)),))


def _prmbench(row: int, values: Values, columns: Columns) -> Item:
    """The modified process, in which wrong steps are to be found; then the original one, which is right.

    The authors' loader ignores error steps behind the last step, and so does this.
    """
    steps = _texts(values, columns["steps"])
    wrong = {int(step) for step in _list(values, columns["label"])}
    labels = tuple(number not in wrong for number in range(1, len(steps) + 1))
    question = _text(values, "original_question")
    modified = Candidate(steps, labels, scores=_scores(values, columns), problem=_text(values, columns["problem"]))
    original = _texts(values, "original_process")
    candidates = (modified,) if modified.scores else (modified, Candidate(original, (True,) * len(original)))
    return Item(row, question, candidates, _text(values, "classification"))


def _prm800k(row: int, values: Values, columns: Columns) -> Item:
    """The path that the labeller took; it ends where no completion was chosen. Ratings 1 and 0 are right, -1 wrong."""
    steps: list[str] = []
    labels: list[Label] = []
    for step in values[columns["steps"]]["steps"]:
        completions, chosen, human = step["completions"] or [], step["chosen_completion"], step["human_completion"]
        if chosen is None and human is None and not completions:
            break
        taken = completions[chosen] if chosen is not None else human or completions[0]
        rating = taken.get("rating")
        steps.append(taken["text"])
        labels.append(None if rating is None else rating >= 0)
        if chosen is None and human is None:
            break
    return Item(row, values[columns["problem"]]["problem"], (Candidate(tuple(steps), tuple(labels)),))


def _math_shepherd(row: int, values: Values, columns: Columns) -> Item:
    """`input` has a mark behind each step, `label` the same text with + or - in the mark's place."""
    mark = "ки"
    text, labelled = _text(values, columns["problem"]), _text(values, columns["steps"])
    pieces = text.split(mark)
    labels: list[Label] = []
    at = 0
    for piece in pieces[:-1]:
        at += len(piece)
        sign = labelled[at : at + 1]
        if not labelled[:at].endswith(piece) or sign not in ("+", "-"):
            raise InputError(f"label is not input with + or - in place of {mark!r}, from step {len(labels) + 1} on")
        labels.append(sign == "+")
        at += 1
    problem, begins, first = pieces[0].partition("Step 1:")
    if not begins or not labels:
        raise InputError("input has no 'Step 1:', or no step that is marked")
    steps = tuple(piece.strip() for piece in (begins + first, *pieces[1:-1]))
    return Item(row, problem.strip(), (Candidate(steps, tuple(labels)),))


def _pool(row: int, values: Values, columns: Columns) -> Item:
    raw = _list(values, columns["candidates"])
    if not raw:
        raise InputError("there is no candidate")
    candidates = tuple(_candidate(values, one, i, columns) for i, one in enumerate(raw))
    answer = values.get(columns["answer"])
    return Item(row, _text(values, columns["problem"]), candidates, answer=None if answer is None else str(answer))


def _candidate(values: Values, one: Any, i: int, columns: Columns) -> Candidate:
    """A candidate: text, steps, or an object. What it does not hold itself may stand in a list in the row."""
    own = one if isinstance(one, Mapping) else {}
    response = own.get(columns["response"], own.get(columns["steps"])) if own else one

    def found(field: str) -> Any:
        name = columns[field]
        if name in own:
            return own[name]
        beside = values.get(name)
        return beside[i] if isinstance(beside, list) and i < len(beside) else None

    scores = found("scores")
    if response is None and scores is not None:
        response = ""  # it can be chosen by its scores, but not be scored
    if not isinstance(response, str | list):
        raise InputError(f"candidate {i} is no text, no list of steps, and has neither in {columns['response']!r}")
    correct, answer = found("correct"), found("extracted")
    try:
        return Candidate(
            response if isinstance(response, str) else tuple(map(str, response)),
            correct=None if correct is None else _truth(correct),
            answer=None if answer in (None, "") else str(answer),
            scores=None if scores is None else tuple(map(float, scores)),
        )
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"candidate {i}: {error}") from error


def _truth(value: Any) -> bool:
    if value not in (0, 1):
        raise InputError(f"{value!r} is neither true nor false")
    return bool(value)


def _label(value: Any) -> Label:
    """True and 1 are right, False, 0 and -1 wrong, null is not known."""
    if value is None:
        return None
    if value not in (-1, 0, 1):
        raise InputError(f"{value!r} is no label of a step: true, false, 1, 0, -1 and null are")
    return bool(value == 1)


def _scores(values: Values, columns: Columns) -> tuple[float, ...] | None:
    scores = values.get(columns["scores"])
    return None if scores is None else tuple(map(float, scores))


def _text(values: Values, name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {type(value).__name__}, text is needed")
    return value


def _list(values: Values, name: str) -> Sequence[Any]:
    value = values[name]
    if not isinstance(value, list):
        raise InputError(f"{name!r} is {type(value).__name__}, a list is needed")
    return value


def _texts(values: Values, name: str) -> tuple[str, ...]:
    found = tuple(_list(values, name))
    if not all(isinstance(one, str) for one in found):
        raise InputError(f"{name!r} is a list of other things than text")
    return found


_COLUMNS = {field: field for field in FIELDS}

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("processbench", "processbench", _COLUMNS, ("problem", "steps", "label"), _first_error),
        Form(
            "prmbench",
            "prmbench",
            _COLUMNS | {"problem": "modified_question", "steps": "modified_process", "label": "error_steps"},
            ("problem", "steps", "label"),
            _prmbench,
        ),
        Form("pools", "pools", _COLUMNS, ("problem", "candidates"), _pool),
        Form("steps", "steps", _COLUMNS | {"label": "labels"}, ("problem", "steps", "label"), _labelled),
        Form(
            "trl",
            "steps",
            _COLUMNS | {"problem": "prompt", "steps": "completions", "label": "labels"},
            ("problem", "steps", "label"),
            _labelled,
        ),
        Form("prm800k", "steps", _COLUMNS | {"problem": "question", "steps": "label"}, ("problem", "steps"), _prm800k),
        Form(
            "math-shepherd",
            "steps",
            _COLUMNS | {"problem": "input", "steps": "label"},
            ("problem", "steps"),
            _math_shepherd,
        ),
    )
}
