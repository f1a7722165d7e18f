"""Rows of input as problems and traces, checked; errors name the line and the column.

In: rows of a file. Out: problems with their responses or candidates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rfprm_lite.data import files
from rfprm_lite.data.known_columns import Columns, value_of
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.row import Row
from rfprm_lite.errors import InputError
from rfprm_lite.trace import Problem, Response, Trace

ROWS_A_BATCH = 64
"""Rows that are scored together, and shown before the next ones are."""

Typed = TypeVar("Typed")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A problem and a response.

    Attributes:
        problem: Text, or a conversation.
        response: The response.
        source: What the row holds of the response, for its digest.
    """

    problem: Problem
    response: Response
    source: object


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A problem and its candidates.

    Attributes:
        problem: Text, or a conversation.
        candidates: Each a response, or the error of what is none.
    """

    problem: Problem
    candidates: list[Response | InputError]


@dataclass(frozen=True, slots=True)
class Read(Generic[Typed]):
    """A row with what was read of it, or with what is wrong."""

    row: Row
    typed: Typed | InputError


def score_row(row: Row, columns: Columns, reading: Reading) -> ScoreRow:
    """A row as a problem and a response.

    Args:
        row: The row.
        columns: Where its parts stand.
        reading: How a text becomes steps.

    Raises:
        InputError: If a part is missing, or of another type; the message names the line and the column.
    """
    cells = _Cells(row, columns)
    if columns.messages is not None:
        problem, response = cells.read("messages", lambda value: reading.exchange(_messages(value)))
        return ScoreRow(problem, response, cells.value("messages"))
    problem = cells.read("problem", _problem)
    if columns.steps is not None:
        steps = cells.read("steps", _steps)
        return ScoreRow(problem, cells.read("steps", lambda _: Trace.from_steps(steps)), steps)
    if columns.thinking is not None:
        thinking, rest = cells.read("thinking", _part), cells.read("response", _part)
        return ScoreRow(problem, cells.read("thinking", lambda _: reading.parts(thinking, rest)), [thinking, rest])
    return ScoreRow(problem, cells.read("response", lambda value: _response(value, reading)), cells.value("response"))


def pool_row(row: Row, columns: Columns, reading: Reading) -> PoolRow:
    """A row as a problem and its candidates.

    Args:
        row: The row.
        columns: Where its parts stand.
        reading: How a text becomes steps.

    Raises:
        InputError: If a part is missing, or of another type; the message names the line and the column.
    """
    cells = _Cells(row, columns)

    def candidate(value: object) -> Response | InputError:
        try:
            return Trace.from_steps(_texts(value)) if _is_steps(value) else _response(value, reading)
        except InputError as error:
            return error

    return PoolRow(cells.read("problem", _problem), [candidate(value) for value in cells.read("candidates", _pool)])


def read_text(text: str, reading: Reading) -> Response | InputError:
    """A text as a response, or the error of what is none."""
    try:
        return reading.text(text)
    except InputError as error:
        return error


def read(rows: Iterable[Row], type_of: Callable[[Row], Typed]) -> Iterator[Read[Typed]]:
    """Each row with what `type_of` reads of it, or with its error."""
    for row in rows:
        try:
            yield Read(row, type_of(row))
        except InputError as error:
            yield Read(row, error)


def batches(rows: Iterable[Typed]) -> Iterator[list[Typed]]:
    """The rows in batches of ROWS_A_BATCH; where a file breaks off, those before are yielded before its error rises."""
    batch: list[Typed] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == ROWS_A_BATCH:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def plain_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark and the line break that ends it.

    Raises:
        InputError: If it can't be read, or is no UTF-8.
    """
    with files.reading(path) as file:
        try:
            return file.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text: {error}") from error


@dataclass(frozen=True, slots=True)
class _Cells:
    """The values of a row by its parts."""

    row: Row
    columns: Columns

    def value(self, part: str) -> Any:
        if isinstance(self.row.values, InputError):
            raise self.row.values
        try:
            return value_of(self.row.values, self.columns.named[part])
        except KeyError:
            names = ", ".join(self.row.values) or "nothing"
            where = self.row.place or "the row"
            raise InputError(f"{where} has no {self.columns.named[part]!r}: it has {names}") from None

    def read(self, part: str, reader: Callable[[Any], Typed]) -> Typed:
        """What the reader makes of a part's value; its error says where that stands."""
        value = self.value(part)
        try:
            return reader(value)
        except InputError as error:
            where = ", ".join(filter(None, (self.row.place, f"column {self.columns.named[part]!r}")))
            raise InputError(f"{where}: {error}") from error


def _problem(value: Any) -> Problem:
    if _is_messages(value):
        return value  # type: ignore[no-any-return]  # a list of mappings
    if not isinstance(value, str):
        raise InputError(f"{_kind(value)}; a problem is text or a list of messages")
    if not value.strip():
        raise InputError("it is empty, and a reward without a problem means nothing")
    return value


def _messages(value: Any) -> list[Mapping[str, Any]]:
    value = _decoded(value)
    if not _is_messages(value):
        raise InputError(f"{_kind(value)}; a list of messages is needed")
    return value  # type: ignore[no-any-return]  # as checked


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, Mapping) for message in value)


def _response(value: Any, reading: Reading) -> Response:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        return reading.message(value)
    if isinstance(value, list):
        raise InputError(
            f"a list of {len(value)}; a response is one text. The steps of one response are named by --steps-column "
            "(steps= on Ray), several responses by --candidates-column of best-of-n"
        )
    if not isinstance(value, str):
        raise InputError(f"{_kind(value)}; a response is text")
    return reading.text(value)


def _part(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is not None and not isinstance(value, str):
        raise InputError(f"{_kind(value)}; one text is needed")
    return value or ""


def _steps(value: Any) -> list[str]:
    value = _decoded(value)
    if not isinstance(value, list):
        raise InputError(f"{_kind(value)}; a list of steps is needed")
    texts = _texts(value)
    if not texts:
        raise InputError("there is no step")
    return texts


def _texts(steps: Any) -> list[str]:
    texts = [_step(i, step) for i, step in enumerate(steps)]
    while texts and texts[-1] is None:
        texts.pop()
    if None in texts:
        raise InputError(f"step {texts.index(None)} has no completion")
    return [text for text in texts if text is not None]


def _step(i: int, step: Any) -> str | None:
    """The text of a step: itself, or of the completion that PRM800K's labelers chose or wrote."""
    if isinstance(step, str):
        return step
    if isinstance(step, Mapping) and isinstance(completions := step.get("completions"), list):
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if isinstance(chosen, int) and not 0 <= chosen < len(completions):
            raise InputError(f"step {i} has {len(completions)} completions, and chosen_completion {chosen}")
        one = completions[chosen] if isinstance(chosen, int) else human or next(iter(completions), None)
        return None if one is None else _text(i, one)
    return _text(i, step)


def _text(i: int, value: Any) -> str:
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"step {i} is {_kind(value)}; a step is text")
    return text


def _is_steps(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(step, str) for step in value)


def _pool(value: Any) -> list[Any]:
    value = _decoded(value)
    if not isinstance(value, list):
        raise InputError(f"{_kind(value)}; a list of candidates is needed")
    if not value:
        raise InputError("no candidates: there is nothing to choose from")
    return value


def _decoded(value: Any) -> Any:
    """The value of JSON in a text: CSV holds no lists otherwise."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"text, where a list is needed, or a list in JSON: {error}") from error


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a boolean"}
    return names.get(type(value), f"{type(value).__name__} {value!r:.40}")
