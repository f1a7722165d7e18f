"""Strangers' texts: wherever one stands, the model reads it as text, and all else as if it were another.

Checked on token ids by an account of its own (`readers.py`): ids are turned back into what they stand for, special
tokens into marks that no text can hold. What is read of a hostile text must be what is read of a harmless one with the
one text in the other's place, in full and up to every read-out; or an error says why not.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import hostile_texts
from campaign import Effort, Tally
from readers import Reader, readers
from rfprm_lite import InputError, Question, Trace
from rfprm_lite.bundle.pieces import STRIPS, slot_names
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.messages import ROLES, exchange
from rfprm_lite.trace import Problem, as_trace

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
    "the one step": lambda reader, text: (OTHER, _trace(reader, *[ONE] * bool(reader.recipe.closing), text)),
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
    @functools.cache
    def of(cls, reader: Reader, name: str) -> Place:
        build = PLACES[name]
        sequences = reader.encoder.step_sequences(*build(reader, HARMLESS))
        harmless = tuple(Spelled.of(reader, sequence) for sequence in sequences)
        return cls(
            reader, build, harmless, _strips(reader, build, harmless), _markers(reader, sequences), "step" in name
        )


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


def _candidate(reader: Reader, way: Callable[[str, str], Trace], text: str) -> str | None:
    """Check a candidate's text, whatever its steps are; returns why it was refused."""
    recipe, encoder = reader.recipe, reader.encoder
    try:
        trace = way(text, recipe.split)
        steps = [step.text for step in trace.steps]
        sequences = encoder.step_sequences(OTHER, trace)
    except InputError as error:
        return _reason(error)
    found = [Spelled.of(reader, sequence) for sequence in sequences]
    reads = [read for one in found for read in one.reads]
    assert len(reads) == len(steps)
    if recipe.blank_line:
        opening = Place.of(reader, "first step").harmless[0].whole.partition(HARMLESS)[0]
        assert found[0].whole.startswith(opening)
        assert reader.special(found[0].whole) == reader.special(opening)
        assert all(read.endswith(reader.normal(f"{step}\n")) for read, step in zip(reads, steps, strict=True))
    elif recipe.probes:
        place = Place.of(reader, "the one step")
        between = slot_names(recipe.step) == ["steps"]
        ends = [*(step.text_end for step in trace.steps[:-1]), len(trace.text)]
        joined = ["\n\n".join(steps[: i + 1]) if between else trace.text[:end] for i, end in enumerate(ends)]
        expected = [place.harmless[0].with_text(reader, place.strips[0](one)) for one in joined]
        assert [one.whole for one in found] == [one.whole for one in expected]
        assert reads == [one.reads[0] for one in expected]
    else:
        strips = [Place.of(reader, place).strips[0] for place in ("first step", *["last step"] * (len(steps) - 1))]
        stripped = [strip(step) for strip, step in zip(strips, steps, strict=True)]
        harmless = Trace.from_steps([HARMLESS] * len(steps), thinking=len(trace.thinking))
        frame = Spelled.of(reader, *encoder.step_sequences(OTHER, harmless))
        assert found[0].whole == _filled(reader, frame.whole, stripped)
        assert reads == [_filled(reader, read, stripped) for read in frame.reads]
    if reader.marker is not None and not recipe.blank_line:
        assert _markers(reader, sequences) == len(steps)
    return None


def _filled(reader: Reader, frame: str, steps: Sequence[str]) -> str:
    """A frame with a text for each harmless one in it."""
    parts = frame.split(HARMLESS)
    for i, step in enumerate(steps[: len(parts) - 1]):
        number = (reader.recipe.cleaning.number or "").format(n=i + 1)
        before = parts[i].removesuffix(number) if step.lstrip().startswith(number) else parts[i]
        parts[i] = before + step
    return reader.normal("".join(parts))


def _answer(text: str, splitter: str, **thinking: str) -> Trace:
    _, response = exchange([{"role": "user", "content": OTHER}, {"role": "assistant", "content": text, **thinking}])
    return as_trace(response, splitter=splitter)


WAYS: dict[str, Callable[[str, str], Trace]] = {
    "response": lambda text, splitter: Trace.parse(text, splitter=splitter),
    "response, its thinking begun": lambda text, splitter: Trace.parse(text, splitter=splitter, started_thinking=True),
    "response apart": lambda text, splitter: Trace.from_parts(thinking=ONE, response=text, splitter=splitter),
    "thinking apart": lambda text, splitter: Trace.from_parts(thinking=text, response=TWO, splitter=splitter),
    "thinking between markers": lambda text, splitter: Trace.parse(
        f"<think>\n{text}\n</think>\n\n{TWO}", splitter=splitter
    ),
    "answer of a chat": _answer,
    "thinking of a chat": lambda text, splitter: _answer(TWO, splitter, reasoning_content=text),
}
"""Where a candidate's text is split into steps."""


def _places(reader: Reader) -> Iterator[tuple[str, Place]]:
    for name in PLACES:
        try:
            place = Place.of(reader, name)
        except InputError as error:
            reason = _reason(error)
        else:
            yield name, place
            continue
        assert reason == "no place in the recipe", (reader.name, name)


@functools.cache
def _texts(*, real: bool) -> tuple[tuple[Reader, ...], list[str]]:
    """Readers, and all texts that a word of theirs makes."""
    found = readers(real=real)
    added = {token for reader in found for token in reader.added}
    return found, hostile_texts.all_texts(hostile_texts.words([reader.recipe for reader in found], sorted(added)))


def _some(rng: random.Random, texts: list[str], times: int) -> list[str]:
    """Texts to try: by hand, of the list, and several in a row, a third each."""
    count = -(-times // 3)
    by_hand = rng.sample(hostile_texts.BY_HAND, min(count, len(hostile_texts.BY_HAND)))
    single = rng.sample(texts, min(times - len(by_hand) - count, len(texts)))
    return [*by_hand, *single, *(hostile_texts.mixed(rng, texts) for _ in range(count))]


def _all_tried(tally: Tally, what: str, tries: Iterable[tuple[str, Callable[[str], str | None], list[str]]]) -> None:
    """Try every text, count them, and fail with the first ones that were read otherwise."""
    refused: Counter[str] = Counter()
    wrong: list[str] = []
    for name, check, texts in tries:
        for text in texts:
            try:
                reason = check(text)
            except AssertionError as error:
                wrong.append(f"{name}: {text!r}: {error}")
            else:
                refused.update([reason] if reason else [])
        tally.add(what, len(texts))
    for reason, count in sorted(refused.items()):
        tally.add(f"refused: {reason}", count)
    assert not wrong, f"{len(wrong)} of {tally.counts[what]}: " + "\n".join(wrong[:5])
    assert refused.total() < 0.2 * tally.counts[what]  # or it would be no test of what is read


@pytest.mark.parametrize("real", [False, True], ids=["small", "real"])
def test_a_text_is_read_as_text_wherever_it_stands(effort: Effort, tally: Tally, real: bool) -> None:
    """A hostile text in each place of each recipe: on token ids, that text alone is another."""
    if real and not effort.long:
        pytest.skip("real tokenizers take minutes to be made: in the campaign alone")
    found, texts = _texts(real=real)
    if not found:
        pytest.skip("no package with a real tokenizer is installed")
    rng = random.Random(27)
    times = effort.times(short=18, long=600)
    tally.measure("recipes", len(found))
    tally.measure("texts to draw from", len(texts))
    places = [(reader, name, place) for reader in found for name, place in _places(reader)]
    _all_tried(
        tally,
        "texts in places",
        (
            (f"{reader.name}, {name}", partial(_check, place), _some(rng, texts, times))
            for reader, name, place in places
        ),
    )
    tally.measure("places in recipes", len(places))


def test_a_candidates_text_is_read_as_its_steps(effort: Effort, tally: Tally) -> None:
    """A hostile response, thinking, or message of a chat, split into steps: on token ids, its steps and no others."""
    found, texts = _texts(real=False)
    rng = random.Random(28)
    times = effort.times(short=15, long=300)
    _all_tried(
        tally,
        "texts of candidates",
        (
            (f"{reader.name}, {name}", partial(_candidate, reader, way), _some(rng, texts, times))
            for reader in found
            for name, way in WAYS.items()
        ),
    )


def test_long_texts_stay_in_their_places(effort: Effort, tally: Tally) -> None:
    """Ten thousand to a million equal characters, markers or blank lines in each place of each recipe."""
    found, _ = _texts(real=False)
    rng = random.Random(29)
    long = hostile_texts.long_texts(effort.times(short=10_000, long=100_000))
    pairs = [(reader, name, place) for reader in found for name, place in _places(reader)]
    places = rng.sample(pairs, effort.times(short=12, long=60))
    _all_tried(
        tally,
        f"texts of {len(long['equal letters']):,} characters",
        (
            (f"{reader.name}, {name}", partial(_check, place), rng.sample(list(long.values()), 6))
            for reader, name, place in places
        ),
    )
    if effort.long:
        million = hostile_texts.long_texts(1_000_000)
        _all_tried(
            tally,
            "texts of 1,000,000 characters",
            (
                (f"{reader.name}, {name}", partial(_check, place), [million[rng.choice(list(million))]])
                for reader, name, place in rng.sample(pairs, 20)
            ),
        )


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "<|im_end|>\udc80"])
def test_a_lone_surrogate_is_refused_everywhere(tally: Tally, text: str) -> None:
    """Text that UTF-8 can't hold, in each place of each recipe, is an error that says so."""
    found, _ = _texts(real=False)
    for reader in found:
        for name, place in _places(reader):
            assert _check(place, text) == "lone surrogate", (reader.name, name)
            tally.add("texts in places")
        for way in WAYS.values():
            assert _candidate(reader, way, text) == "lone surrogate"
            tally.add("texts of candidates")


def test_what_a_role_is_called_is_no_text(tally: Tally) -> None:
    """A role of a message is one of the known names: no disguise of one, and no template's words."""
    _, texts = _texts(real=False)
    roles = [own(role) for role in ("system", "user", "assistant") for own in hostile_texts.DISGUISES.values()]
    roles = [role for role in [*roles, *texts[::50]] if role not in ROLES]
    reader = readers()[0]
    for role in roles:
        with pytest.raises(InputError, match="the roles are"):
            reader.encoder.step_sequences([{"role": role, "content": OTHER}], _trace(reader, ONE))
        tally.add("roles")
