"""Time against the length of a text: nothing that reads or shows one takes more than its length, however it is made.

Processor time of one text at two lengths; the slope of its logarithm over that of the length is 1 where time is
linear, 2 where it is quadratic.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import math
import random
import time
from collections.abc import Callable

from rich.console import Console

import hostile_texts
from campaign import Effort, Tally
from readers import Reader, readers
from rfprm_lite import InputError, Trace, Usage
from rfprm_lite.show.html import score_html
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import ScoreLine, StepRecord
from rfprm_lite.show.terminal import score_view
from rfprm_lite.show.words import visible
from rfprm_lite.text.messages import exchange, read
from rfprm_lite.text.rendering import rendering
from rfprm_lite.written.forms import FORMS
from rfprm_lite.written.splitting import NAMED

STEEPEST = 1.35
"""Of a time that counts as linear; sorting, caches and allocation cost more than the length alone."""
NOTHING = 0.03
"""Seconds of processor time below which a slope says nothing."""
ONE_OF_A_STYLE = (
    "reasonflux-prm-7b",
    "reasonflux-prm-1.5b",
    "rlhflow-prm",
    "math-shepherd",
    "skywork-o1-prm",
    "er-prm",
)

SHARE = {"terminal": 16, "notebook": 4, "page": 4}
"""Views, which take much longer a character, get texts that are so many times as short."""

Work = Callable[[str], object]


def _encoded(reader: Reader, text: str) -> object:
    steps = [text.replace("\n", " ")] if "\n" in reader.recipe.cleaning.refuse else [text]
    return reader.encoder.last_step_sequence(text, Trace.from_steps(steps))


def _line(text: str) -> ScoreLine:
    return ScoreLine((StepRecord(text, "response"),), (0.5,), "mean", (0, 1), Usage(9, 9), reward=0.5, problem=text)


def _page(text: str) -> str:
    page = Page(limit=9)
    page.add("line 1", _line(text))
    return page.to_html(text)


def _printed(text: str) -> None:
    Console(file=io.StringIO(), width=100).print(score_view(_line(text)))


def _works() -> dict[str, Work]:
    found = {reader.name: reader for reader in readers()}
    reader = found[ONE_OF_A_STYLE[0]]
    message = {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}
    return {
        **{f"split: {name}": functools.partial(Trace.parse, splitter=name) for name in NAMED},
        "split: a separator": functools.partial(Trace.parse, splitter=" ки"),
        "thinking begun": functools.partial(Trace.parse, started_thinking=True),
        **{f"form: {form.open}": functools.partial(Trace.parse, markers=(form.open, form.close)) for form in FORMS[:3]},
        "parts": lambda text: Trace.from_parts(thinking=text, response=text),
        "message": lambda text: read({**message, "reasoning": "x", "value": text}, "a message"),
        "chat": lambda text: exchange([{"role": "user", "content": text}, {"role": "assistant", "content": text}]),
        **{f"encoded: {name}": functools.partial(_encoded, found[name]) for name in ONE_OF_A_STYLE},
        "rendered": lambda text: rendering(reader.encoder, text, Trace.parse(text)),
        "control characters": visible,
        "terminal": _printed,
        "notebook": lambda text: score_html(_line(text)),
        "page": _page,
    }


def _shapes(length: int) -> dict[str, str]:
    """Equal ones, mixed ones, and those of every written form."""
    forms = "\n".join(f"{form.open}\na{form.close}b\n" for form in FORMS)
    mixed = "".join(hostile_texts.BY_HAND)
    units = {
        "forms": forms, "by hand": mixed, "nested": "<think>\n", "fences of growing length": "`", "tildes": "~~~\n",
        "blanks before lines": " " * 50 + "\n", "Windows": "\r\n", "half markers": "<thin", "answers": "<answer>\n",
        "turns": "<|end|><|start|>", "cut off headers": "<|start|>a<|channel|>", "brackets of displays": "\\[",
        "text and closings": "a.</think>\n",
    }  # fmt: skip
    repeated = {name: (unit * (1 + length // len(unit)))[:length] for name, unit in units.items()}
    return hostile_texts.long_texts(length) | repeated


def _seconds(work: Work, text: str, times: int) -> float:
    taken = []
    gc.disable()  # a pass of the collector takes the time of all that the tests made before
    try:
        for _ in range(times):
            start = time.process_time()
            with contextlib.suppress(InputError):
                work(text)
            taken.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(taken)


def _slope(work: Work, texts: list[str], times: int) -> float:
    """Of the steepest part; 0 where no time was taken."""
    taken = [(len(text), _seconds(work, text, times)) for text in texts]
    if taken[-1][1] < NOTHING:
        return 0.0
    (short, first), (long, last) = taken[0], taken[-1]
    return math.log(last / max(first, 1e-4)) / math.log(long / short)


def test_time_grows_with_length_alone(effort: Effort, tally: Tally) -> None:
    """Parsing, splitting, every written form, messages, encoding and views: processor time against length."""
    longest = effort.times(short=100_000, long=1_000_000)
    lengths = [longest // 8, longest]
    shapes = [_shapes(length) for length in lengths]
    works = _works()
    pairs = [(name, shape) for name in works for shape in shapes[0]]
    random.Random(30).shuffle(pairs)
    end = time.monotonic() + effort.seconds(short=10, long=150)
    steep: list[str] = []
    steepest = (0.0, "")
    for name, shape in pairs:
        texts = [one[shape][: len(one[shape]) // SHARE.get(name, 1)] for one in shapes]
        slope = _slope(works[name], texts, 1)
        if slope > STEEPEST:  # other programs may have taken the caches
            slope = _slope(works[name], texts, 3)
        if slope > STEEPEST:
            steep.append(f"{name}, {shape}: {slope:.2f}")
        steepest = max(steepest, (slope, f"{name}, {shape}"))
        tally.add("pairs of a work and a shape")
        if time.monotonic() > end:
            break
    tally.measure("characters", longest)
    tally.measure("steepest slope", steepest[0])
    tally.measure("of", steepest[1])
    assert not steep, "\n".join(steep)


def test_a_quadratic_reader_would_be_seen() -> None:
    def quadratic(text: str) -> object:
        return [text[at:].count("a") for at in range(0, len(text), 16)]

    assert _slope(quadratic, ["a" * 10_000, "a" * 80_000], 1) > STEEPEST
