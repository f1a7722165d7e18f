"""What is evaluated: items, each a problem with traces of which something is known.

Knows no files and no PRMs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rfprm_lite.errors import InputError
from rfprm_lite.trace import Problem, Response, Trace

Kind = Literal["processbench", "prmbench", "steps", "pools"]
"""What is asked: the first wrong step; wrong steps by class of error; the quality of labelled steps; best of N."""

Label = bool | None
"""Whether a step is right; None where nobody knows, as behind the first error."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trace and what is known of it.

    Attributes:
        response: Text, split at blank lines when it is scored; or its steps.
        labels: Of the steps, one each; none where they are not labelled.
        correct: Whether its final answer is right; None where that is not known.
        answer: Its final answer, for votes; None where it has none, or nobody looked for it.
        scores: Step scores that somebody's PRM gave; None where there are none.
        problem: In the item's place, where it answers another question.

    Raises:
        InputError: If there is no step, an empty one, or another number of labels or scores than of steps.
    """

    response: str | tuple[str, ...]
    labels: tuple[Label, ...] = ()
    correct: bool | None = None
    answer: str | None = None
    scores: tuple[float, ...] | None = None
    problem: Problem | None = None

    def __post_init__(self) -> None:
        if self.labels and isinstance(self.response, str):
            raise InputError("labels are of steps: give the response as a tuple of steps")
        if self.labels and len(self.labels) != len(self.response):
            raise InputError(f"{len(self.labels)} labels for {len(self.response)} steps: one each is needed")
        if self.scores is not None:
            if not self.scores or not all(map(math.isfinite, self.scores)):
                raise InputError(f"step scores are finite numbers, at least one, not {list(self.scores)[:5]}")
            if self.labels and len(self.scores) != len(self.labels):
                raise InputError(f"{len(self.scores)} step scores for {len(self.labels)} steps: one each is needed")
        elif isinstance(self.response, tuple):
            _ = self.trace  # raises where a step is empty

    @property
    def trace(self) -> Response:
        """What is scored."""
        return self.response if isinstance(self.response, str) else Trace.from_steps(self.response)

    @property
    def text(self) -> str:
        """The whole response, in which its final answer is looked for."""
        return self.response if isinstance(self.response, str) else "\n\n".join(self.response)

    @property
    def first_error(self) -> int | None:
        """The index of the first step that is labelled wrong; None if there is none."""
        return self.labels.index(False) if False in self.labels else None


@dataclass(frozen=True, slots=True)
class Item:
    """A problem and its traces.

    Attributes:
        row: Its place in the file, from 1.
        problem: The question. Items of one problem are one unit where intervals are drawn.
        candidates: Its traces.
        group: The class of error that PRMBench gives it; otherwise empty.
        answer: The right final answer, for a grader; None where nobody says it.
    """

    row: int
    problem: Problem
    candidates: tuple[Candidate, ...]
    group: str = ""
    answer: str | None = None

    @property
    def pairs(self) -> Iterator[tuple[Problem, Response]]:
        """Problem and response of each candidate, as PRMs take them."""
        return ((one.problem if one.problem is not None else self.problem, one.trace) for one in self.candidates)


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that could not be evaluated.

    Attributes:
        row: Its place in the file, from 1.
        error: What is wrong with it.
    """

    row: int
    error: str


@dataclass(frozen=True, slots=True)
class Items:
    """A set.

    Attributes:
        name: What reports call it.
        kind: What is asked.
        items: Those that could be read.
        bad: The rows that could not be read.
        source: Where it is from, with its licence, where that is known.
    """

    name: str
    kind: Kind
    items: tuple[Item, ...]
    bad: tuple[Bad, ...] = field(default=())
    source: str = ""
