"""The gate report drawn: per level a strip of mean weights, and entropies and similarity epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import WIDTH, curve_chart, svg, text

Json = Mapping[str, Any]


def gates_section(gates: Json) -> str:
    """Markup of the section: per level a strip, a sentence, and a curve where there are epochs.

    Args:
        gates: of `evaluation.gates.gate_report`, and `epochs`: one such report per epoch, with `epoch`.
    """
    parts = [
        '<p class="soft">Mean weight that each gate (row) gives to each expert (column), on '
        f"{gates['rows']} rows of the test part; outlined where it is below 1 %. By epoch, on validation rows: "
        "entropies as shares of that of even weights, and the mean linear CKA over pairs of experts.</p>"
    ]
    epochs = gates.get("epochs") or []
    for place, level in enumerate(gates["levels"]):
        title = f"<h3>Level {level['level']}</h3>" if len(gates["levels"]) > 1 else ""
        history = [(one["epoch"], one["levels"][place]) for one in epochs if place < len(one["levels"])]
        drawn = [title + weight_strip(level) + _facts(level), level_curve(history)]
        parts.append(f'<div class="grid2">{"".join(f"<div>{one}</div>" for one in drawn if one)}</div>')
    return "".join(parts)


def weight_strip(level: Json) -> str:
    """Mean weights of one level: a row per gate, a column per expert, experts of one owner under its name."""
    left, row, top, parts = 96.0, 24.0, 28.0, []
    experts, gates = level["experts"], level["gates"]
    wide = (WIDTH - left - 2) / max(len(experts), 1)
    owners = [name.rpartition(" ")[0] for name in experts]
    starts = [place for place, owner in enumerate(owners) if place == 0 or owner != owners[place - 1]]
    for start, stop in zip(starts, [*starts[1:], len(experts)], strict=True):
        letters = max(int(wide * (stop - start) / 6), 1)
        parts.append(text(left + wide * start, 10, owners[start][:letters], "small"))
    for place, name in enumerate(experts):
        parts.append(text(left + wide * (place + 0.5) - 1, 23, name.rpartition(" ")[2], "small", "middle"))
    highest = max((value for gate in gates.values() for value in gate["weights"] if value), default=1.0)
    for index, (stream, gate) in enumerate(gates.items()):
        y = top + index * row
        parts.append(text(2, y + 15, stream if len(stream) <= 15 else f"{stream[:14]}…"))
        for place, value in enumerate(gate["weights"]):
            if value is None:  # the gate may not use this expert
                continue
            at = f'x="{left + wide * place:.1f}" y="{y:g}" width="{max(wide - 2, 1):.1f}" height="{row - 2:g}"'
            parts.append(f'<rect class="cell" {at} fill-opacity="{0.06 + 0.94 * value / highest:.3f}"/>')
            if experts[place] in gate["unused"]:
                parts.append(f'<rect class="alarm" {at}/>')
            if wide >= 22:
                kind = "small inverse" if value > 0.5 * highest else "small"
                shown = f"{value:.2f}".removeprefix("0")
                parts.append(text(left + wide * (place + 0.5) - 1, y + 15, shown, kind, "middle"))
    return svg("".join(parts), top + len(gates) * row, f"mean gate weights of level {level['level']}")


def level_curve(history: Sequence[tuple[int, Json]]) -> str:
    """Entropies (means over the gates) and similarity of one level, epoch by epoch; empty without epochs."""
    series = []
    for name, key in (("entropy within a row", "entropy"), ("entropy of the mean", "entropy_of_mean")):
        points = [(epoch, _mean([gate[key] for gate in level["gates"].values()])) for epoch, level in history]
        series.append((name, points))
    series.append(("similarity of experts", [(epoch, level["similarity"]) for epoch, level in history]))
    known = [(name, [(x, y) for x, y in points if y is not None]) for name, points in series]
    drawn = [(name, [float(x) for x, _ in points], [y for _, y in points]) for name, points in known if points]
    if not drawn:
        return ""
    last = max(x for _, xs, _ in drawn for x in xs)
    return curve_chart(
        drawn,
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
        place = zeros.index(max(zeros))
        facts.append(f"Zero outputs: {min(zeros):.0%} to {max(zeros):.0%} ({level['experts'][place]}).")
    return f'<p class="soft">{escape(" ".join(facts))}</p>' if facts else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
