"""Views of scores for a terminal, as rich renderables.

A reward is always shown as a number and a bar, never by colour alone. Text of problems and candidates is shown as it
is: no markup in it is interpreted, and control characters are shown escaped.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rfprm_lite.plan.usage import Usage
from rfprm_lite.show.record import BestOfNRecord, ScoreRecord
from rfprm_lite.show.words import counted, tokens_line, visible

GOOD = 0.5
"""The level from which on a step is shown in green."""
DOUBTFUL = 0.25
"""The level below which a step is shown in red."""
BAR_CELLS = 10
SPARK_CELLS = 60
BLOCKS = "▁▂▃▄▅▆▇█"


def score_view(record: ScoreRecord, title: str | None = None) -> RenderableType:
    """A view of each step with its reward, and of the trace's reward; bounds where it was not read to its end."""
    if record.error is not None:
        return Group(plain(title or "", "bold"), plain(f"   {record.reward_text}", "red"))
    heading = None if title is None else plain(title, "bold")  # a plain str would be read as markup
    table = Table(title=heading, title_justify="left", expand=False, box=None, padding=(0, 1))
    table.add_column("", justify="right", style="dim")
    table.add_column("step", overflow="fold")
    table.add_column("reward", justify="right")
    table.add_column("", no_wrap=True)
    for part, steps in record.parts:
        if len(record.parts) > 1 or part == "thinking":
            table.add_row("", Text(f"{part}: {counted(len(steps), 'step')}", "italic dim"))
        for i in steps:
            table.add_row(f"{i + 1}", plain(record.steps[i].text), *_reward(record, i))
    return Group(table, _spark(record), Text(f"   {record.summary}", "bold"))


def best_of_n_view(record: BestOfNRecord) -> RenderableType:
    """A view of every candidate's steps, and of the winner."""
    views: list[RenderableType] = []
    for i, score in enumerate(record.scores):
        views += [score_view(score, _title(record, i)), Text()]
    return Group(*views, Text(f"best: candidate {record.ranking[0]}", "bold green"), tokens_view(record.tokens))


def tokens_view(tokens: Usage) -> Text:
    """A line that tells the token counts."""
    return Text(tokens_line(tokens), "dim")


def plain(text: str, style: str = "") -> Text:
    """The text for a terminal, with all that could drive it (escape and other control characters) made visible."""
    return Text(visible(text), style)


def _title(record: BestOfNRecord, candidate: int) -> str:
    rank = record.rank(candidate)
    return f"candidate {candidate}  * {rank}" if rank else f"candidate {candidate}"


def _reward(record: ScoreRecord, i: int) -> tuple[Text, Text]:
    reward = record.step_rewards[i] if i < len(record.step_rewards) else None
    if reward is None:
        return Text("", "dim"), Text("not read", "dim")
    mark = f"  <- {record.weak_mark}" if i == record.first_weak else ""
    level = record.level(reward)
    return Text(f"{reward:.3f}", _colour(level)), Text(_bar(level) + mark, _colour(level))


def _spark(record: ScoreRecord) -> Text:
    """A line with a character a step, or for each few steps their lowest, so that no weak one is lost."""
    together = -(-len(record.steps) // SPARK_CELLS)
    line = Text("   ")
    for part, steps in record.parts:
        if steps.start:
            line.append(" | ", "dim")
        for start in range(steps.start, steps.stop, together):
            some = record.step_rewards[start : min(start + together, steps.stop)]
            rewards = [reward for reward in some if reward is not None]
            line.append(*(_block(record.level(min(rewards))) if rewards else ("·", "dim")))
        if len(record.parts) > 1:
            line.append(f" {part}", "dim")
    if together > 1:
        line.append(f"  (the lowest of every {together} steps)", "dim")
    return line


def _block(level: float) -> tuple[str, str]:
    return BLOCKS[min(int(level * len(BLOCKS)), len(BLOCKS) - 1)], _colour(level)


def _colour(level: float) -> str:
    return "green" if level >= GOOD else "yellow" if level >= DOUBTFUL else "red"


def _bar(level: float) -> str:
    full = round(level * BAR_CELLS)
    return "█" * full + "·" * (BAR_CELLS - full)
