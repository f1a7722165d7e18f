"""A problem with what some PRMs read beside it: a reference answer, or choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """A problem together with more that the PRM may read. Takes the problem's place in every call.

    Attributes:
        problem: Text, or a chat conversation that ends with it.
        reference: The reference answer, for PRMs that compare with one, such as Universal-PRM.
        choices: The choices of a multiple-choice question as one text, for PRMs that read them apart, such as Fin-PRM.
    """

    problem: str | Sequence[Mapping[str, Any]]
    reference: str | None = None
    choices: str | None = None
