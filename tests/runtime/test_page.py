"""The page of `rfprm view` and the HTML of scores: whatever a candidate wrote is text, and nothing else gets in."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import PRM, Usage
from rfprm_lite.cli.view import view
from rfprm_lite.show.html import STATIC, score_css, score_html
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import ScoreLine, StepRecord
from rfprm_lite.show.words import visible

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."
WRONG = "Tom now has 12 + 5 = 27 apples.\n\nThe answer is 27."
HOSTILE = [
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "</style></title><!-- ]]> <svg/onload=alert(1)> &lt; &amp;amp; \"'><b autofocus onfocus=alert(1)>",
    "\x00\x07\x1b[31mred\r\n\ttab \u202ereversed\u202c \u2028 \ufffe \U000e0041 {{7*7}} ${x}",
]
STRUCTURE = {"html", "head", "meta", "title", "style", "body", "div", "header", "main", "section", "article", "script"}
CONTENT = {"h1", "h2", "h3", "p", "ul", "ol", "li", "span", "details", "summary", "svg", "rect", "path", "circle"}
CONTROLS = {"form", "label", "input", "select", "option", "output"}


class Parsed(HTMLParser):
    """What a page holds: its tags and attributes, and the text in each element of a class or tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append((dict(attrs).get("class") or tag, ""))

    def handle_data(self, data: str) -> None:
        if self.texts:
            kind, text = self.texts[-1]
            self.texts[-1] = (kind, text + data)

    def handle_endtag(self, tag: str) -> None:
        self.texts.append(("", ""))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def of(self, kind: str) -> list[str]:
        return [text for found, text in self.texts if found == kind]


def line(texts: list[str], problem: str | None = None, reward: float = 0.7) -> ScoreLine:
    steps = tuple(StepRecord(text, "response") for text in texts)
    return ScoreLine(steps, (reward,) * len(steps), "mean", (0, 1), Usage(9, 9), reward=reward, problem=problem)


def page_of(*rows: ScoreLine, title: str = "Scores") -> str:
    page = Page(limit=500)
    for number, row in enumerate(rows, start=1):
        page.add(f"line {number}", row)
    return page.to_html(title)


@given(st.lists(st.text(min_size=1) | st.sampled_from(HOSTILE), min_size=1, max_size=4), st.text(), st.text())
def test_any_text_comes_through_as_text(texts: list[str], problem: str, title: str) -> None:
    text = page_of(line(texts, problem), title=title)
    parsed = Parsed(text)
    assert parsed.of("rfprm-text") == [visible(step) for step in texts]
    assert parsed.of("h1") == parsed.of("title") == [visible(title)]
    assert parsed.of("h2") == [visible(problem) or "line 1"]
    assert parsed.of("script") == [(STATIC / "page.js").read_text(encoding="utf-8")]
    assert {tag for tag, _ in parsed.tags} <= STRUCTURE | CONTENT | CONTROLS
    assert not [
        name for _, own in parsed.tags for name in own if name.startswith("on") or name in ("style", "src", "href")
    ]
    text.encode("utf-8")


@given(st.text(st.characters()))
def test_what_would_not_be_seen_is_shown(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert shown == "".join(visible(c) for c in text)
    assert all(visible(c) == c or re.fullmatch(r"\\x[0-9a-f]{2,6}", visible(c)) for c in text)
    assert not set("\x00\r\x1b\u200b\u202e\u2066\ufeff\ud800") & set(shown)


def test_hostile_text_is_shown_escaped() -> None:
    shown = Parsed(score_html(line(HOSTILE))).of("rfprm-text")
    assert shown[0] == HOSTILE[0]
    assert shown[2].startswith("\\x00\\x07\\x1b[31mred\\x0d\n\ttab \\x202ereversed\\x202c")


def test_only_its_own_style_and_script_are_allowed() -> None:
    parsed = Parsed(page_of(line(HOSTILE)))
    (policy,) = (own["content"] for tag, own in parsed.tags if own.get("http-equiv") == "Content-Security-Policy")
    digest = {
        kind: base64.b64encode(hashlib.sha256(parsed.of(kind)[0].encode()).digest()).decode()
        for kind in ("style", "script")
    }
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest['style']}'; script-src 'sha256-{digest['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_notebook_gets_no_script_and_a_style_that_stays_in_its_place() -> None:
    parsed = Parsed(score_html(line(["a", "b"])))
    assert "script" not in {tag for tag, _ in parsed.tags}
    classes = {name for _, own in parsed.tags for name in (own.get("class") or "").split()}
    assert all(name.startswith("rfprm") for name in classes)
    rules = re.sub(r"/\*.*?\*/|@media print \{", "", score_css(), flags=re.DOTALL)
    selectors = [own.strip() for found in re.findall(r"([^{}]+)\{", rules) for own in found.split(",")]
    assert len(selectors) > 30
    assert all(re.match(r"(\[data-jp-[^]]*\] |\.vscode-\w+ )?\.rfprm", selector) for selector in selectors)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(scheme: int) -> None:
    """The shades between are mixtures of these, whose luminance lies between theirs."""
    pairs = re.findall(r"--rfprm-(\w+): light-dark\((#\w{6}), (#\w{6})\)", score_css())
    colour = {name: own[scheme] for name, *own in pairs}
    for ink in ("ink", "muted", "warn"):
        for ground in ("paper", "low", "high", "shade"):
            if (ink, ground) != ("warn", "high"):  # a weak step is not shaded as a good one
                assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    for mark in ("line", "warn", "muted"):
        assert contrast(colour[mark], colour["paper"]) >= 3


def test_long_traces_are_shown_whole() -> None:
    parsed = Parsed(page_of(line(["x" * 1_000_000]), line([f"step {i}" for i in range(3000)])))
    shown = parsed.of("rfprm-text")
    assert len(shown[0]) == 1_000_000
    assert shown[1:] == [f"step {i}" for i in range(3000)]


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `rfprm view` on rows, written to a file each; the page goes to page.html."""

    def call(*files: list[object], options: tuple[str, ...] = ()) -> Result:
        paths = [tmp_path / f"scores{i}.jsonl" for i in range(len(files))]
        for path, rows in zip(paths, files, strict=True):
            path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return CliRunner().invoke(view, [*map(str, paths), "-o", str(tmp_path / "page.html"), *options])

    return call


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    """As the commands write them: two scores of a problem, and a best-of-N with a candidate not read to its end."""
    prm = PRM.from_pretrained("demo", threads=2)
    scores = [{"line": 1, "problem": PROBLEM, **prm.score(PROBLEM, text).to_dict()} for text in (RIGHT, WRONG)]
    best = prm.best_of_n(PROBLEM, [RIGHT, f"{WRONG}\n\nIndeed, it is 27."])
    assert best.complete == (True, False)
    return [*scores, {"line": 1, "problem": PROBLEM, **best.to_dict()}]


def test_candidates_of_a_problem_stand_side_by_side(run: Run, rows: list[object], tmp_path: Path) -> None:
    result = run(rows)
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'page.html'}: 4 traces\n"
    parsed = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parsed.of("h2") == [PROBLEM, f"line 5: {PROBLEM}"]
    assert parsed.of("rfprm-name") == ["line 1", "line 3", "candidate 0 ", "candidate 1"]
    assert parsed.of("rfprm-rank") == ["best"]
    cards = [own for tag, own in parsed.tags if tag == "article"]
    assert [own["data-steps"] for own in cards] == ["2", "2", "2", "3"]
    assert ["data-weak" in own for own in cards] == [False, True, False, True]
    assert parsed.of("rfprm-step rfprm-unread")
    assert parsed.of("rfprm-mark") == ["first below 0.5"] * 2
    assert "highest reward it can have" in parsed.of("about")[0]


def test_scores_of_two_models_stand_side_by_side(run: Run, rows: list[object], tmp_path: Path) -> None:
    assert run(rows[:1], rows[1:2], options=("--title", "a < b")).exit_code == 0
    parsed = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parsed.of("h1") == ["a < b"]
    assert parsed.of("h2") == [PROBLEM]
    assert [Path(name).name for name in parsed.of("rfprm-name")] == ["scores0.jsonl, line 1", "scores1.jsonl, line 1"]


def test_problems_may_be_missing_or_conversations(run: Run, rows: list[dict[str, object]], tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    run([{**rows[0], "problem": None}, {**rows[2], "problem": None}, {**rows[0], "problem": messages}])
    parsed = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parsed.of("h2") == ["line 1", "line 3", f"system: Be brief.\n\nuser: {PROBLEM}"]


def test_what_the_limit_leaves_out_is_said(run: Run, rows: list[object], tmp_path: Path) -> None:
    result = run(rows, options=("--limit", "1"))
    assert result.stdout.endswith(": 1 traces, 3 left out by --limit 1\n")
    parsed = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parsed.of("left-out") == ["3 traces after these left out, by --limit 1."]
    assert len(parsed.of("rfprm-name")) == 1


def test_a_row_that_is_none_leaves_the_page_as_it_was(run: Run, rows: list[dict[str, object]], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("before", encoding="utf-8")
    for wrong, message in [
        ({"problem": PROBLEM, "response": RIGHT}, "one of reward, bounds and error is needed"),
        ({**rows[0], "step_rewards": [0.5, 1.5]}, r"step_rewards.*1\.5.*0 to 1"),
        ({**rows[0], "step_rewards": [0.5]}, "1 step_rewards.* 2 steps"),
        ({**rows[0], "bounds": [0, 1]}, "bounds"),
        ({**rows[2], "ranking": [2]}, "candidate 2"),
        ("text", "`object`"),
    ]:
        result = run([rows[0], wrong])
        assert result.exit_code == 1
        assert re.match(rf"error: .*line 3.*{message}.*scores0.jsonl", result.stderr.strip())
    assert "nothing to show" in run([]).stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "before"
    assert not list(tmp_path.glob(".*"))


def test_a_page_that_can_not_be_written_is_an_error(run: Run, rows: list[object], tmp_path: Path) -> None:
    result = run(rows, options=("-o", str(tmp_path / "none" / "page.html")))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "there is no folder" in result.stderr


@pytest.mark.parametrize("opens", [True, False])
def test_without_output_the_page_is_opened(
    rows: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opens: bool
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def open_page(address: str) -> bool:
        opened.append(address)
        return opens

    monkeypatch.setattr("webbrowser.open", open_page)
    result = CliRunner().invoke(view, ["-"], input=json.dumps(rows[0]))
    assert result.exit_code == 0
    path = Path(result.stdout.partition(": ")[0])
    assert opened == [path.as_uri()]
    assert Parsed(path.read_text(encoding="utf-8")).of("h1") == ["standard input"]
    assert ("browser" in result.stderr) is not opens
