"""Charts as inline SVG, in the colours of the page that they stand on: no script, no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26
_MOST_POINTS = 600


def lines(title: str, series: Mapping[str, Points], *, marks: frozenset[str] = frozenset()) -> str:
    """A line for each series of (x, y); those in `marks` as dots. Empty where nothing is finite."""
    drawn = {name: _thinned(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_scale = _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(*_padded(min(ys), max(ys)), _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(title), *_axes(x_scale, y_scale)]
    for number, (name, points) in enumerate(drawn.items()):
        places = [(x_scale(x), y_scale(y)) for x, y in points]
        if name in marks or len(places) == 1:
            parts += [
                f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
            ]
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="s{number}" points="{path}"/>')
    return _figure(title, parts, list(drawn))


def bars(title: str, values: Mapping[str, float], unit: str = "") -> str:
    """A horizontal bar for each value, the longest as wide as the chart. Empty without values."""
    most = max(values.values(), default=0.0)
    if most <= 0:
        return ""
    rows = []
    for label, value in values.items():
        width = 100 * value / most
        rows.append(
            f'<tr><th>{escape(label)}</th><td class=bar><span style="width:{width:.1f}%"></span>'
            f"</td><td class=n>{number(value)}{escape(unit)}</td></tr>"
        )
    head = f"<figure><figcaption>{escape(title)}</figcaption>"
    return f"{head}<table class=bars>{''.join(rows)}</table></figure>"


def number(value: float) -> str:
    """A number as people read it."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3g}"


class _Scale:
    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self, count: int = 4) -> list[float]:
        """Round values inside the range."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / count))
        for factor in (1, 2, 5, 10):
            if (self.high - self.low) / (step * factor) <= count:
                step *= factor
                break
        first = math.ceil(self.low / step)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _thinned(points: Points) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    every = max(1, math.ceil(len(finite) / _MOST_POINTS))
    return finite[::every]


def _frame(title: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _axes(x_scale: _Scale, y_scale: _Scale) -> list[str]:
    parts = []
    for tick in y_scale.ticks():
        y = f"{y_scale(tick):.1f}"
        parts.append(f'<line class=grid x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(tick, _LEFT - 6, y_scale(tick) + 4, "end"))
    parts += [_text(tick, x_scale(tick), _HEIGHT - 8, "middle") for tick in x_scale.ticks(6)]
    return parts


def _text(value: float, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{number(value)}</text>'


def _figure(title: str, parts: Sequence[str], names: Sequence[str]) -> str:
    legend = "".join(f'<li class="k{n}">{escape(name)}</li>' for n, name in enumerate(names))
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</svg>"
        f"<ul class=legend>{legend}</ul></figure>"
    )
