"""One HTML page that compares the candidates of problems: the page of `rfprm view`.

In: rows as `rfprm score --json` and `rfprm best-of-n --json` write them. Out: a page that needs no network: its
Content-Security-Policy lets its own style and script in, by their hashes, and nothing else. Without JavaScript it is as
readable, only the filter is missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from rfprm_lite.show.html import STATIC, add, best_of_n_card, candidates_element, score_css, score_element, to_html
from rfprm_lite.show.record import BestOfNRecord, ScoreLine, ScoreRecord
from rfprm_lite.show.record import Problem as ProblemRecord
from rfprm_lite.show.words import counted

SORTS = {
    "order": "as in the file",
    "reward": "highest reward first",
    "lowest": "lowest reward first",
    "steps": "most steps first",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and the cards of its candidates.

    Attributes:
        text: The heading.
        cards: In the order they came.
    """

    text: str
    cards: list[Element] = field(default_factory=list)


@dataclass(slots=True)
class Page:
    """The problems of a page, in the order they came, up to `limit` traces.

    A line of best-of-N is taken as a whole, so that the last may exceed the limit.

    Attributes:
        limit: Traces that are shown at most.
        problems: By their text, or by a key of their own.
        shown: Traces that are shown.
        left_out: Traces beyond the limit.
        bounded: Whether a candidate has bounds in place of a reward.
    """

    limit: int
    problems: dict[object, Problem] = field(default_factory=dict)
    shown: int = 0
    left_out: int = 0
    bounded: bool = False

    def add(self, where: str, row: ScoreLine | BestOfNRecord) -> None:
        """Put a row on the page. Lines of scores with the same problem come to stand side by side.

        Args:
            where: The row's place in its file, in words.
            row: A line of scores, or of best-of-N.
        """
        scores = row.scores if isinstance(row, BestOfNRecord) else (row,)
        if self.shown >= self.limit:
            self.left_out += len(scores)
            return
        self.shown += len(scores)
        self.bounded |= any(score.bounds is not None for score in scores)
        text = _problem_text(row.problem)
        if isinstance(row, BestOfNRecord):
            cards = [_sortable(best_of_n_card(row, i), score) for i, score in enumerate(row.scores)]
            self.problems[len(self.problems)] = Problem(f"{where}: {text}" if text else where, cards)
            return
        problem = self.problems.setdefault(("problem", text) if text else where, Problem(text or where))
        problem.cards.append(_sortable(score_element(row, where), row))

    def to_html(self, title: str) -> str:
        """The page, from its doctype on."""
        style = score_css() + (STATIC / "page.css").read_text(encoding="utf-8")
        script = (STATIC / "page.js").read_text(encoding="utf-8")
        root = Element("html", {"lang": "en"})
        head = add(root, "head")
        add(head, "meta", "", {"charset": "utf-8"})
        policy = (
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'"
        )
        add(head, "meta", "", {"http-equiv": "Content-Security-Policy", "content": policy})
        add(head, "meta", "", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
        add(head, "title", title)
        add(head, "style").text = style
        page = add(add(root, "body"), "div", "", {"class": "rfprm page"})
        self._add_header(page, title)
        main = add(page, "main", "", {"id": "problems"})
        for number, problem in enumerate(self.problems.values(), start=1):
            section = add(main, "section", "", {"class": "problem", "aria-labelledby": f"problem-{number}"})
            add(section, "h2", problem.text, {"id": f"problem-{number}", "dir": "auto"})
            section.append(candidates_element(problem.cards))
        add(root[1], "script").text = script
        return f"<!DOCTYPE html>\n{to_html(root)}\n"

    def _add_header(self, page: Element, title: str) -> None:
        header = add(page, "header")
        add(header, "h1", title)
        about = f"{counted(self.shown, 'trace')} of {counted(len(self.problems), 'problem')}"
        bounded = ". A candidate that was not read to its end counts by the highest reward it can have."
        add(header, "p", about + (bounded if self.bounded else ""), {"class": "about"})
        if self.left_out:
            left_out = f"{counted(self.left_out, 'trace')} after these left out, by --limit {self.limit}."
            add(header, "p", left_out, {"class": "left-out"})
        legend = add(header, "ul", "", {"class": "legend", "aria-label": "shades of rewards"})
        for level in range(11):
            add(legend, "li", f"{level / 10:g}", {"class": f"rfprm-level-{level}"})
        form = add(page, "form", "", {"id": "controls", "hidden": "hidden", "aria-label": "filter and sort"})
        add(add(form, "label", "text"), "input", "", {"type": "search", "name": "text"})
        number = {"type": "number", "name": "min", "step": "any"}
        add(add(form, "label", "least reward"), "input", "", number)
        box = add(form, "label", "", {"class": "box"})
        add(box, "input", "", {"type": "checkbox", "name": "weak"})
        add(box, "span", "only with a weak step")
        select = add(add(form, "label", "sort"), "select", "", {"name": "sort"})
        for value, label in SORTS.items():
            add(select, "option", label, {"value": value})
        add(form, "output", "", {"id": "count"})


def _problem_text(problem: ProblemRecord) -> str:
    if isinstance(problem, list):
        return "\n\n".join(map(_message_text, problem))
    return problem or ""


def _message_text(message: Mapping[str, Any]) -> str:
    """Role and text of a message; what is no text is shown as JSON."""
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    parts = [message.get("content"), rest or None]
    texts = [
        part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts if part is not None
    ]
    return f"{message.get('role', '')}: {' '.join(texts)}"


def _sortable(card: Element, score: ScoreRecord) -> Element:
    card.set("data-reward", "-Infinity" if score.error is not None else repr(score.highest))
    card.set("data-steps", str(len(score.steps)))
    if score.first_weak is not None:
        card.set("data-weak", "")
    return card


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
