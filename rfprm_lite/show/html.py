"""Scores as HTML, for notebooks and for the page of `rfprm view`.

Elements are built, never pasted together from text, so that whatever a candidate wrote is text. No script; every class
begins with `rfprm`, and the style (`static/score.css`) knows no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from xml.etree.ElementTree import Element, tostring

from rfprm_lite.show.record import BestOfNRecord, ScoreRecord
from rfprm_lite.show.words import counted, tokens_line, visible

STATIC = files("rfprm_lite.show") / "static"
LEVELS = 10
WIDTH, HEIGHT, MARGIN = 240.0, 40.0, 3.0


def score_html(record: ScoreRecord) -> str:
    """The card of a score as HTML, with the style that it needs."""
    return _styled(score_element(record, ""))


def best_of_n_html(record: BestOfNRecord) -> str:
    """The candidates side by side as HTML, with the style that they need."""
    whole = Element("div")
    add(whole, "p", f"best: candidate {record.ranking[0]}", {"class": "rfprm-summary"})
    whole.append(candidates_element([best_of_n_card(record, i) for i in range(len(record.scores))]))
    add(whole, "p", tokens_line(record.tokens), {"class": "rfprm-note"})
    return _styled(whole)


def best_of_n_card(record: BestOfNRecord, candidate: int) -> Element:
    """The card of one of the candidates."""
    return score_element(record.scores[candidate], f"candidate {candidate}", record.rank(candidate))


def candidates_element(cards: list[Element]) -> Element:
    """An element of cards side by side, as many as the width takes."""
    grid = Element("div", {"class": "rfprm rfprm-candidates"})
    grid.extend(cards)
    return grid


def score_element(record: ScoreRecord, name: str, rank: str = "") -> Element:
    """A card: the reward, a sparkline, and every step of every part with its reward.

    Args:
        record: What is shown.
        name: The heading; none where empty.
        rank: A word beside the heading, such as "best"; none where empty.
    """
    card = Element("article", {"class": "rfprm rfprm-card", "aria-label": visible(name) or "score"})
    if name:
        heading = add(card, "h3", name, {"class": "rfprm-name"})
        if rank:
            heading.text = f"{heading.text} "
            add(heading, "span", rank, {"class": "rfprm-rank"})
    if record.error is not None:
        add(card, "p", record.reward_text, {"class": "rfprm-note"})
        return card
    add(card, "p", record.summary, {"class": "rfprm-summary"})
    card.append(_sparkline(record))
    for part, steps in record.parts:
        section = add(card, "details", "", {"class": f"rfprm-part rfprm-{part}", "open": "open"})
        add(section, "summary", f"{part}: {counted(len(steps), 'step')}")
        listed = add(section, "ol", "", {"class": "rfprm-steps", "start": str(steps.start + 1)})
        for i in steps:
            _add_step(listed, record, i)
    add(card, "p", tokens_line(record.tokens), {"class": "rfprm-note"})
    return card


def add(parent: Element, tag: str, text: str = "", attributes: Mapping[str, str] | None = None) -> Element:
    """Add an element with a text, whose control characters are shown escaped; returns the element."""
    child = Element(tag, dict(attributes or {}))
    child.text = visible(text)
    parent.append(child)
    return child


def _add_step(listed: Element, record: ScoreRecord, i: int) -> None:
    reward = record.step_rewards[i] if i < len(record.step_rewards) else None
    if reward is None:
        row = add(listed, "li", "", {"class": "rfprm-step rfprm-unread"})
        add(row, "span", str(i + 1), {"class": "rfprm-number"})
        add(row, "span", "not read", {"class": "rfprm-reward"})
    else:
        weak = " rfprm-weak" if i == record.first_weak else ""
        level = round(record.level(reward) * LEVELS)
        row = add(listed, "li", "", {"class": f"rfprm-step rfprm-level-{level}{weak}"})
        add(row, "span", str(i + 1), {"class": "rfprm-number"})
        _add_bar(add(row, "span", f"{reward:.3f}", {"class": "rfprm-reward"}), record.level(reward))
        if weak:
            add(row, "span", record.weak_mark, {"class": "rfprm-mark"})
    add(row, "span", record.steps[i].text, {"class": "rfprm-text", "dir": "auto"})


def _add_bar(parent: Element, level: float) -> None:
    box = {"class": "rfprm-bar", "viewBox": "0 0 1 1", "preserveAspectRatio": "none", "aria-hidden": "true"}
    add(add(parent, "svg", "", box), "rect", "", {"width": f"{level:.3f}", "height": "1"})


def _sparkline(record: ScoreRecord) -> Element:
    """The rewards as a line over all steps: the thinking shaded, the middle dashed, the first weak step marked."""
    spark = Element(
        "svg",
        {
            "class": "rfprm-spark",
            "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}",
            "role": "img",
            "aria-label": f"rewards: {record.trajectory}",
        },
    )
    for part, steps in record.parts:
        if part == "thinking":
            left, right = _x(record, steps.start - 0.5), _x(record, steps.stop - 0.5)
            shade = {
                "class": "rfprm-shade",
                "x": f"{left:.1f}",
                "width": f"{right - left:.1f}",
                "height": f"{HEIGHT:g}",
            }
            add(spark, "rect", "", shade)
    add(spark, "path", "", {"class": "rfprm-good", "d": f"M0 {_y(0.5):.1f}H{WIDTH:g}"})
    points = [
        f"{_x(record, i):.1f} {_y(record.level(reward)):.1f}"
        for i, reward in enumerate(record.step_rewards)
        if reward is not None
    ]
    if points:
        add(spark, "path", "", {"class": "rfprm-line", "d": f"M{points[0]}L{' '.join(points)}"})
    weak = record.first_weak
    if weak is not None and (reward := record.step_rewards[weak]) is not None:
        x, y = _x(record, weak), _y(record.level(reward))
        add(spark, "circle", "", {"class": "rfprm-ring", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3"})
    return spark


def _x(record: ScoreRecord, step: float) -> float:
    """The place of a step on x: each has the same share of the width, and stands in its middle."""
    return MARGIN + (step + 0.5) * (WIDTH - 2 * MARGIN) / len(record.steps)


def _y(level: float) -> float:
    return MARGIN + (1 - level) * (HEIGHT - 2 * MARGIN)


def _styled(element: Element) -> str:
    whole = Element("div", {"class": "rfprm"})
    add(whole, "style").text = score_css()
    whole.append(element)
    return to_html(whole)


def score_css() -> str:
    """The style of cards, as CSS."""
    return (STATIC / "score.css").read_text(encoding="utf-8")


def to_html(element: Element) -> str:
    """The element as HTML: text and attributes are escaped here, and nowhere else."""
    return tostring(element, encoding="unicode", method="html")
