"""Strangers' texts as people see them: whatever is written, each view shows text, and a browser runs nothing of it."""

from __future__ import annotations

import io
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from rich.console import Console

import hostile_texts
from campaign import Effort, Tally
from evaluation import pools
from readers import readers
from rfprm_lite import Usage
from rfprm_lite.evaluate import Report, Result
from rfprm_lite.evaluate.items import Candidate, Item, Items
from rfprm_lite.evaluate.judged import Judged
from rfprm_lite.evaluate.page import page_of
from rfprm_lite.show.chart import Axis, Line, chart, svg_text
from rfprm_lite.show.html import best_of_n_html, score_html
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import BestOfNRecord, ScoreLine, ScoreRecord, StepRecord
from rfprm_lite.show.terminal import score_view
from rfprm_lite.show.words import visible
from test_chromium import BROWSER, opened

RUNS = (
    "<script>document.documentElement.dataset.hostile = ''</script>",
    "</script><script>document.documentElement.dataset.hostile = ''</script>",
    "</style><img src=x onerror=\"document.documentElement.dataset.hostile = ''\">",
    "<svg/onload=\"document.documentElement.dataset.hostile = ''\">",
    "</title><iframe srcdoc=\"<script>parent.document.documentElement.dataset.hostile=''</script>\"></iframe>",
    "\" autofocus onfocus=\"document.documentElement.dataset.hostile = ''",
    "<a href=\"javascript:document.documentElement.dataset.hostile=''\">x</a>",
    "<meta http-equiv=refresh content=0;url=data:text/html,x>", "<base href=http://x>", "<form action=x><button>",
    "<!--", "-->", "<![CDATA[", "]]>", "<details ontoggle=alert(1) open>", "<plaintext>", "<template>",
    "<math><mi//xlink:href=x>",
)  # fmt: skip
"""What a browser would run."""
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Characters that could drive a terminal, reorder a line, or hide."""


def _texts(effort: Effort, short: int, long: int) -> list[str]:
    words = hostile_texts.words([reader.recipe for reader in readers()], ())
    all_texts = hostile_texts.all_texts([*RUNS, *words])
    found = [*RUNS, *random.Random(31).sample(all_texts, effort.times(short, long)), *hostile_texts.BY_HAND]
    return [text for text in found if text.strip()]  # a step is never blank


def _line(text: str, name: str = "p") -> ScoreLine:
    steps = tuple(StepRecord(step, "response") for step in (text, f"a {text} b"))
    return ScoreLine(steps, (0.9, 0.2), "mean", (0, 1), Usage(9, 9), reward=0.5, problem=f"{name} {text}")


def _page(texts: list[str]) -> str:
    page = Page(limit=10**9)
    for i, text in enumerate(texts):
        page.add(text, _line(text, str(i)))
        scores = (_line(text), ScoreRecord(error=text))
        page.add(
            f"{i}", BestOfNRecord((0,), scores, Usage(9, 9), problem=[{"role": text, "content": text, text: [text]}])
        )
    return page.to_html(texts[0])


def _report(texts: list[str]) -> Report:
    """Two judges of strangers' names that part on every row."""

    def judged(name: str, high: int) -> Judged:
        items = [
            Item(row, text, (Candidate((text,), correct=True), Candidate((f"{text} {text}",), correct=False)))
            for row, text in enumerate(texts, start=1)
        ]
        rewards = tuple(tuple(np.array([0.9 if i == high else 0.1]) for i in range(2)) for _ in texts)
        return Judged(name, Items(texts[0], "pools", tuple(items)), rewards, tuple((0.5, 0.5) for _ in texts))

    return Report((Result(judged(texts[1], 0)),), {texts[2]: (Result(judged(texts[2], 1)),)})


class _Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, ""), *((tag, name) for name, _ in attrs)}


def test_views_show_text_alone(effort: Effort, tally: Tally) -> None:
    """Terminal, notebook, page, report, figure and Markdown: the tags of a harmless text, and nothing unseen."""
    texts = _texts(effort, short=60, long=4000)
    harmless = {view: _Tags(view(["x", "y", "z"])).found for view in (_page, lambda some: page_of(_report(some)))}
    for view, tags in harmless.items():
        page = view(texts)
        assert _Tags(page).found == tags
        assert not UNSEEN.search(page)
        tally.add("texts on a page", len(texts))
    assert not UNSEEN.search(_report(texts).markdown())
    tags = _Tags(score_html(_line("x"))).found
    for text in texts:
        html = score_html(_line(text))
        assert _Tags(html).found == tags
        out = io.StringIO()
        Console(file=out, width=100).print(score_view(_line(text), text), score_view(ScoreRecord(error=text), text))
        assert not UNSEEN.search(html + out.getvalue()), ascii(text)
        axis = Axis(text, [(0.0, text), (1.0, text)])
        assert fromstring(svg_text(chart(text, axis, axis, [Line(text, [(0.0, 1.0)])]))).get("aria-label") == visible(
            text
        )
        tally.add("texts in a terminal, a notebook and a figure")
    for text in random.Random(32).sample(texts, effort.times(short=15, long=400)):
        report = Report((Result(pools([[(True, 0.9), (False, 0.2)]], text, text)),)).markdown()
        assert not re.search(r"(?<!\\)[<\[`]", report.replace("\\\\", "")), ascii(text)
        tally.add("texts in Markdown")


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_runs_nothing(effort: Effort, tally: Tally, tmp_path: Path) -> None:
    """The page, the report and notebooks' HTML in Chromium: no script of a text runs, none has to be stopped."""
    texts = _texts(effort, short=40, long=2000)
    notebooks = "".join(best_of_n_html(BestOfNRecord((0,), (_line(text),), Usage(9, 9))) for text in texts)
    pages = {
        "page": _page(texts),
        "report": page_of(_report(texts[:50])),
        "notebook": f"<!DOCTYPE html><html><meta charset=utf-8><body>{notebooks}</body></html>",
    }
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
        shown = opened(tmp_path / f"{name}.html")
        assert "data-hostile" not in shown.document.partition("<body")[0], name
        assert shown.said == "", name
        assert shown.ready == (name == "page")
        tally.add("texts in Chromium", len(texts[:50] if name == "report" else texts))
