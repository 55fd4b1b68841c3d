"""A search over configurations: the trials as a table, and their figures in the order in which they were made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from .charts import curve_chart
from .values import Block, Cell, Json, Line, row, scalar, table, words


@dataclass(frozen=True)
class Drawn:
    """A chart under its title."""

    title: str
    chart: Markup


def tuning_blocks(account: Json) -> list[Block]:
    """What was found, and a row for each trial, the best first.

    Args:
        account: `metric`, `upwards`, `best` and `trials`, as `recsys tune --json` prints it.
    """
    metric, sign = str(account["metric"]), -1 if account["upwards"] else 1
    best = account["best"]
    found = f"trial {best['trial']} with {words(metric)} {scalar(best[metric])} on the validation part"
    first = next((one[metric] for one in account["trials"] if one["trial"] == 0), None)
    if best["trial"] != 0 and first is not None:
        found += f"; the configuration as it is has {scalar(first)}"
    ordered = sorted(
        account["trials"], key=lambda one: (one[metric] is None, sign * (one[metric] or 0.0), one["trial"])
    )
    rows = [
        row(
            str(one["trial"]),
            Cell(None if one[metric] is None else scalar(one[metric]), level="ok" if one is ordered[0] else ""),
            one["state"],
            Cell(None if one.get("epochs") is None else str(one["epochs"])),
            Cell(None if one.get("seconds") is None else f"{one['seconds']:.0f} s"),
            _settings(one),
        )
        for one in ordered
    ]
    heads = ["trial", words(metric), "state", "epochs", "time", "settings"]
    return [Line(found, label="best"), table(heads, rows, title="Trials", left=[2, 5])]


def tuning_charts(account: Json) -> Iterator[Drawn]:
    """Each trial's figure and the best until then."""
    metric = str(account["metric"])
    ended = sorted((one for one in account["trials"] if one[metric] is not None), key=lambda one: int(one["trial"]))
    if not ended:
        return
    values = [float(one[metric]) for one in ended]
    best = [(max if account["upwards"] else min)(values[: place + 1]) for place in range(len(values))]
    xs = [float(one["trial"]) for one in ended]
    margin = 0.15 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    chart = curve_chart(
        [("best so far", xs, best), ("trial", xs, values)],
        x_label="trial",
        y_label=words(metric),
        x_range=(0.0, max(4.0, *xs)),
        y_range=(min(values) - margin, max(values) + margin),
        legend_below=True,
    )
    yield Drawn(f"{words(metric)} of the validation part", chart)


def _settings(one: Json) -> str:
    told = ", ".join(f"{key} = {_short(value)}" for key, value in one["settings"].items())
    return f"{told}: {one['fault']}" if one.get("fault") else told


def _short(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
