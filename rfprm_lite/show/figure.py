"""Figures of scores for a paper: `pip install 'rfprm-lite[plot]'`.

Figures are made without pyplot, so that no global state is touched and none has to be closed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfprm_lite.errors import MissingExtraError
from rfprm_lite.show.record import BestOfNRecord, ScoreRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, WEAK, OTHER, SHADE = "#0072B2", "#D55E00", "#8A8A8A", "#E4E6EA"
"""Colours of Okabe and Ito's palette, which the colour-blind can tell apart."""

NAMED = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
MARKS = "os^DvP"

MARGIN = 0.03
"""Of the range of rewards, above and below it."""
MOST_MARKS = 60
"""The most steps with a mark each; those of more would run into one another."""


def plot_score(record: ScoreRecord) -> Figure:
    """A figure of one trace: steps on x, their rewards on y.

    The thinking is shaded, the first weak step marked; steps that were not read are left blank.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _figure(len(record.steps), record)
    for part, steps in record.parts:
        if part == "thinking":
            axes.axvspan(steps.start + 0.5, steps.stop + 0.5, color=SHADE, linewidth=0, zorder=0, label="thinking")
    _plot(axes, record, BEST, "o", f"{record.aggregate}: {record.reward_text}")
    _mark_first_weak(axes, [record])
    if len(record.step_rewards) < len(record.steps):
        axes.axvspan(
            len(record.step_rewards) + 0.5,
            len(record.steps) + 0.5,
            facecolor="none",
            edgecolor=OTHER,
            hatch="///",
            linewidth=0,
            label="not read",
        )
    _legend(figure, axes)
    return figure


def plot_best_of_n(record: BestOfNRecord) -> Figure:
    """A figure of all candidates' rewards.

    The ranking and then the highest others are named, up to six, the rest is grey; thinking is dotted, first weak steps
    are marked.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _figure(max(len(score.steps) for score in record.scores), record.scores[record.ranking[0]])
    scored = [i for i, score in enumerate(record.scores) if score.error is None]
    ranking = [i for i in record.ranking if i in scored]
    others = [i for i in scored if i not in ranking]
    order = [*ranking, *sorted(others, key=lambda i: -record.scores[i].highest)]
    rest = order[len(NAMED) :]
    for i in rest:
        _plot(axes, record.scores[i], OTHER, "None", "", width=0.6)
    for place, (i, colour, mark) in enumerate(zip(order, NAMED, MARKS, strict=False)):
        score, rank = record.scores[i], record.rank(i)
        label = f"candidate {i}{f' ({rank})' if rank else ''}: {score.reward_text}"
        _plot(axes, score, colour, mark, label, width=1.8 if rank == "best" else 1.0, zorder=3 - place / len(order))
    _mark_first_weak(axes, [record.scores[i] for i in order[: len(NAMED)]])
    if any(step.part == "thinking" for score in record.scores for step in score.steps):
        axes.plot([], [], ":", color="black", linewidth=1.0, label="thinking")
    if rest:
        axes.plot([], [], color=OTHER, linewidth=0.6, label=f"{len(rest)} others")
    _legend(figure, axes, record.scores[order[0]].aggregate)
    return figure


def _figure(num_steps: int, scale: ScoreRecord) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot needs matplotlib", "plot") from error
    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="step", ylabel="reward", xlim=(0.5, num_steps + 0.5))
    if scale.step_range:
        low, high = scale.step_range
        axes.set_ylim(low - MARGIN * (high - low), high + MARGIN * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if scale.good_above is not None:
        axes.axhline(scale.good_above, color=OTHER, linewidth=0.6, linestyle="--", zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plot(
    axes: Axes, record: ScoreRecord, colour: str, mark: str, label: str, width: float = 1.4, zorder: float = 2.0
) -> None:
    """Plot a line with a mark a step, dotted up to the last step of the thinking."""
    for part, steps in record.parts:
        first = max(steps.start - 1, 0)  # joined to the part before
        rewards = _gaps(record)[first : steps.stop]
        style = ":" if part == "thinking" else "-"
        numbers = range(first + 1, first + 1 + len(rewards))
        axes.plot(numbers, rewards, color=colour, linestyle=style, linewidth=width, zorder=zorder)
    size = 3.5 if len(record.step_rewards) <= MOST_MARKS else 0.0
    numbers = range(1, len(record.step_rewards) + 1)
    axes.plot(numbers, _gaps(record), color=colour, linestyle="None", marker=mark, markersize=size, zorder=zorder)
    axes.plot([], [], color=colour, linewidth=width, marker=mark, markersize=size, label=label)


def _gaps(record: ScoreRecord) -> list[float]:
    """The rewards, NaN where a step has none: a gap in the line."""
    return [math.nan if reward is None else reward for reward in record.step_rewards]


def _mark_first_weak(axes: Axes, records: Sequence[ScoreRecord]) -> None:
    weak = sorted({(i + 1, record.step_rewards[i]) for record in records if (i := record.first_weak) is not None})
    if weak:
        steps, rewards = zip(*weak, strict=True)
        axes.scatter(
            steps,
            rewards,
            60,
            facecolors="none",
            edgecolors=WEAK,
            linewidths=1.2,
            zorder=4,
            label=records[0].weak_mark,
        )


def _legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Put the legend beside the axes, where it can't hide a step."""
    handles, labels = axes.get_legend_handles_labels()
    seen = {label: handle for handle, label in zip(handles, labels, strict=True) if label}
    figure.legend(seen.values(), seen.keys(), loc="outside right upper", fontsize="small", frameon=False, title=title)
