"""The columns in which people keep problems and responses: as they are named, or as well-known data sets have them.

In: the first rows of a file, and the columns that a caller named. Out: the columns to read. Nothing is guessed: rows
that are in no known set, or in several, ask for the option by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

from rfprm_lite.data.row import Row
from rfprm_lite.errors import InputError

ROWS_SEEN = 1024
"""Rows that are looked at for their columns."""
PROBLEMS = ("problem", "question", "prompt", "query", "modified_question")
"""Where a problem is looked for beside a response that was named."""
THOUGHTS = ("thinking", "reasoning", "reasoning_content", "thinking_trajectory", "thoughts", "think")
"""What may be the thinking of the response beside it: it is not passed over without a word."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a row's parts; None where there is none. `a.b` is the value of b within the object a.

    Attributes:
        problem: A text, or the messages of a conversation.
        response: A text, thinking and all; or the rest of it, beside `thinking`.
        thinking: The thinking, where it has a column of its own.
        steps: The steps of the response, in its place.
        messages: A conversation that ends with the response, in the place of both.
        candidates: Several responses, in the place of one.
    """

    problem: str | None = None
    response: str | None = None
    thinking: str | None = None
    steps: str | None = None
    messages: str | None = None
    candidates: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The columns that there are, by their parts."""
        return {field.name: name for field in fields(self) if (name := getattr(self, field.name)) is not None}

    @property
    def answer(self) -> dict[str, str]:
        """The same without the problem."""
        return {part: name for part, name in self.named.items() if part != "problem"}

    def in_words(self) -> str:
        """The columns, for a message."""
        return ", ".join(f"{part} from {name!r}" for part, name in self.named.items())

    def options(self) -> str:
        """The options of the command line that name them."""
        return " ".join(f"--{part}-column {name}" for part, name in self.answer.items())


@dataclass(frozen=True, slots=True)
class KnownColumns:
    """The columns of a well-known data set, or of a usual way to keep rows."""

    name: str
    columns: Columns


DEFAULT = KnownColumns("problem and response", Columns("problem", "response"))
KNOWN = (
    DEFAULT,
    KnownColumns("TRL, stepwise supervision", Columns("prompt", steps="completions")),
    KnownColumns("TRL, prompt and completion", Columns("prompt", "completion")),
    KnownColumns("ProcessBench", Columns("problem", steps="steps")),
    KnownColumns("PRMBench, the modified process", Columns("modified_question", steps="modified_process")),
    KnownColumns("PRM800K, the completions that were chosen", Columns("question.problem", steps="label.steps")),
    KnownColumns("s1K-1.1, Deepseek's trace", Columns("question", "deepseek_attempt", "deepseek_thinking_trajectory")),
    KnownColumns("s1K", Columns("question", "attempt", "thinking_trajectories")),
    KnownColumns("OpenThoughts, metadata", Columns("problem", "deepseek_solution", "deepseek_reasoning")),
    KnownColumns("OpenMathReasoning", Columns("problem", "generated_solution")),
    KnownColumns("messages (OpenR1, Mixture-of-Thoughts)", Columns(messages="messages")),
    KnownColumns("conversations (ShareGPT, OpenThoughts)", Columns(messages="conversations")),
    KnownColumns("question and response", Columns("question", "response")),
    KnownColumns("prompt and response", Columns("prompt", "response")),
    KnownColumns("query and response", Columns("query", "response")),
    KnownColumns("question and steps", Columns("question", steps="steps")),
)
"""Sets of one response a row."""
POOLS = (
    KnownColumns("problem and candidates", Columns("problem", candidates="candidates")),
    KnownColumns("OpenR1", Columns("problem", candidates="generations")),
    *(
        KnownColumns(f"{problem} and {candidates}", Columns(problem, candidates=candidates))
        for problem in ("problem", "question", "prompt")
        for candidates in ("candidates", "responses")
        if (problem, candidates) != ("problem", "candidates")
    ),
)
"""Sets of several responses a row."""


def value_of(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of an object within one, `a.b`.

    Raises:
        KeyError: If there is none.
    """
    if name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    inner = values[first] if dot else None
    if not isinstance(inner, Mapping):
        raise KeyError(name)
    return value_of(inner, rest)


def has(values: Mapping[str, Any], name: str) -> bool:
    """Whether there is such a value."""
    try:
        value_of(values, name)
    except KeyError:
        return False
    return True


def find(
    rows: Iterable[Row], given: Columns, known: tuple[KnownColumns, ...] = KNOWN
) -> tuple[KnownColumns, Iterator[Row]]:
    """The columns of rows, and the rows again, from the first on.

    Args:
        rows: The rows, at least one.
        given: The columns that a caller named.
        known: The sets that they may be of.

    Raises:
        InputError: If the columns can't be told.
    """
    rest = iter(rows)
    seen: list[Row] = []
    first_error: InputError | None = None
    for row in rest:
        seen.append(row)
        if not isinstance(row.values, InputError):
            try:
                return _found(row.place, row.values, given, known), chain(seen, rest)
            except InputError as error:
                first_error = first_error or error
        if len(seen) == ROWS_SEEN:
            break
    raise first_error or next(row.values for row in seen if isinstance(row.values, InputError))


def _found(place: str, values: Mapping[str, Any], given: Columns, known: tuple[KnownColumns, ...]) -> KnownColumns:
    if given.answer:
        return KnownColumns("", _completed(place, values, given))
    matches = [one for one in known if _matches(values, one.columns, given.problem)]
    if not matches:
        missing = " and no ".join(repr(name) for name in known[0].columns.named.values() if not has(values, name))
        raise InputError(
            f"{place} has no {missing}, and is of no other known set. It has {_listed(values)}: {_asked(known)}"
        )
    if matches[0] is known[0]:  # the default goes first
        matches = matches[:1]
    if len({tuple(one.columns.answer.items()) for one in matches}) > 1:
        ways = "; or ".join(f"{one.columns.options()} for {one.name}" for one in matches)
        raise InputError(f"{place} can be read in several ways, say which is meant: {ways}")
    return _with_problem(place, values, matches, given)


def _matches(values: Mapping[str, Any], columns: Columns, problem: str | None) -> bool:
    if problem is None:
        return all(has(values, name) for name in columns.named.values())
    return columns.messages is None and all(has(values, name) for name in columns.answer.values())


def _with_problem(place: str, values: Mapping[str, Any], matches: list[KnownColumns], given: Columns) -> KnownColumns:
    one = matches[0]
    if given.problem is not None:
        one = KnownColumns("", replace(one.columns, problem=given.problem))
    elif len(matches) > 1:
        options = " or ".join(f"--problem-column {match.columns.problem}" for match in matches)
        raise InputError(f"{place} has several columns that may be the problem, say which is it: {options}")
    if one.columns.thinking is None and one.columns.response is not None:
        beside = [name for name in THOUGHTS if isinstance(text := values.get(name), str) and text.strip()]
        if beside:
            alone = f"--response-column {one.columns.response}"
            raise InputError(
                f"{place} has {beside[0]!r} beside {one.columns.response!r}: say {alone} --thinking-column {beside[0]} "
                f"where it is the thinking, or {alone} to leave it out"
            )
    return one


def _completed(place: str, values: Mapping[str, Any], given: Columns) -> Columns:
    """The columns that were named, with a response beside a thinking, and with a problem."""
    if given.thinking is not None and given.response is None:
        given = replace(given, response=DEFAULT.columns.response)
    if given.problem is not None or given.messages is not None:
        return given
    found = [name for name in PROBLEMS if has(values, name)]
    if not found or (len(found) > 1 and found[0] != PROBLEMS[0]):
        what = f"several columns that may be it, {', '.join(found)}" if found else _listed(values)
        raise InputError(f"{place} has {what}: name the problem's by --problem-column")
    return replace(given, problem=found[0])


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(map(str, values)) or "nothing"


def _asked(known: tuple[KnownColumns, ...]) -> str:
    if known is POOLS:
        return "name the columns by --problem-column and --candidates-column"
    return (
        "name the columns by --problem-column with --response-column (and --thinking-column) or --steps-column, or by "
        "--messages-column"
    )
