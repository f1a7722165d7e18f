"""A report as one HTML page that needs no network: its tables and figures, and the traces on which judges part.

As the page of `rfprm view`, it lets its own style in and nothing else; there is no script.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from rfprm_lite.evaluate.compare import Comparison, Parted
from rfprm_lite.evaluate.figures import figures_of, swaps_of
from rfprm_lite.evaluate.items import Candidate
from rfprm_lite.evaluate.judged import Judged, Rewards
from rfprm_lite.evaluate.report import INTERVALS, TIES, Report, Table, differences, facts, tables
from rfprm_lite.evaluate.result import Result
from rfprm_lite.plan.usage import Usage
from rfprm_lite.show.html import STATIC, add, candidates_element, score_css, score_element, to_html
from rfprm_lite.show.record import ScoreRecord, StepRecord
from rfprm_lite.trace import as_trace

MOST_PARTED = 50
"""Items on which judges part that a page shows, of each comparison."""


def page_of(report: Report) -> str:
    """The page, from its doctype on."""
    style = score_css() + (STATIC / "page.css").read_text(encoding="utf-8")
    style += (STATIC / "report.css").read_text(encoding="utf-8")
    root = Element("html", {"lang": "en"})
    head = add(root, "head")
    add(head, "meta", "", {"charset": "utf-8"})
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    add(head, "meta", "", {"http-equiv": "Content-Security-Policy", "content": policy})
    add(head, "meta", "", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    title = f"What {report.judge} is worth"
    add(head, "title", title)
    add(head, "style").text = style
    page = add(add(root, "body"), "div", "", {"class": "rfprm page"})
    add(page, "h1", title)
    add(page, "p", f"{INTERVALS} {TIES}", {"class": "about"})
    compared = list(report.compared())
    for comparison, _, _ in compared:
        add(page, "p", comparison.sentence, {"class": "sentence"})
    main = add(page, "main")
    for result in report.results:
        _add_result(main, result)
    _add_averages(main, report)
    for table in report.published():
        _add_table(main, table)
    if compared:
        section = add(main, "section")
        add(section, "h2", "Against other judges")
        _add_table(section, differences([comparison for comparison, _, _ in compared]))
        for comparison, one, other in compared:
            _add_parted(section, comparison, one, other)
    return f"<!DOCTYPE html>\n{to_html(root)}\n"


def _add_result(parent: Element, result: Result) -> None:
    section = add(parent, "section")
    add(section, "h2", result.judged.items.name)
    add(section, "p", facts(result))
    for table in tables(result):
        _add_table(section, table)
    row = add(section, "div", "", {"class": "figures"})
    row.extend([figure for _, figure in figures_of(result)])
    if result.judged.items.bad:
        details = add(section, "details")
        add(details, "summary", f"{len(result.judged.items.bad)} rows could not be evaluated")
        listed = add(details, "ul")
        for bad in result.judged.items.bad:
            add(listed, "li", f"row {bad.row}: {bad.error}")


def _add_averages(parent: Element, report: Report) -> None:
    for name, value in report.averages().items():
        add(parent, "p", f"Average over the parts of {name}: {value * 100:.1f}", {"class": "sentence"})


def _add_table(parent: Element, table: Table) -> None:
    box = add(add(parent, "div", "", {"class": "scrolls"}), "table")
    head = add(add(box, "thead"), "tr")
    for name in table.columns:
        add(head, "th", name, {"scope": "col"})
    body = add(box, "tbody")
    for row in table.rows:
        line = add(body, "tr")
        add(line, "th", row.name, {"scope": "row"})
        for cell in row.cells:
            add(line, "td", cell)


def _add_parted(parent: Element, comparison: Comparison, one: Result, other: Result) -> None:
    figure = swaps_of(comparison)
    if figure is not None:
        add(parent, "div", "", {"class": "figures"}).append(figure)
    if not comparison.parted:
        return
    shown = comparison.parted[:MOST_PARTED]
    left_out = f", the first {len(shown)} are shown" if len(shown) < len(comparison.parted) else ""
    names = f"{comparison.name}: {comparison.one} and {comparison.other}"
    add(parent, "h2", f"{names} part on {len(comparison.parted)} of {comparison.rows} rows{left_out}")
    places = [{item.row: i for i, item in enumerate(r.judged.items.items)} for r in (one, other)]
    for parted in shown:
        section = add(parent, "section", "", {"class": "problem"})
        item = one.judged.items.items[places[0][parted.row]]
        add(section, "h2", f"row {parted.row}: {item.problem}", {"dir": "auto"})
        cards = _cards(parted, (one.judged, other.judged), (places[0][parted.row], places[1][parted.row]))
        section.append(candidates_element(cards))


def _cards(parted: Parted, judges: Sequence[Judged], places: Sequence[int]) -> list[Element]:
    """What each judge says: its rewards of the candidate that it chooses, or of the trace."""
    cards = []
    for judged, place, said in zip(judges, places, (parted.one, parted.other), strict=True):
        item = judged.items.items[place]
        pools = judged.items.kind == "pools"
        at = said if pools and said is not None else 0
        known = _known(item.candidates[at], pools=pools)
        what = f"chooses candidate {at}" if pools else f"finds {'no error' if said is None else f'step {said + 1}'}"
        record = _record(item.candidates[at], judged.rewards[place][at], judged.finals[place][at], judged)
        card = score_element(record, f"{judged.judge} {what} ({known})")
        for note in card.findall("p[@class='rfprm-note']"):
            card.remove(note)  # of tokens, which are not known of one trace
        cards.append(card)
    return cards


def _known(candidate: Candidate, *, pools: bool) -> str:
    if pools:
        return "right" if candidate.correct else "wrong"
    first = candidate.first_error
    return "no step is wrong" if first is None else f"step {first + 1} is wrong"


def _record(candidate: Candidate, rewards: Rewards, final: float, judged: Judged) -> ScoreRecord:
    """The view's record. Step scores of another splitting have no text of their own."""
    scale = judged.scale
    steps = as_trace(candidate.trace).steps if candidate.response else ()
    fits = len(steps) == len(rewards)
    shown = [StepRecord(step.text, step.part) for step in steps] if fits else [_unknown(i) for i in range(len(rewards))]
    return ScoreRecord(
        steps=tuple(shown),
        step_rewards=tuple(map(float, rewards)),
        aggregate=str(judged.aggregate),
        reward_range=_finite(judged.aggregate.range_over(scale.range)),
        step_range=_finite(scale.range),
        good_above=scale.good_above,
        tokens=Usage(0, 0),
        reward=judged.aggregate(rewards, final),  # type: ignore[arg-type]  # it computes in float64
    )


def _finite(span: tuple[float, float]) -> tuple[float, float] | None:
    return span if all(map(math.isfinite, span)) else None


def _unknown(i: int) -> StepRecord:
    return StepRecord(f"(step {i + 1} of the scores' own splitting)", "response")
