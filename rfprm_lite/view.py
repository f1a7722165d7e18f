"""Scores for people: rich renderables for a terminal.

A reward is always shown as a number and a bar, never by colour alone. Text of problems and candidates is shown as it
is: no markup in it is interpreted, and control characters are shown escaped.
"""

from __future__ import annotations

import unicodedata
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rfprm_lite.results import BestOfN, Candidate, Partial, Score, Tokens

GOOD, DOUBTFUL = 0.5, 0.25
BAR_CELLS = 10


def score_view(score: Score | Partial, title: str) -> RenderableType:
    """Each step with its reward, and the trace's own; bounds where it was not read to its end."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False, box=None, padding=(0, 1))
    table.add_column("", justify="right", style="dim")
    table.add_column("step", overflow="fold")
    table.add_column("reward", justify="right")
    table.add_column("", no_wrap=True)
    weak = next((i for i, reward in enumerate(score.step_rewards) if reward < GOOD), None)
    for i, (step, reward) in enumerate(zip_longest(score.steps, score.step_rewards)):
        number = f"{i + 1}{' thinking' if step.part == 'thinking' else ''}"
        if reward is None:
            table.add_row(number, plain(step.text), "", Text("not read", "dim"))
            continue
        mark = "  <- first below 0.5" if i == weak else ""
        colour = _colour(float(reward))
        table.add_row(number, plain(step.text), Text(f"{reward:.3f}", colour), Text(_bar(float(reward)) + mark, colour))
    low, high = score.reward_range
    reward = f"{score.reward:.3f}" if isinstance(score, Score) else f"{score.lowest:.3f} to {score.highest:.3f}"
    return Group(table, Text(f"   {score.aggregate}: {reward}  (from {low:g} to {high:g})", "bold"))


def best_of_n_view(best: BestOfN[Candidate]) -> RenderableType:
    """Every candidate's steps, and the winner."""
    views: list[RenderableType] = []
    for i, score in enumerate(best.scores):
        views += [score_view(score, f"candidate {i}{'  * best' if i == best.index else ''}"), Text()]
    return Group(*views, Text(f"best: candidate {best.index}", "bold green"), tokens_view(best.tokens))


def tokens_view(tokens: Tokens) -> Text:
    """What it took."""
    saved = tokens.reused / tokens.total if tokens.total else 0.0
    skipped = f", {tokens.skipped} not read" if tokens.skipped else ""
    return Text(
        f"{tokens.computed} of {tokens.total} tokens computed, "
        f"{tokens.reused} reused from shared prefixes ({saved:.0%}){skipped}",
        "dim",
    )


def plain(text: str) -> Text:
    """Text for a terminal, with what could drive it (escape and other control characters) made visible."""
    return Text(
        "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf") else f"\\x{ord(c):02x}" for c in text)
    )


def _colour(reward: float) -> str:
    return "green" if reward >= GOOD else "yellow" if reward >= DOUBTFUL else "red"


def _bar(reward: float) -> str:
    full = round(reward * BAR_CELLS)
    return "█" * full + "·" * (BAR_CELLS - full)
