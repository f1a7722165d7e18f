"""Strangers' texts: wherever one stands, the model reads it as text, and all else as if it were another.

Checked on token ids by an account of its own (`readers.py`): ids are turned back into what they stand for, special
tokens into marks that no text can hold. What is read of a hostile text must be what is read of a harmless one with the
one text in the other's place, in full and up to every read-out; or an error says why not.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import hostile_texts
from campaign import Effort, Tally
from readers import Reader, readers
from rfprm_lite import InputError, Question, Trace
from rfprm_lite.bundle.pieces import STRIPS, Read, Special, Strip, Text, slot_names
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.messages import exchange
from rfprm_lite.text.writing import step_drafts
from rfprm_lite.trace import Problem

HARMLESS = "QZ7X"
"""What no template holds, and what no normalisation changes."""
OTHER, ONE, TWO = "What is 2 + 3?", "First, 2 + 3 is 5.", "The answer is 5."
PADS = ("\n \t", "\t \n")

REASONS = {
    "a marker of the recipe": "has a meaning of its own in what",
    "merges at a read-out": "the text of the step merges with it|merges with it\\s+into",
    "changed by the template": "changes an answer|changes an\\s+answer",
    "a special token by its text": "the tokenizer makes",
    "nothing but blanks": "is empty",
    "no step": "has no step|are both empty",
    "steps that the recipe does not read": "as one step; this trace",
    "no place in the recipe": "must be one message of the user|has no place in the chat template|reads no ",
    "lone surrogate": "lone surrogate",
}
"""Why a text may be refused."""

Build = Callable[[Reader, str], tuple[Problem, Trace]]


def _trace(reader: Reader, *steps: str) -> Trace:
    return Trace.from_steps(steps, thinking=len(steps) - 1 if reader.recipe.closing else 0)


def _talk(system: str, user: str, assistant: str) -> list[dict[str, Any]]:
    said = (("system", system), ("user", user), ("assistant", assistant), ("user", OTHER))
    return [{"role": role, "content": text} for role, text in said]


PLACES: dict[str, Build] = {
    "problem": lambda reader, text: (text, _trace(reader, ONE, TWO)),
    "the one message": lambda reader, text: ([{"role": "user", "content": text}], _trace(reader, ONE, TWO)),
    "first step": lambda reader, text: (OTHER, _trace(reader, text, ONE, TWO)),
    "step between": lambda reader, text: (OTHER, _trace(reader, ONE, text, TWO)),
    "last step": lambda reader, text: (OTHER, _trace(reader, ONE, text)),
    "system": lambda reader, text: (_talk(text, OTHER, ONE), _trace(reader, ONE, TWO)),
    "earlier question": lambda reader, text: (_talk(OTHER, text, ONE), _trace(reader, ONE, TWO)),
    "earlier answer": lambda reader, text: (_talk(OTHER, OTHER, text), _trace(reader, ONE, TWO)),
    "reference": lambda reader, text: (Question(OTHER, reference=text), _trace(reader, ONE, TWO)),
    "choices": lambda reader, text: (Question(OTHER, choices=text), _trace(reader, ONE, TWO)),
}
"""Where one text stands whole."""


@dataclass(frozen=True)
class Spelled:
    """What a sequence says in full, and up to each of its read-outs; and the ids of the tokens at them."""

    whole: str
    reads: tuple[str, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, reader: Reader, sequence: TokenSequence) -> Spelled:
        ids, at = sequence.ids.tolist(), sequence.read_at.tolist()
        return cls(reader.spelled(ids), tuple(reader.spelled(ids[: i + 1]) for i in at), tuple(ids[i] for i in at))

    def with_text(self, reader: Reader, text: str) -> Spelled:
        """What it would say with another text in the harmless one's place."""
        number = reader.recipe.cleaning.number

        def swapped(spelled: str) -> str:
            if number is not None:  # a step that has its number is given no other
                own = re.escape(number).replace(r"\{n\}", r"(\d+)")
                spelled = re.sub(
                    rf"{own}(?={HARMLESS})",
                    lambda found: "" if text.lstrip().startswith(number.format(n=found[1])) else found[0],
                    spelled,
                )
            return reader.normal(spelled.replace(HARMLESS, text))

        return Spelled(swapped(self.whole), tuple(map(swapped, self.reads)), self.tokens)


@dataclass(frozen=True)
class Place:
    """A recipe's reading of a harmless text in a place.

    strips: what it leaves out there, of each sequence. markers: how many tokens are the one that stands at read-outs,
    where that is one of text. of_steps: whether the text is a candidate's, which must add none of them.
    """

    reader: Reader
    build: Build
    harmless: tuple[Spelled, ...]
    strips: tuple[Callable[[str], str], ...]
    markers: int
    of_steps: bool

    @classmethod
    def of(cls, reader: Reader, name: str) -> Place:
        build = PLACES[name]
        sequences = reader.encoder.step_sequences(*build(reader, HARMLESS))
        harmless = tuple(Spelled.of(reader, sequence) for sequence in sequences)
        return cls(reader, build, harmless, _strips(reader, build, harmless), _markers(reader, sequences), "step" in name)


def _strips(reader: Reader, build: Build, harmless: Sequence[Spelled]) -> tuple[Callable[[str], str], ...]:
    """Which whitespace a slot leaves out at the ends of a text."""
    pads = tuple(pad.replace("\n", " ") if "\n" in reader.recipe.cleaning.refuse else pad for pad in PADS)
    padded = HARMLESS.join(pads)
    found = [Spelled.of(reader, one) for one in reader.encoder.step_sequences(*build(reader, padded))]
    strips = []
    for one, other in zip(harmless, found, strict=True):
        fits = [strip for strip in STRIPS.values() if one.with_text(reader, strip(padded)).whole == other.whole]
        strips.append(fits[0])
    return tuple(strips)


def _markers(reader: Reader, sequences: Sequence[TokenSequence]) -> int:
    """How often the token of a read-out stands there, where it is one of text that no step may hold."""
    return 0 if reader.marker is None else sum(sequence.ids.tolist().count(reader.marker) for sequence in sequences)


def _reason(error: InputError) -> str:
    found = [name for name, pattern in REASONS.items() if re.search(pattern, str(error))]
    assert found, f"an error that names no reason: {error}"
    return found[0]


def _check(place: Place, text: str) -> str | None:
    """Check a text in a place; returns why it was refused."""
    reader = place.reader
    try:
        sequences = reader.encoder.step_sequences(*place.build(reader, text))
    except InputError as error:
        return _reason(error)
    assert len(sequences) == len(place.harmless)
    for sequence, harmless, strip in zip(sequences, place.harmless, place.strips, strict=True):
        found, expected = Spelled.of(reader, sequence), harmless.with_text(reader, strip(text))
        assert found.whole == expected.whole
        assert found.reads == expected.reads
        if reader.recipe.expect is not None:
            assert found.tokens == expected.tokens
    if place.of_steps:
        assert _markers(reader, sequences) == place.markers
    return None


def _places(reader: Reader) -> Iterator[tuple[str, Place]]:
    for name in PLACES:
        try:
            yield name, Place.of(reader, name)
        except InputError as error:
            assert _reason(error) == "no place in the recipe", (reader.name, name, str(error))
