"""Charts as SVG, built as elements: for files, and for pages whose policy lets no other style in.

In: lines of points. Out: an `svg` element on white paper, readable in print and on a dark page; every line has a dash
or a mark of its own beside its colour, and its values in the tooltip of each point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

from rfprm_lite.show.html import add
from rfprm_lite.show.words import visible

WIDTH, HEIGHT = 520.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 160.0, 34.0, 48.0
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
"""Okabe and Ito's palette, which the colour-blind can tell apart, its yellow darkened."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
INK, EDGE = "#1b1d22", "#c4c9d2"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: In the legend; empty for none.
        points: Of x and y.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a chart.

    Attributes:
        name: What it shows.
        ticks: Values and their labels, the first and last are its ends.
    """

    name: str
    ticks: Sequence[tuple[float, str]]

    def place(self, value: float, start: float, length: float) -> float:
        """Where a value stands."""
        low, high = self.ticks[0][0], self.ticks[-1][0]
        return start + length * (value - low) / ((high - low) or 1.0)


def chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> Element:
    """A chart of lines, with a legend beside it."""
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}",
            "width": f"{WIDTH:g}",
            "height": f"{HEIGHT:g}",
            "role": "img",
            "aria-label": visible(title),
            "font-family": "system-ui, sans-serif",
            "font-size": "12",
            "fill": INK,
        },
    )
    add(svg, "rect", "", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    add(svg, "text", title, {"x": f"{LEFT:g}", "y": "20", "font-weight": "600"})
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for value, label in y.ticks:
        at = TOP + height - y.place(value, 0, height)
        add(svg, "path", "", {"d": f"M{LEFT:g} {at:.1f}h{width:g}", "stroke": EDGE})
        add(svg, "text", label, {"x": f"{LEFT - 6:g}", "y": f"{at + 4:.1f}", "text-anchor": "end"})
    for value, label in x.ticks:
        at = x.place(value, LEFT, width)
        add(svg, "path", "", {"d": f"M{at:.1f} {TOP + height:g}v5", "stroke": INK})
        add(svg, "text", label, {"x": f"{at:.1f}", "y": f"{TOP + height + 18:g}", "text-anchor": "middle"})
    middle = {"x": f"{LEFT + width / 2:g}", "y": f"{HEIGHT - 10:g}", "text-anchor": "middle"}
    add(svg, "text", x.name, middle)
    turned = f"rotate(-90 14 {TOP + height / 2:g})"
    add(svg, "text", y.name, {"x": "14", "y": f"{TOP + height / 2:g}", "text-anchor": "middle", "transform": turned})
    for i, line in enumerate(lines):
        points = [(x.place(a, LEFT, width), TOP + height - y.place(b, 0, height)) for a, b in line.points]
        _add_line(svg, i, line, points)
    return svg


def svg_text(svg: Element) -> bytes:
    """A file of its own."""
    text: str = tostring(svg, encoding="unicode")
    return text.encode()


def _add_line(svg: Element, i: int, line: Line, points: Sequence[tuple[float, float]]) -> None:
    colour, dash = COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]
    stroke = {"fill": "none", "stroke": colour, "stroke-width": "2", "stroke-dasharray": dash or "none"}
    if points:
        add(svg, "path", "", {"d": "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points), **stroke})
    for (a, b), (value_x, value_y) in zip(points, line.points, strict=True):
        dot = add(svg, "circle", "", {"cx": f"{a:.1f}", "cy": f"{b:.1f}", "r": "3", "fill": colour})
        add(dot, "title", f"{line.name}: {value_x:g}, {value_y:.4g}")
    if line.name:
        at = TOP + 8 + 17 * i
        begin = WIDTH - RIGHT + 10
        add(svg, "path", "", {"d": f"M{begin:g} {at:g}h22", **stroke})
        add(svg, "text", line.name, {"x": f"{begin + 28:g}", "y": f"{at + 4:g}", "font-size": "11"})
