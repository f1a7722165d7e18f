"""The demo model's domain: word problems whose every number is an integer from 0 to LIMIT.

In: a random generator. Out: a `Problem`, and from it a `Trace`, right throughout or with one error at a
chosen step that is carried on to the end. Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LIMIT = 400

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if b and a % b == 0 else None,
}
ERRORS = ("result", "operand", "operation")


@dataclass(frozen=True)
class Ref:
    """The result of an earlier line."""

    line: int


@dataclass(frozen=True)
class Line:
    """One step: `text` has the fields {e} (the equation `a op b = c`) or {c} alone for the answer."""

    text: str
    a: int | Ref
    op: str
    b: int | Ref


@dataclass(frozen=True)
class Problem:
    question: str
    lines: tuple[Line, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """`text` is what the trace says, `right` what it should have said, given all that was said before."""

    text: str
    right: str


@dataclass(frozen=True)
class Trace:
    question: str
    steps: tuple[Step, ...]
    first_error: int | None


def calculate(a: int, op: str, b: int) -> int | None:
    """`a op b`, or None where that leaves the domain."""
    c = OPERATIONS[op](a, b)
    return c if c is not None and 0 <= c <= LIMIT else None


def misread(rng: random.Random, value: int) -> int:
    """A number that could be taken for `value`: a slip in one digit, in a carry, or two digits swapped."""
    slips = [value + d for d in (1, -1, 2, -2, 10, -10, 100, -100)]
    digits = list(str(value))
    at = rng.randrange(len(digits))
    slips += [int("".join([*digits[:at], rng.choice("0123456789"), *digits[at + 1 :]]))] * 6
    slips.append(int("".join(reversed(digits))))
    slips = [s for s in slips if s != value and 0 <= s <= LIMIT]
    return rng.choice(slips)


def write(problem: Problem, rng: random.Random, error_at: int | None = None, kind: str = "result") -> Trace | None:
    """The trace of `problem`, with one error of `kind` at step `error_at`; None where that can't be had.

    The step after the last line says the answer; its only error is a wrong number.
    """
    values: list[int] = []
    steps: list[Step] = []
    for i, line in enumerate(problem.lines):
        a, b = (values[x.line] if isinstance(x, Ref) else x for x in (line.a, line.b))
        c = calculate(a, line.op, b)
        if c is None:
            return None
        right = line.text.format(e=f"{a} {line.op} {b} = {c}")
        said = (a, line.op, b, c)
        if i == error_at:
            slip = _slip(problem, rng, kind, a, line.op, b, c, values)
            if slip is None:
                return None
            said = slip
        a, op, b, c = said
        values.append(c)
        steps.append(Step(line.text.format(e=f"{a} {op} {b} = {c}"), right))
    answer = values[-1]
    right = f"The answer is {answer}."
    if error_at == len(problem.lines):
        answer = rng.choice([v for v in (*values[:-1], *problem.numbers, misread(rng, answer)) if v != answer])
    steps.append(Step(f"The answer is {answer}.", right))
    return Trace(problem.question, tuple(steps), error_at)


def _slip(
    problem: Problem, rng: random.Random, kind: str, a: int, op: str, b: int, c: int, values: list[int]
) -> tuple[int, str, int, int] | None:
    if kind == "result":
        return a, op, b, misread(rng, c)
    if kind == "operand":
        others = [v for v in (*problem.numbers, *values) if v not in (a, b)] or [misread(rng, b)]
        other = rng.choice([*others, misread(rng, b)])
        a, b = (a, other) if rng.random() < 0.6 else (other, b)
    else:
        op = rng.choice([o for o in OPERATIONS if o != op])
    wrong = calculate(a, op, b)
    return None if wrong is None or wrong == c else (a, op, b, wrong)


def sample_trace(problem: Problem, rng: random.Random, error_rate: float) -> Trace:
    """A trace with an error at a random step with probability `error_rate`, right otherwise."""
    while rng.random() < error_rate:
        at = rng.randrange(len(problem.lines) + 1)
        trace = write(problem, rng, at, rng.choice(ERRORS))
        if trace:
            return trace
    trace = write(problem, rng)
    if trace is None:
        raise ValueError(f"a problem that leaves the domain: {problem}")
    return trace


# --- drills: bare equations, for the first lessons -------------------------------------------------------------


def operands(rng: random.Random, op: str) -> tuple[int, int]:
    """Two operands whose result stays in the domain."""
    if op == "+":
        c = rng.randint(2, LIMIT)
        a = rng.randint(1, c - 1)
        return a, c - a
    if op == "-":
        a = rng.randint(2, LIMIT)
        return a, rng.randint(1, a)
    small = rng.randint(2, 20)
    large = rng.randint(2, LIMIT // small)
    if op == "/":
        return small * large, rng.choice((small, large))
    return (small, large) if rng.random() < 0.5 else (large, small)


def drill(rng: random.Random, lines: int = 8) -> Problem:
    """Unrelated equations, one a line."""
    ops = [rng.choice("+--**/+*") for _ in range(lines)]
    pairs = [operands(rng, op) for op in ops]
    question = rng.choice(("Work out each line.", "Calculate these.", "Some sums."))
    rows = tuple(Line("{e}", a, op, b) for op, (a, b) in zip(ops, pairs, strict=True))
    return Problem(question, rows, tuple(n for pair in pairs for n in pair))
