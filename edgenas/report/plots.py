"""The report's plots as inline SVG, drawn with the standard library.

Takes numbers and ready-made labels, knows nothing of result.json, and gives SVG text. The larger plots are laid out
twice, for a wide page and for a phone; CSS shows one. Colours and fonts are the page's CSS classes, hence dark mode and
print need nothing here. Every text goes through ElementTree, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

WIDE_PX = 920
NARROW_PX = 360


@dataclass(frozen=True)
class Plot:
    """The same picture for two page widths; `note` says what could not be drawn."""

    wide: str
    narrow: str
    note: str = ""


@dataclass(frozen=True)
class Point:
    """One network: where it lies, what a pointer resting on it reads, and the CSS class of its series."""

    x: float
    y: float
    tip: str = ""
    series: str = "p-other"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A line across a plot, such as a budget."""

    value: float
    label: str


@dataclass(frozen=True)
class Bar:
    """One category of a small multiple; `value` is None where nothing is known."""

    name: str
    value: float | None
    label: str
    series: str = "p-other"


@dataclass(frozen=True)
class Range:
    """One row of a range plot: percentiles of one latency."""

    name: str
    label: str
    p50: float
    p90: float | None
    p99: float | None
    series: str = "p-other"


@dataclass(frozen=True)
class Scale:
    """Maps [lo, hi] to [start, end] pixels, linearly or by logarithm."""

    lo: float
    hi: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        lo, hi, at = (math.log(self.lo), math.log(self.hi), math.log(value)) if self.log else (self.lo, self.hi, value)
        return self.start + (at - lo) / (hi - lo) * (self.end - self.start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """About `count` round numbers inside the scale, with their labels."""
        values = _log_ticks(self.lo, self.hi, count) if self.log else _linear_ticks(self.lo, self.hi, count)
        digits = next((d for d in range(9) if all(abs(round(v, d) - v) < 1e-9 for v in values)), 9)
        return [(v, f"{v:g}" if self.log else f"{v:.{digits}f}") for v in values]


def _linear_ticks(lo: float, hi: float, count: int) -> list[float]:
    raw = (hi - lo) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    return [i * step for i in range(math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9) + 1)]


def _log_ticks(lo: float, hi: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(lo)), math.floor(math.log10(hi)) + 1)
    tiers = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(i / 10 for i in range(10, 100)))
    found = [[m * 10.0**d for d in decades for m in tier if lo <= m * 10.0**d <= hi] for tier in tiers]
    enough = next((values for values in found if len(values) >= min(count, 4)), found[-1])
    return enough[:: max(1, math.ceil(len(enough) / (count + 2)))]


class _Canvas:
    """An SVG under construction; `alt` is what a screen reader says instead of it."""

    def __init__(self, width: int, height: int, alt: str) -> None:
        self.root = ET.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": alt})

    def add(self, tag: str, css: str = "", text: str = "", tip: str = "", **attributes: float | str) -> None:
        fields = {"class": css} if css else {}
        for name, value in attributes.items():
            fields[name.replace("_", "-")] = value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
        element = ET.SubElement(self.root, tag, fields)
        element.text = text or None
        if tip:
            ET.SubElement(element, "title").text = tip

    def line(self, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, css: str, x: float, y: float, text: str, anchor: str = "start", after: str = "") -> None:
        self.add("text", css, text, x=x, y=y, text_anchor=anchor)
        if after:
            ET.SubElement(self.root[-1], "tspan", {"class": "plain", "dx": "10"}).text = after

    def marker(self, point: Point, x: float, y: float) -> None:
        """A shape for each precision too, so that colour is never the only difference."""
        css = f"dot {point.series}"
        if point.series == "p-int8":
            self.add("path", css, tip=point.tip, d=f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5-5.5z")
        elif point.series == "p-fp16":
            self.add("path", css, tip=point.tip, d=f"M{x:.1f} {y - 5:.1f}l5.2 9h-10.4z")
        else:
            self.add("circle", css, tip=point.tip, cx=x, cy=y, r=4.2)

    def x_axis(self, x: Scale, top: float, bottom: float, label: str, ticks: int) -> None:
        for value, text in x.ticks(ticks):
            self.line("grid", x(value), bottom, x(value), top)
            self.text("tick", x(value), bottom + 18, text, "middle" if value > 0 else "start")
        self.line("axis", x.start, bottom, x.end, bottom)
        self.text("axis-label", x.end, bottom + 38, label, "end")

    def y_axis(self, y: Scale, left: float, right: float, label: str, ticks: int) -> None:
        for value, text in y.ticks(ticks):
            self.line("grid", left, y(value), right, y(value))
            self.text("tick", left - 8, y(value) + 4, text, "end")
        self.text("axis-label", 0, 14, label)

    def budget(self, x: Scale, mark: Mark, top: float, bottom: float) -> None:
        at = x(mark.value)
        self.add("rect", "over", x=at, y=top, width=max(0.0, x.end - at), height=bottom - top)
        self.line("budget", at, bottom, at, top - 4)
        half = 3.4 * len(mark.label)
        self.text("budget-label", min(max(at, half), x.end - half), top - 9, mark.label, "middle")

    def __str__(self) -> str:
        return ET.tostring(self.root, encoding="unicode")


def _both(draw: Callable[[int, bool], _Canvas], note: str = "", wide_px: int = WIDE_PX) -> Plot:
    return Plot(str(draw(wide_px, False)), str(draw(NARROW_PX, True)), note)


def pareto(
    cloud: Sequence[tuple[float, float]],
    front: Sequence[Point],
    chosen: Point | None,
    chosen_label: str,
    budget: Mark | None,
    x_label: str,
    y_label: str,
    alt: str,
    seen: Sequence[Point] = (),
) -> Plot:
    """Latency (x) against accuracy in percent (y): all candidates, the front as a stair, the budget, the chosen one.

    Those of `cloud` are dots and no more, those of `seen` can be pointed at. The slowest and least accurate twentieth of the
    candidates may lie outside; the note counts them.
    """
    kept = [(p.x, p.y) for p in (*front, *([chosen] if chosen else []))]
    candidates = [*cloud, *((p.x, p.y) for p in seen)]
    xs, ys = sorted([p[0] for p in candidates]), sorted([p[1] for p in candidates])
    x_lo = min([*xs[:1], *(p[0] for p in kept)])
    x_hi = max([*xs[int(len(xs) * 0.97) : int(len(xs) * 0.97) + 1], *(p[0] for p in kept)])
    y_lo = min([*ys[int(len(ys) * 0.05) : int(len(ys) * 0.05) + 1], *(p[1] for p in kept)])
    y_hi = max([*ys[-1:], *(p[1] for p in kept)])
    if budget and budget.value < x_hi * 3:
        x_lo, x_hi = min(x_lo, budget.value), max(x_hi, budget.value * 1.05)
    x_pad, y_pad = (x_hi - x_lo or x_hi or 1) * 0.06, (y_hi - y_lo or 1) * 0.08
    x_lo, x_hi, y_lo, y_hi = max(0.0, x_lo - x_pad), x_hi + x_pad, y_lo - y_pad, y_hi + y_pad

    def is_inside(px: float, py: float) -> bool:
        return x_lo <= px <= x_hi and y_lo <= py <= y_hi

    inside = [(px, py) for px, py in cloud if is_inside(px, py)]
    seen_inside = [p for p in seen if is_inside(p.x, p.y)]
    stair = sorted(front, key=lambda p: (p.x, p.y))

    def draw(width: int, narrow: bool) -> _Canvas:
        height, left = (350, 40) if narrow else (430, 46)
        canvas = _Canvas(width, height, alt)
        x, y = Scale(x_lo, x_hi, left, width - 8), Scale(y_lo, y_hi, height - 46, 56)
        canvas.x_axis(x, y.end, y.start, x_label, 4 if narrow else 8)
        canvas.y_axis(y, x.start, x.end, y_label, 5)
        if budget and x_lo <= budget.value <= x_hi:
            canvas.budget(x, budget, 56, height - 46)
        canvas.add("path", "cloud", d="".join(f"M{x(px):.1f} {y(py):.1f}h0" for px, py in inside) or "M0 0")
        for p in seen_inside:  # there is no pointer on a phone
            canvas.add("circle", f"seen {p.series}", tip="" if narrow else p.tip, cx=x(p.x), cy=y(p.y), r=2.8)
        if stair:
            steps = "".join(f"H{x(p.x):.1f}V{y(p.y):.1f}" for p in stair[1:])
            canvas.add("path", f"stair {stair[0].series}", d=f"M{x(stair[0].x):.1f} {y(stair[0].y):.1f}{steps}")
        for point in stair:
            canvas.marker(point, x(point.x), y(point.y))
        if chosen:
            said = "chosen" if narrow else chosen_label
            cx, cy = x(chosen.x), y(chosen.y)
            canvas.add("circle", f"chosen {chosen.series}", tip=chosen.tip, cx=cx, cy=cy, r=10)
            room = 7.2 * len(said)
            to_left = cx - 16 - room > left
            is_under_front = any(p.x <= chosen.x and p.y > chosen.y for p in front)  # there the stair is above it
            down = 26 if is_under_front and cy + 26 < y.start else -14
            canvas.text("label", cx - 16 if to_left else min(cx + 16, width - 8 - room), cy + down, said,
                        "end" if to_left else "start")  # fmt: skip
        return canvas

    outside = len(candidates) - len(inside) - len(seen_inside)
    return _both(draw, f"{outside} slower or less accurate candidates lie outside the plot." if outside else "")


def small_multiple(bars: Sequence[Bar], from_zero: bool, budget: Mark | None, alt: str) -> str:
    """One quantity over the steps: columns from zero, or joined dots where the differences are what matters."""
    canvas = _Canvas(300, 178, alt)
    known = [b.value for b in bars if b.value is not None]
    if not known:
        canvas.text("tick", 150, 90, "unknown", "middle")
        return str(canvas)
    hi, lo = max([*known, *([budget.value] if budget else [])]), 0.0 if from_zero else min(known)
    y = Scale(lo - (0 if from_zero else (hi - lo or 1) * 0.35), hi + ((hi - lo) * 0.05 or 1), 142, 30)
    canvas.line("axis", 0, 142, 300, 142)
    if budget:
        canvas.line("budget", 0, y(budget.value), 300, y(budget.value))
    room = 300 / len(bars)
    for index, (before, bar) in enumerate(pairwise(bars)):
        if not from_zero and before.value is not None and bar.value is not None:
            canvas.line("join", room * (index + 0.5), y(before.value), room * (index + 1.5), y(bar.value))
    for index, bar in enumerate(bars):
        at = room * (index + 0.5)
        canvas.text("tick", at, 160 if len(bars) <= 4 or index % 2 == 0 else 174, bar.name, "middle")
        if bar.value is None:
            canvas.text("tick", at, 134, "unknown", "middle")
            continue
        top = y(bar.value)
        if from_zero:
            canvas.add(
                "rect", f"column {bar.series}", tip=bar.label, x=at - 13, y=top, width=26, height=142 - top, rx=2
            )
        else:
            canvas.marker(Point(0, 0, bar.label, bar.series), at, top)
        lowest = not from_zero and len(known) > 1 and bar.value == min(known) < max(known)
        canvas.text("label", at, top + 20 if lowest else top - (8 if from_zero else 12), bar.label, "middle")
    return str(canvas)


def ranges(rows: Sequence[Range], budget: Mark | None, x_label: str, alt: str) -> Plot:
    """p50 as a bar from zero, p90 and p99 as ever fainter tails; tails far out end in an arrow."""
    anchor = max([r.p50 for r in rows] + ([budget.value] if budget else [])) or 1.0
    x_hi = min(max([t for r in rows for t in (r.p50, r.p90, r.p99) if t] + [anchor]), anchor * 1.8) * 1.06

    def draw(width: int, narrow: bool) -> _Canvas:
        top, row_px = 26, 48
        bottom = top + row_px * len(rows) + 4
        canvas = _Canvas(width, bottom + 46, alt)
        x = Scale(0, x_hi, 0, width - 8)
        canvas.x_axis(x, top, bottom, x_label, 4 if narrow else 8)
        if budget:
            canvas.budget(x, budget, top, bottom)
        for index, row in enumerate(rows):
            y = top + row_px * index + 18
            canvas.text("label", 0, y, row.name, after=row.label)
            for value, css, height in ((row.p99, "tail99", 3.0), (row.p90, "tail90", 7.0), (row.p50, "column", 14.0)):
                if value is not None:
                    end = min(x(value), width - 12.0)
                    canvas.add(
                        "rect", f"{css} {row.series}", x=0, y=y + 15 - height / 2, width=end, height=height, rx=1
                    )
                    if x(value) > end:
                        canvas.add("path", f"tail99 {row.series}", d=f"M{end:.1f} {y + 9:.1f}l11 6l-11 6z")
        return canvas

    return _both(draw)


def agreement(points: Sequence[Point], y_label: str, alt: str) -> Plot:
    """Predicted (x) against measured (y) on logarithmic axes, where the ±10 % band has one width everywhere."""
    values = [v for p in points for v in (p.x, p.y)]
    lo, hi = min(values) / 1.15, max(values) * 1.15

    def draw(width: int, narrow: bool) -> _Canvas:
        height, left = (350, 44) if narrow else (440, 50)
        canvas = _Canvas(width, height, alt)
        x, y = Scale(lo, hi, left, width - 8, log=True), Scale(lo, hi, height - 46, 26, log=True)
        canvas.x_axis(x, y.end, y.start, "predicted, ms", 5)
        canvas.y_axis(y, x.start, x.end, y_label, 5)
        corners = [(lo, lo), (lo, lo / 0.9), (hi * 0.9, hi), (hi, hi), (hi, hi / 1.1), (lo * 1.1, lo)]
        canvas.add("polygon", "band", points=" ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in corners))
        canvas.line("identity", x(lo), y(lo), x(hi), y(hi))
        for p in points:
            if p.low and p.high and p.low > 0:
                low, high = x(min(max(p.low, lo), hi)), x(min(max(p.high, lo), hi))
                canvas.line(f"interval {p.series}", low, y(p.y), high, y(p.y))
        for p in points:
            canvas.marker(p, x(p.x), y(p.y))
        return canvas

    return _both(draw, wide_px=560)
