"""Small charts as inline SVG text: they scale with the page, follow its light or dark colours, and need no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

WIDTH = 360
_MIDDLE, _BAR = 150.0, 156.0  # centre and full width of the funnel


def svg(body: str, height: float, label: str) -> Markup:
    """An SVG of the page's width, with a label for those who cannot see it."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label, quote=True)}" '
        f'class="chart">{body}</svg>'
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text; `kind` is a CSS class such as "small" or "strong"."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def funnel_chart(stages: Sequence[tuple[str, float, float, float | None]], metric: str) -> Markup:
    """Bars that narrow from perfect to delivered.

    Args:
        stages: name, ceiling after the stage (0 to 1), loss in the stage, recall left or None.
        metric: what the ceiling is of.
    """
    row, parts = 46, []
    names = [("perfect", 1.0, 0.0, None), *stages]
    for index, (name, ceiling, loss, recall) in enumerate(names):
        y, width = 4 + index * row, max(ceiling, 0.004) * _BAR
        before = max(names[index - 1][1] if index else 1.0, 0.004) * _BAR
        if index:
            left, right = _MIDDLE - before / 2, _MIDDLE + before / 2
            parts.append(
                f'<path class="lost" d="M{left:.1f} {y - row + 24} L{right:.1f} {y - row + 24} '
                f'L{_MIDDLE + width / 2:.1f} {y} L{_MIDDLE - width / 2:.1f} {y} Z"/>'
            )
        bar = f'x="{_MIDDLE - width / 2:.1f}" y="{y}" width="{width:.1f}" height="24" rx="2"'
        parts.append(f'<rect class="bar" {bar}/>')
        parts.append(text(2, y + 16, name, "strong"))
        parts.append(text(236, y + 11, f"{ceiling:.3f}", "strong"))
        note = f"lost {loss:.3f}" if index else metric
        parts.append(text(236, y + 23, note + (f", recall {recall:.2f}" if recall is not None else ""), "small"))
    return svg("".join(parts), len(names) * row - 14, f"{metric} still possible after each stage")


def interval_chart(rows: Sequence[tuple[str, float, tuple[float, float] | None]], metric: str) -> Markup:
    """One line per system: its value as a dot, its interval as a bar."""
    highest = max([value if ci is None else ci[1] for _, value, ci in rows], default=1.0) or 1.0
    left, span, parts = 112.0, 190.0, []

    def across(value: float) -> float:
        return left + span * min(max(value / highest, 0.0), 1.0)

    for index, (name, value, interval) in enumerate(rows):
        y = 16 + index * 24
        parts.append(text(2, y + 4, name if len(name) <= 17 else name[:16] + "…"))
        parts.append(f'<line class="grid" x1="{left}" x2="{left + span}" y1="{y}" y2="{y}"/>')
        if interval is not None:
            low, high = across(interval[0]), across(interval[1])
            parts.append(f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{across(value):.1f}" cy="{y}" r="4"/>')
        parts.append(text(WIDTH - 2, y + 4, f"{value:.3f}", "strong", "end"))
    return svg("".join(parts), len(rows) * 24 + 8, f"{metric} with intervals")


def curve_chart(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    diagonal: bool = False,
    whiskers: tuple[Sequence[float], Sequence[float]] | None = None,
    legend_below: bool = False,
) -> Markup:
    """Lines with dots in a frame.

    Args:
        series: name, x values, y values.
        x_label: what x is, with its unit.
        y_label: what y is.
        x_range: ends of the x axis.
        y_range: ends of the y axis.
        diagonal: draw where x equals y.
        whiskers: low and high ends of each y of the first series.
        legend_below: names under the frame, for lines that would run through them.
    """
    left, top, width, height = 44.0, 22.0, 300.0, 180.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1.0)
        up = (y - y_range[0]) / ((y_range[1] - y_range[0]) or 1.0)
        return left + width * min(max(across, 0.0), 1.0), top + height * (1 - min(max(up, 0.0), 1.0))

    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"/>']
    for x in round_steps(*x_range):
        px, _ = at(x, y_range[0])
        parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{top}" y2="{top + height}"/>')
        parts.append(text(px, top + height + 13, f"{x:.6g}", "small", "middle"))
    for y in round_steps(*y_range):
        _, py = at(x_range[0], y)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(text(left - 4, py + 3, f"{y:.6g}", "small", "end"))
    if diagonal:
        low, high = max(x_range[0], y_range[0]), min(x_range[1], y_range[1])
        (x1, y1), (x2, y2) = at(low, low), at(high, high)
        parts.append(f'<line class="ideal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    if whiskers is not None and series:
        for x, low, high in zip(series[0][1], *whiskers, strict=True):
            (px, y1), (_, y2) = at(x, low), at(x, high)
            parts.append(f'<line class="range thin" x1="{px:.1f}" x2="{px:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>')
    for index, (name, xs, ys) in enumerate(series):
        points = [at(x, y) for x, y in zip(xs, ys, strict=True)]
        kind = f"series{index % 3}"
        parts.append(f'<polyline class="line {kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points]
        if len(series) > 1:
            line = top + 14 * index + (height + 28 if legend_below else 16)
            parts.append(f'<circle class="dot {kind}" cx="{left + 8}" cy="{line - 4}" r="4"/>')
            parts.append(text(left + 16, line, name, "small"))
    parts.append(text(left + width, top + height + 28, x_label, "small", "end"))
    parts.append(text(2, 12, y_label, "small"))
    under = 14 * (len(series) - 1) if legend_below else 0
    return svg("".join(parts), top + height + 34 + under, f"{y_label} against {x_label}")


def round_steps(low: float, high: float) -> list[float]:
    """Four to nine round numbers from low to high, to label an axis with."""
    span = (high - low) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = max(factor * unit for factor in (1, 2, 5) if factor * unit <= span / 4)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(count * step, 12) for count in range(first, last + 1)]
