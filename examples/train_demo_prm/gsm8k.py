"""GSM8K answers as traces of the demo model's domain.

In: rows of GSM8K (`question`, `answer` with `<<48/2=24>>` marks). Out: problems whose every line is one
equation on integers from 0 to LIMIT, and traces from them. A row that holds anything else is left out.
Source: openai/grade-school-math, MIT.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from arithmetic import ERRORS, LIMIT, Step, Trace, misread

MARK = re.compile(r"<<([^=>]+)=([^>]+)>>")
WRITTEN = re.compile(r"[\d\s+\-*/x().$×]*=\s*\$?$")
EXPRESSION = re.compile(r"\d+(?:[-+*/]\d+)+")
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Line:
    before: str
    expression: str
    result: int
    after: str

    def text(self, expression: str, result: int) -> str:
        spaced = re.sub(r"([-+*/])", r" \1 ", expression)
        return f"{self.before}{spaced} = {result}{self.after}".strip()


@dataclass(frozen=True)
class Row:
    question: str
    lines: tuple[Line, ...]
    answer: int


def evaluate(expression: str) -> int | None:
    """The value of `12+5*3`, or None where it is no integer of the domain."""
    if not EXPRESSION.fullmatch(expression) or any(int(n) > LIMIT for n in NUMBER.findall(expression)):
        return None
    try:
        value = eval(re.sub(r"\b0+(?=\d)", "", expression))  # noqa: S307  # digits and operators only
    except ZeroDivisionError:
        return None
    return int(value) if value == int(value) and 0 <= value <= LIMIT else None


def parse(row: dict[str, str]) -> Row | None:
    """The row as equations, or None where it leaves the domain."""
    body, _, final = row["answer"].partition("\n#### ")
    if not final.isdigit() or int(final) > LIMIT or "." in re.sub(r"\.(\s|$)", "", row["question"]):
        return None
    if any(int(n) > LIMIT for n in NUMBER.findall(row["question"])):
        return None
    lines = [_parse_line(text) for text in body.split("\n")]
    if not lines or None in lines:
        return None
    return Row(row["question"], tuple(line for line in lines if line), int(final))


def _parse_line(text: str) -> Line | None:
    marks = list(MARK.finditer(text))
    if len(marks) != 1:
        return None
    (mark,) = marks
    expression = mark[1].replace(" ", "")
    result = evaluate(expression)
    if result is None or str(result) != mark[2].strip():
        return None
    before = WRITTEN.sub("", text[: mark.start()])
    before = before + " " if before and not before.endswith(" ") else before
    after = text[mark.end() :]
    if not after.startswith(str(result)) or NUMBER.search(before):
        return None
    after = after.removeprefix(str(result))
    return None if NUMBER.search(after) else Line(before, expression, result, after)


def load(path: Path) -> list[Row]:
    """All rows of a GSM8K file that lie in the domain."""
    with path.open(encoding="utf-8") as file:
        rows = (parse(json.loads(line)) for line in file)
        return [row for row in rows if row]


def _replace_numbers(text: str, new: dict[str, str]) -> str:
    return NUMBER.sub(lambda number: new.get(number[0], number[0]), text)


def renumber(row: Row, rng: random.Random) -> Row:
    """The same story with other numbers, every result worked out anew; the row itself where that fails.

    A number of the question that no line uses stays, and so does one of a line that the question does not hold.
    """
    results = {line.result for line in row.lines}
    used = {int(n) for line in row.lines for n in NUMBER.findall(line.expression)}
    free = [n for n in map(int, set(NUMBER.findall(row.question))) if n in used - results and n > 1]
    for _ in range(8):
        new = {str(n): str(rng.randint(2, min(LIMIT, max(10, 2 * n)))) for n in free}
        lines: list[Line] = []
        for line in row.lines:
            expression = _replace_numbers(line.expression, new)
            result = evaluate(expression)
            if result is None or result < 1:
                break
            new.setdefault(str(line.result), str(result))
            lines.append(Line(line.before, expression, result, line.after))
        else:
            if row.answer == row.lines[-1].result:
                return Row(_replace_numbers(row.question, new), tuple(lines), lines[-1].result)
    return row


def write(row: Row, rng: random.Random, error_at: int | None = None, kind: str = "result") -> Trace | None:
    """The trace of `row`, with one error of `kind` at step `error_at`; None where that can't be had.

    A wrong result is carried on: wherever a later expression holds the right number, it holds the wrong one.
    """
    steps: list[Step] = []
    carried: dict[str, str] = {}
    said = 0
    for i, line in enumerate(row.lines):
        expression = _replace_numbers(line.expression, carried)
        result = evaluate(expression)
        if result is None:
            return None
        right = line.text(expression, result)
        said_expression, said = expression, result
        if i == error_at:
            slip = _slip(row, rng, kind, expression, result)
            if slip is None:
                return None
            said_expression, said = slip
        if said != line.result:
            carried[str(line.result)] = str(said)
        steps.append(Step(line.text(said_expression, said), right))
    answer = int(carried.get(str(row.answer), row.answer)) if said != row.answer else row.answer
    right = f"The answer is {answer}."
    if error_at == len(row.lines):
        answer = misread(rng, answer)
    steps.append(Step(f"The answer is {answer}.", right))
    return Trace(row.question, tuple(steps), error_at)


def _slip(row: Row, rng: random.Random, kind: str, expression: str, result: int) -> tuple[str, int] | None:
    if kind == "result":
        return expression, misread(rng, result)
    parts = re.split(r"([-+*/])", expression)
    if kind == "operand":
        at = rng.randrange(0, len(parts), 2)
        others = [n for n in NUMBER.findall(row.question) if n not in parts]
        parts[at] = rng.choice([*others, str(misread(rng, int(parts[at])))])
    else:
        at = rng.randrange(1, len(parts), 2)
        parts[at] = rng.choice([o for o in "+-*/" if o != parts[at]])
    wrong = evaluate("".join(parts))
    return None if wrong is None or wrong == result else ("".join(parts), wrong)


def sample_trace(row: Row, rng: random.Random, error_rate: float) -> Trace:
    """A trace with an error at a random step with probability `error_rate`, right otherwise."""
    while rng.random() < error_rate:
        trace = write(row, rng, rng.randrange(len(row.lines) + 1), rng.choice(ERRORS))
        if trace:
            return trace
    trace = write(row, rng)
    if trace is None:
        raise ValueError(f"a row that leaves the domain: {row}")
    return trace
