"""The figures of a report: how far rewards are probabilities, best of N, and swaps between two judges."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from rfprm_lite.evaluate.best_of_n import BEST_OF_N
from rfprm_lite.evaluate.compare import Comparison
from rfprm_lite.evaluate.result import Result
from rfprm_lite.evaluate.steps import reliability
from rfprm_lite.show.chart import Axis, Line, chart

SHARES = [(value / 5, f"{value / 5:g}") for value in range(6)]


def figures_of(result: Result) -> Iterator[tuple[str, Element]]:
    """The figures of a judge on a set, each with a name for its file."""
    name = result.judged.items.name
    bins = reliability(result.labelled) if len(result.labelled.rewards) else []
    points = [(one.reward, one.right) for one in bins if one.reward is not None and one.right is not None]
    if points:
        diagonal = Line("as it should be", [(0.0, 0.0), (1.0, 1.0)])
        lines = [diagonal, Line(result.judged.judge, points)]
        yield (
            "reliability",
            chart(f"{name}: are rewards probabilities?", Axis("reward", SHARES), Axis("share right", SHARES), lines),
        )
    curves = _curves(result)
    if curves:
        steps = sorted({x for line in curves for x, _ in line.points})
        ticks = [(float(i), f"{n:g}") for i, n in enumerate(steps)]
        place = {n: float(i) for i, n in enumerate(steps)}
        moved = [Line(line.name, [(place[x], y) for x, y in line.points]) for line in curves]
        values = [y for line in curves for _, y in line.points]
        yield (
            "best-of-n",
            chart(f"{name}: best of N", Axis("candidates", ticks), Axis("right", _ticks(values)), moved),
        )


def swaps_of(comparison: Comparison) -> Element | None:
    """How often pairs are swapped, by the distance of their rewards; None without pairs."""
    if not comparison.swaps:
        return None
    points = [((one.nearest + one.farthest) / 2, one.swapped) for one in comparison.swaps]
    far = max(x for x, _ in points) or 1.0
    title = f"{comparison.name}: pairs in another order than by {comparison.other}"
    ticks = [(far * i / 4, f"{far * i / 4:.2g}") for i in range(5)]
    top = max(0.05, *(y for _, y in points))
    shares = [(top * i / 4, f"{top * i / 4:.0%}") for i in range(5)]
    return chart(title, Axis("distance of rewards", ticks), Axis("swapped", shares), [Line(comparison.one, points)])


def _curves(result: Result) -> list[Line]:
    """The ways to choose by the number of candidates; weighted votes by the judge's own aggregate alone."""
    own = f"weighted {result.judged.aggregate.name}"
    ways: dict[str, list[tuple[float, float]]] = {}
    for path, one in result.numbers.items():
        if path[0] == BEST_OF_N and one.value is not None and (not path[2].startswith("weighted") or path[2] == own):
            ways.setdefault(path[2], []).append((float(path[1]), one.value))
    return [Line(name, points) for name, points in ways.items()]


def _ticks(values: list[float]) -> list[tuple[float, str]]:
    low, high = int(min(values) * 10) / 10, min(1.0, int(max(values) * 10 + 1) / 10)
    count = max(1, round((high - low) * 10))
    return [(low + i / 10, f"{low + i / 10:.1f}") for i in range(count + 1)]
