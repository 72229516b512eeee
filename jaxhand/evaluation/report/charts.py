"""Charts as inline SVG: lines over x, bars of a histogram. Colours and fonts come from the page's style sheet."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

WIDTH, HEIGHT = 460, 260  # units of the drawing; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40  # room for labels


def lines(series: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str, y: str, *, dots: bool = False) -> str:
    """Draw lines.

    Args:
        series: name → x (n,) and y (n,); points that are not finite are left out.
        x, y: names of the axes, with their units.
        dots: also mark the points.
    """
    series = {name: _finite(*pair) for name, pair in series.items()}
    xs, ys = (np.concatenate([pair[axis] for pair in series.values()]) for axis in (0, 1))
    if not len(xs):
        return ""
    bottom = min(ys.min(), 0) if ys.min() < 0.4 * ys.max() else ys.min()
    frame = _Frame((xs.min(), xs.max()), (bottom, ys.max()), whole=bool((xs == np.round(xs)).all()))
    drawn = []
    for number, (across, up) in enumerate(series.values()):
        points = [f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in zip(across, up)]
        drawn.append(f'<polyline class="line s{number % 6}" points="{" ".join(points)}"/>')
        if dots or len(points) == 1:
            marks = (point.split(",") for point in points)
            drawn += [f'<circle class="dot s{number % 6}" cx="{a}" cy="{b}" r="3"/>' for a, b in marks]
    names = list(series) if len(series) > 1 else []
    return frame.svg(x, y, drawn, names)


def histogram(series: Mapping[str, np.ndarray], x: str) -> str:
    """Draw the distribution of values (N,) of each name as a stepped line: per cent of the samples per bin."""
    series = {name: values[np.isfinite(values)] for name, values in series.items()}
    every = np.concatenate(list(series.values()))
    if not len(every):
        return ""
    top = np.percentile(every, 99)  # a few outliers would squeeze the rest
    edges = np.linspace(0, top if top > 0 else 1, 31)
    steps = {}
    for name, values in series.items():
        share = 100 * np.histogram(np.minimum(values, edges[-1]), edges)[0] / len(values)
        steps[name] = np.repeat(edges, 2)[1:-1], np.repeat(share, 2)
    return lines(steps, f"{x}; the last bin holds all larger ones", "% of the hands")


def _finite(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


class _Frame:
    """Axes of a chart: data → drawing. With `whole`, the labels of x are whole numbers."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float], *, whole: bool):
        self.ticks = [_ticks(*across, least=1 if whole else 0), _ticks(*up)]
        self.low = [min(ticks[0], low) for ticks, (low, _) in zip(self.ticks, (across, up))]
        self.high = [max(ticks[-1], high) for ticks, (_, high) in zip(self.ticks, (across, up))]

    def x(self, value: float) -> float:
        share = (value - self.low[0]) / ((self.high[0] - self.low[0]) or 1)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low[1]) / ((self.high[1] - self.low[1]) or 1)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def svg(self, x: str, y: str, drawn: Sequence[str], names: Sequence[str]) -> str:
        """The chart with its axes, and a legend if there are names."""
        grid = []
        for value in self.ticks[1]:
            at = f"{self.y(value):.1f}"
            grid.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
            grid.append(f'<text class="tick" x="{_LEFT - 6}" y="{at}" dy="4" text-anchor="end">{value:.4g}</text>')
        for value in self.ticks[0]:
            place = f'x="{self.x(value):.1f}" y="{HEIGHT - _BOTTOM + 16}"'
            grid.append(f'<text class="tick" {place} text-anchor="middle">{value:.4g}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        grid.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
        turned = f'transform="rotate(-90)" x="{-(HEIGHT - _BOTTOM) / 2}" y="12" text-anchor="middle"'
        grid.append(f'<text class="name" {turned}>{escape(y)}</text>')
        label = escape(f"{y} over {x}", {'"': "&quot;"})
        chart = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join([*grid, *drawn])}</svg>'
        legend = "".join(f'<span class="s{i % 6}">{escape(name)}</span>' for i, name in enumerate(names))
        return chart + (f'<p class="legend">{legend}</p>' if legend else "")


def _ticks(low: float, high: float, least: float = 0) -> list[float]:
    """About five round numbers within the range, at least `least` apart."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    step = max(step, least)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)] or [low]
