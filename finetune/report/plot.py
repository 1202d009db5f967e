"""Axes and panels: the few shapes that the report's figures are drawn with, as SVG that CSS colors.

Drawn here rather than by Matplotlib, so that one picture follows the reader's color scheme, has text that
can be selected, and takes a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH, HEIGHT = 360, 230
"""Size of a panel; a pixel of the page or a little more, so that text has its usual size everywhere."""

LEFT, RIGHT, TOP, BOTTOM = 46, 30, 28, 38
"""Margins for tick labels, names at the ends of lines, title, and the name of the x axis."""

MARKERS = (
    "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z",  # circle
    "M-3.3,-3.3h6.6v6.6h-6.6z",  # square
    "M0,-4.4L4.2,3.2H-4.2z",  # triangle
    "M0,-4.8L4.8,0L0,4.8L-4.8,0z",  # diamond
    "M0,4.4L4.2,-3.2H-4.2z",  # triangle pointing down
    "M-1.4,-4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",  # plus
)
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 4", "12 3")
MOST_TICKS = 6
"""On a logarithmic axis."""

N_COLORS = 6
"""`--c0` and on in style.css; after them, colors and dashes begin again."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of values with labelled ticks.

    Args:
        low: the first value.
        high: the last value, above `low`.
        ticks: values and their labels.
        is_log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        low, high, value = (
            (math.log(max(v, 1e-300)) if self.is_log else v) for v in (self.low, self.high, value)
        )
        return min(1.0, max(0.0, (value - low) / (high - low)))


def _step(span: float, at_most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides a span into at most so many parts."""
    power = 10.0 ** math.floor(math.log10(span / at_most))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0, 20.0) if span / (f * power) <= at_most * 1.0001)


def linear_axis(values: Iterable[float], show: Callable[[float], str], at_most: int = 5) -> Axis:
    """An axis from a round number below the values to one above them."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    step = _step(high - low, at_most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple((n * step, show(n * step)) for n in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis with ticks at powers of ten times 1, 2, 5, or 1, 3, or 1, so that few remain.

    A range of less than a power of ten is extended to such ticks, so that there are at least two.
    """
    known = [v for v in values if v > 0] or [1.0]
    low, high = min(known) / 1.08, max(known) * 1.08
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high < 10 * low:
        round_values = [f * 10.0**p for p in powers for f in (1, 2, 5)]
        low, high = max(v for v in round_values if v <= low), min(v for v in round_values if v >= high)
    every = -(-len(powers) // MOST_TICKS)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        candidates = [f * 10.0**p for p in powers if p % every == 0 for f in factors]
        ticks = tuple((v, f"{v:g}") for v in candidates if low <= v <= high)
        if len(ticks) <= MOST_TICKS:
            break
    return Axis(low, high, ticks, is_log=True)


def loss_axis(values: Sequence[float]) -> Axis:
    """Logarithmic if the largest loss is so much above the smallest that the last epochs would look alike.

    A first epoch from random weights can have a hundred times the last one's loss.
    """
    positive = [v for v in values if v > 0]
    if positive and max(positive) > 5 * min(positive):
        return log_axis(positive)
    return linear_axis([0.0, *values] if positive and min(positive) < 0.1 else values, "{:g}".format)


def epoch_axis(epochs: int) -> Axis:
    """Whole epochs only."""
    step = max(1, round(_step(max(1, epochs), 6)))
    ticks = [1, *(n for n in range(step, epochs + 1, step) if n > 1)]
    if step > 1 and len(ticks) > 1 and ticks[1] - 1 < step / 2:
        del ticks[1]
    pad = max(0.3, 0.02 * epochs)
    return Axis(1 - pad, max(epochs, 1) + pad, tuple((n, str(n)) for n in ticks))


class Panel:
    """One pair of axes.

    Args:
        x: horizontal axis.
        y: vertical axis.
        label: what the picture shows, for those who do not see it.
        title: above it.
        x_title: below it.
        height: pixels.
    """

    def __init__(
        self, x: Axis, y: Axis, label: str, title: str = "", x_title: str = "", height: int = HEIGHT
    ) -> None:
        self.x, self.y, self.height = x, y, height
        box = f"0 0 {WIDTH} {height}"
        self.svg = ET.Element("svg", {"viewBox": box, "role": "img", "aria-label": label, "class": "panel"})
        self.ends: list[tuple[float, float, str]] = []
        for value, text in y.ticks:
            _, top = self.at(x.low, value)
            self.add("line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=top, y2=top)
            self.text(text, LEFT - 7, top + 4, "tick end")
        for value, text in x.ticks:
            left, _ = self.at(value, y.low)
            self.add("line", "grid", x1=left, x2=left, y1=height - BOTTOM, y2=height - BOTTOM + 4)
            self.text(text, left, height - BOTTOM + 16, "tick middle")
        self.text(title, LEFT, 16, "title")
        self.text(x_title, (LEFT + WIDTH - RIGHT) / 2, height - 5, "tick middle")

    def at(self, x: float, y: float) -> Point:
        """Pixels from the left and from the top."""
        left = LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT)
        return left, TOP + (1 - self.y.share(y)) * (self.height - TOP - BOTTOM)

    def add(self, tag: str, kind: str, **attributes: Any) -> ET.Element:
        """An SVG element of a CSS class; numbers are pixels."""
        shown = {k.replace("_", "-"): _shown(v) for k, v in attributes.items()}
        return ET.SubElement(self.svg, tag, {"class": kind, **shown})

    def text(self, text: str, x: float, y: float, kind: str) -> None:
        """Text, if there is any."""
        if text:
            self.add("text", kind, x=x, y=y).text = text

    @staticmethod
    def style(index: int) -> str:
        """The CSS class with a variant's color."""
        return f"s{index % N_COLORS}"

    def line(self, points: Sequence[Point], index: int) -> None:
        """A line in the style of a variant."""
        dash = {"stroke_dasharray": DASHES[index % N_COLORS]} if DASHES[index % N_COLORS] else {}
        self.add("polyline", f"line {self.style(index)}", points=_joined(self.at(*p) for p in points), **dash)

    def band(self, low: Sequence[Point], high: Sequence[Point], index: int) -> None:
        """The area between two lines."""
        around = [*low, *reversed(high)]
        self.add("polygon", f"band {self.style(index)}", points=_joined(self.at(*p) for p in around))

    def bar(self, low: Point, high: Point, index: int) -> None:
        """A straight line, such as an interval."""
        (x1, y1), (x2, y2) = self.at(*low), self.at(*high)
        self.add("line", f"bar {self.style(index)}", x1=x1, y1=y1, x2=x2, y2=y2)

    def ring(self, x: float, y: float, index: int, tip: str, radius: float = 7.5) -> None:
        """A ring around what was chosen, with text that appears under a pointer."""
        left, top = self.at(x, y)
        around = self.add("circle", f"ring {self.style(index)}", cx=left, cy=top, r=radius)
        ET.SubElement(around, "title").text = tip

    def marker(self, x: float, y: float, index: int, tip: str) -> None:
        """The marker of a variant, with text that appears under a pointer."""
        self.mark(*self.at(x, y), index, tip)

    def mark(self, left: float, top: float, index: int, tip: str) -> None:
        """The same, at a place in pixels."""
        shape = self.add(
            "path",
            f"mark {self.style(index)}",
            d=_shape(index),
            transform=f"translate({left:.1f},{top:.1f})",
        )
        ET.SubElement(shape, "title").text = tip

    def name_end(self, x: float, y: float, name: str) -> None:
        """Write a name right of a point, once all are known and can be kept apart."""
        if len(name) <= 4:
            self.ends.append((*self.at(x, y), name))

    def markup(self) -> Markup:
        """The picture as SVG, to be put into HTML."""
        last = -math.inf
        for left, top, name in sorted(self.ends, key=lambda end: end[1]):
            last = max(top + 4, last + 12)
            self.text(name, left + 11, last, "name")
        self.ends = []
        return Markup(ET.tostring(self.svg, encoding="unicode"))  # noqa: S704 - ElementTree has escaped it


def swatch(index: int) -> Markup:
    """A piece of a variant's line with its marker, for legends and tables."""
    number = index % N_COLORS
    svg = ET.Element("svg", {"viewBox": "0 0 30 12", "class": "swatch", "aria-hidden": "true"})
    line = {"class": f"line s{number}", "points": "1,6 29,6"}
    ET.SubElement(svg, "polyline", line | ({"stroke-dasharray": DASHES[number]} if DASHES[number] else {}))
    place = {"class": f"mark s{number}", "d": _shape(index), "transform": "translate(15,6)"}
    ET.SubElement(svg, "path", place)
    return Markup(ET.tostring(svg, encoding="unicode"))  # noqa: S704 - no text in it


def _shape(index: int) -> str:
    """A variant's marker; the seventh has the first one's color, so it gets another shape."""
    return MARKERS[(index + index // N_COLORS) % len(MARKERS)]


def _joined(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _shown(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
