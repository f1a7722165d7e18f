"""Scores as people see them: in a terminal, in a notebook, as a figure."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from rich.console import Console

from rfprm_lite import PRM, BestOfN, Score, Trace, Unfinished, Usage
from rfprm_lite.show.chart import Axis, Line, chart, svg_text
from rfprm_lite.show.figure import plot_best_of_n
from rfprm_lite.show.record import BestOfNRecord, ScoreRecord, StepRecord
from rfprm_lite.show.terminal import _spark, score_view
from rfprm_lite.show.words import visible

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."
WRONG = "Tom now has 12 + 5 = 27 apples.\n\nThe answer is 27.\n\nIndeed."


@pytest.fixture(scope="module")
def best(loaded_demo: PRM) -> BestOfN[str, Score | Unfinished]:
    """The right one, and one that was not read to its end."""
    found = loaded_demo.best_of_n(PROBLEM, [WRONG, RIGHT])
    assert found.complete == (False, True)
    return found


@pytest.fixture(scope="module")
def thought(loaded_demo: PRM) -> Score:
    return loaded_demo.score(PROBLEM, Trace.from_parts(thinking=RIGHT, response=WRONG))


def printed(shown: object, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()


def record(rewards: list[float], thinking: int = 0, unread: int = 0) -> ScoreRecord:
    total = len(rewards) + unread
    steps = tuple(StepRecord(f"step {i}", "thinking" if i < thinking else "response") for i in range(total))
    known = {"bounds": (0.0, 1.0)} if unread else {"reward": 0.5}
    return ScoreRecord(steps, tuple(rewards), "mean", (0, 1), Usage(9, 9), **known)


def test_a_terminal_shows_the_parts_apart_and_the_first_weak_step(thought: Score) -> None:
    text = printed(thought)
    assert text.index("thinking: 2 steps") < text.index("response: 3 steps")
    assert text.count("<- first below 0.5") == 1
    weak = int((thought.step_rewards < 0.5).argmax())
    assert re.search(rf"^ *{weak + 1} .*first below", text, re.MULTILINE)
    assert re.search(r"[▁▂▃▄▅▆▇█]{2} thinking \| [▁▂▃▄▅▆▇█]{3} response", text)
    assert f"{thought.reward:.3f}" in text


def test_a_terminal_shows_best_of_n(best: BestOfN[str, Score | Unfinished]) -> None:
    text = printed(best)
    assert "candidate 1  * best" in text
    assert "not read" in text
    assert f"{best.scores[0].lowest:.3f} to " in text  # type: ignore[union-attr]


def test_a_heading_is_no_markup() -> None:
    """It holds the name of a file, which a stranger may have named."""
    name = "line 1 of [red]x[/red] [link=http://x]y[/link]\x1b]0;z\x07.jsonl"
    for shown in (record([0.9]), ScoreRecord(error="[b]no[/b]")):
        text = printed(score_view(shown, name))
        assert "".join(visible(name).split()) in "".join(text.split())
        assert "\x1b" not in text


def test_a_figure_of_any_name_is_well_formed() -> None:
    name = "a\x00\x1b\ufffe\ud800\u202e<script>\"'&.jsonl"
    axis = Axis(name, [(0.0, name), (1.0, name)])
    figure = fromstring(svg_text(chart(name, axis, axis, [Line(name, [(0.0, 1.0)])])))
    assert figure.get("aria-label") == visible(name)
    assert not [one for one in figure.iter() if one.tag.endswith("script")]


def test_a_long_sparkline_hides_no_weak_step() -> None:
    line = _spark(record([0.99] * 70 + [0.01] + [0.99] * 929)).plain
    assert line.count("▁") == 1
    assert line.endswith("(the lowest of every 17 steps)")


def test_records_know_the_trajectory() -> None:
    assert record([0.9, 0.4, 0.3]).first_weak == 1
    assert record([0.9, 0.5]).first_weak is None
    assert record([0.9, 0.4, 0.6]).trajectory == "3 steps, lowest 0.400 at step 2, last 0.600"
    assert record([0.9], unread=2).trajectory == "1 of 3 steps, lowest 0.900 at step 1, last 0.900"
    assert record([], unread=2).trajectory == "none of 2 steps was read"
    assert record([0.9] * 5, thinking=2).parts == [("thinking", range(2)), ("response", range(2, 5))]


def test_a_notebook_shows_each(best: BestOfN[str, Score | Unfinished], thought: Score) -> None:
    for shown, cards in ((best, 2), (best.scores[0], 1), (thought, 1)):
        html = shown._repr_html_()
        assert html.count("<article") == cards
        assert html.count("<style>") == 1
        assert "<script" not in html
    assert 'aria-label="rewards: 5 steps, lowest ' in thought._repr_html_()
    assert best.scores[0].record().bounds == (best.scores[0].lowest, best.scores[0].highest)  # type: ignore[union-attr]


def svg(figure: object) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return out.getvalue()


@pytest.mark.needs("matplotlib")
def test_figures_show_rewards_thinking_and_the_first_weak_step(
    thought: Score, best: BestOfN[str, Score | Unfinished]
) -> None:
    (axes,) = thought.plot().axes
    marked = [line for line in axes.lines if line.get_marker() == "o" and np.size(line.get_xdata())]
    assert np.asarray(marked[0].get_ydata()).tolist() == pytest.approx(thought.step_rewards.tolist())
    assert np.asarray(marked[0].get_xdata()).tolist() == [1, 2, 3, 4, 5]
    (ring,) = axes.collections
    assert np.asarray(ring.get_offsets())[0, 0] == (thought.step_rewards < 0.5).argmax() + 1
    text = svg(thought.plot())
    assert "<!-- thinking -->" in text
    assert "<!-- first below 0.5 -->" in text
    assert "<!-- not read -->" in svg(best.scores[0].plot())
    text = svg(best.plot())
    assert f"<!-- candidate 1 (best): {best.score.reward:.3f} -->" in text
    assert "<!-- candidate 0: " in text


@pytest.mark.needs("matplotlib")
def test_a_figure_of_many_candidates_names_six() -> None:
    many = BestOfNRecord((11,), tuple(record([0.9, 0.6]) for _ in range(16)), Usage(9, 9))
    text = svg(plot_best_of_n(many))
    assert text.count("<!-- candidate ") == 6
    assert "<!-- candidate 11 (best)" in text
    assert "<!-- 10 others -->" in text


@pytest.mark.needs("matplotlib")
def test_figures_leave_pyplot_alone_and_say_what_is_missing(thought: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from rfprm_lite import PRM; score = PRM.from_pretrained('demo').score('1+1?', '2');"
        "assert 'matplotlib' not in sys.modules; score.plot(); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"rfprm-lite\[plot\]"):
        thought.plot()
