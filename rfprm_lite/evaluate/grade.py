"""Graders: whether a candidate's final answer is the right one, and which candidates answer the same.

A grader is what `rfprm_lite.voting` calls `Answers`: `find` gives a candidate's answer, `same` compares the answers of
two texts. The right answer is compared as the text of a candidate that has it in a box.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.items import Bad, Item, Items
from rfprm_lite.voting import Answers
from rfprm_lite.voting.answers import MathAnswers


class _Pattern:
    """Answers that a regular expression finds: the last match's only group that matched."""

    pattern: ClassVar[re.Pattern[str]]

    def find(self, candidate: str) -> str | None:
        """The final answer of a candidate; None where it gives none."""
        matches = list(self.pattern.finditer(candidate))
        return self.written(next(group for group in matches[-1].groups() if group)) if matches else None

    def same(self, candidate: str, other: str) -> bool:
        """Whether both give the same answer."""
        return self.find(candidate) is not None and self.find(candidate) == self.find(other)

    def written(self, answer: str) -> str:
        """The answer in one way of writing it."""
        return answer.upper()


class Letter(_Pattern):
    """The letter of multiple choice, A to J: in a box, or behind "answer", "answer is" or "answer:"; the last one."""

    pattern = re.compile(
        r"\\boxed\{\s*(?:\\(?:text|mathrm|textbf)\{)?\(?([A-Ja-j])\)?\}?\s*\}"
        r"|(?i:answer)(?i:\s+is)?[\s:*$]*\(?([A-J])\)?(?![A-Za-z])"
    )


class Number(_Pattern):
    """The last number: for grade-school problems, whose answers are integers or decimals."""

    pattern = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)")

    def written(self, answer: str) -> str:
        """The number without commas, and without zeros that say nothing."""
        text = answer.replace(",", "")
        return text.rstrip("0").rstrip(".") if "." in text else text


GRADERS = {"math": MathAnswers, "letter": Letter, "number": Number}


def grader_of(name: str) -> AbstractContextManager[Answers]:
    """A grader by its name, open until the context ends.

    Args:
        name: One of `GRADERS`, or `module:name` of a class of yours that has `find` and `same`.

    Raises:
        InputError: If there is none.
        MissingExtraError: If it is math-verify and that is not installed.
    """
    made: Answers
    if name in GRADERS:
        made = GRADERS[name]()
    elif ":" not in name:
        raise InputError(f"no grader is called {name!r}: there are {', '.join(GRADERS)}, or module:name of yours")
    else:
        try:
            made = pkgutil.resolve_name(name)()
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"the grader {name} can't be had: {error}") from error
    return made if isinstance(made, MathAnswers) else nullcontext(made)


def graded(items: Items, grader: str | None) -> Items:
    """The same set with whether each candidate is right, and what it answers, where the file does not say.

    What the file says of a candidate stands: its correctness, and the answer that somebody extracted, which a grader
    compares in the place of its text. Without a grader the answers of a file are compared as texts.

    Args:
        items: A set of pools.
        grader: See `grader_of`; None if the file says all.

    Raises:
        InputError: If there is no such grader.
        MissingExtraError: If math-verify is needed and not installed.
    """
    if items.kind != "pools":
        return items
    good: list[Item] = []
    bad = list(items.bad)
    with nullcontext(None) if grader is None else grader_of(grader) as answers:
        for item in items.items:
            whole = item if answers is None else _graded(item, answers)
            if any(one.correct is None for one in whole.candidates):
                why = "no candidate's correctness, and nothing to tell it by: name --correct-column, or a --grader"
                bad.append(Bad(item.row, f"{why} and the column of the right answer (--answer-column)"))
            else:
                good.append(whole)
    return replace(items, items=tuple(good), bad=tuple(sorted(bad, key=lambda one: one.row)))


def _graded(item: Item, answers: Answers) -> Item:
    candidates = []
    firsts: list[tuple[str, str]] = []
    right = None if item.answer is None else rf"\boxed{{{item.answer}}}"
    for one in item.candidates:
        text = one.text if one.answer is None else rf"\boxed{{{one.answer}}}"
        answer = answers.find(text)
        correct = one.correct
        if correct is None and right is not None:
            correct = answer is not None and answers.same(right, text)
        if answer is not None:
            answer = _meaning(answer, text, firsts, answers)
        candidates.append(replace(one, correct=correct, answer=answer))
    return replace(item, candidates=tuple(candidates))


def _meaning(answer: str, text: str, firsts: list[tuple[str, str]], answers: Answers) -> str:
    """The answer as the first candidate that means the same writes it; `firsts` holds those, and grows."""
    known: Sequence[tuple[str, str]] = firsts
    written = (first for first, _ in known if first == answer)
    meant = (first for first, other in known if answers.same(other, text))
    for found in (next(written, None), next(meant, None)):
        if found is not None:
            return found
    firsts.append((answer, text))
    return answer
