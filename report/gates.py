"""The gate report drawn: per level a strip of mean weights, and entropies and similarity epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .charts import WIDTH, curve_chart, svg, text
from .values import Json


@dataclass(frozen=True)
class LevelDrawing:
    """One level of gates: its title where there are several, its mean weights, facts about it, its curves."""

    title: str
    strip: Markup
    facts: str
    curve: Markup | None


def gate_drawings(gates: Json) -> list[LevelDrawing]:
    """A strip for each level, a sentence, and a curve where there are epochs.

    Args:
        gates: of `evaluation.gates.gate_report`, and `epochs`: one such report per epoch, with `epoch`.
    """
    levels, epochs = gates["levels"], gates.get("epochs") or []
    drawings = []
    for number, level in enumerate(levels):
        history = [(epoch["epoch"], epoch["levels"][number]) for epoch in epochs if number < len(epoch["levels"])]
        title = f"Level {level['level']}" if len(levels) > 1 else ""
        drawings.append(LevelDrawing(title, weight_strip(level), _facts(level), level_curve(history)))
    return drawings


def weight_strip(level: Json) -> Markup:
    """Mean weights of one level: a row per gate, a column per expert, experts of one owner under its name."""
    left, row, top, parts = 96.0, 24.0, 28.0, []
    experts, gates = level["experts"], level["gates"]
    wide = (WIDTH - left - 2) / max(len(experts), 1)
    owners = [name.rpartition(" ")[0] for name in experts]
    starts = [column for column, owner in enumerate(owners) if column == 0 or owner != owners[column - 1]]
    for start, stop in zip(starts, [*starts[1:], len(experts)], strict=True):
        letters = max(int(wide * (stop - start) / 6), 1)
        parts.append(text(left + wide * start, 10, owners[start][:letters], "small"))
    for column, name in enumerate(experts):
        parts.append(text(left + wide * (column + 0.5) - 1, 23, name.rpartition(" ")[2], "small", "middle"))
    highest = max((value for gate in gates.values() for value in gate["weights"] if value), default=1.0)
    for index, (stream, gate) in enumerate(gates.items()):
        y = top + index * row
        parts.append(text(2, y + 15, stream if len(stream) <= 15 else f"{stream[:14]}…"))
        for column, value in enumerate(gate["weights"]):
            if value is None:  # the gate may not use this expert
                continue
            at = f'x="{left + wide * column:.1f}" y="{y:g}" width="{max(wide - 2, 1):.1f}" height="{row - 2:g}"'
            parts.append(f'<rect class="cell" {at} fill-opacity="{0.06 + 0.94 * value / highest:.3f}"/>')
            if experts[column] in gate["unused"]:
                parts.append(f'<rect class="alarm" {at}/>')
            if wide >= 22:
                kind = "small inverse" if value > 0.5 * highest else "small"
                shown = f"{value:.2f}".removeprefix("0")
                parts.append(text(left + wide * (column + 0.5) - 1, y + 15, shown, kind, "middle"))
    return svg("".join(parts), top + len(gates) * row, f"mean gate weights of level {level['level']}")


def level_curve(history: Sequence[tuple[int, Json]]) -> Markup | None:
    """Entropies (means over the gates) and similarity of one level, epoch by epoch; None without epochs."""
    series = []
    for name, key in (("entropy within a row", "entropy"), ("entropy of the mean", "entropy_of_mean")):
        points = [(epoch, _mean([gate[key] for gate in level["gates"].values()])) for epoch, level in history]
        series.append((name, points))
    series.append(("similarity of experts", [(epoch, level["similarity"]) for epoch, level in history]))
    known = [(name, [(x, y) for x, y in points if y is not None]) for name, points in series]
    curves = [(name, [float(x) for x, _ in points], [y for _, y in points]) for name, points in known if points]
    if not curves:
        return None
    last = max(x for _, xs, _ in curves for x in xs)
    return curve_chart(
        curves,
        x_label="epoch",
        y_label="share",
        x_range=(1.0, max(last, 2.0)),
        y_range=(0.0, 1.0),
        legend_below=True,
    )


def _facts(level: Json) -> str:
    """What the strip does not show: dead experts, the closest pair, the emptiest expert."""
    facts = []
    if level["dead"]:
        facts.append(f"Dead: {', '.join(level['dead'])}.")
    if level["most_alike"]:
        first, second, value = level["most_alike"]
        facts.append(f"Similarity {level['similarity']:.2f}; most alike are {first} and {second} ({value:.2f}).")
    zeros = level["zeros"]
    if zeros and max(zeros) > 0:
        emptiest = level["experts"][zeros.index(max(zeros))]
        facts.append(f"Zero outputs: {min(zeros):.0%} to {max(zeros):.0%} ({emptiest}).")
    return " ".join(facts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
