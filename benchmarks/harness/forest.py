"""Differences of AUC with their intervals as a picture: one line a variant, one panel a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.provenance import Json

ABOVE, BELOW, OPEN = "tab:green", "tab:red", "tab:gray"
LINE = 0.24
"""Height of a line, inches."""
LEAST = 5
"""Fewer differences are read as well in their table."""


def draw_all(book: Json, folder: Path) -> list[str]:
    """A picture for every variant that at least `LEAST` others are compared with; their file names.

    Args:
        book: a file of `docs/results`.
        folder: where the pictures go.
    """
    records: Mapping[str, Json] = book["variants"]
    metrics = {metric: head for metric, head in book["columns"].items() if metric.startswith("test/auc/")}
    named = Counter(r["extra"]["versus_name"] for r in records.values() if "versus" in r["extra"])
    drawn = []
    for base in [base for base, count in named.items() if count >= LEAST and metrics]:
        compared = {name: r for name, r in records.items() if r["extra"].get("versus_name") == base}
        drawn.append(f"{book['name']}-{base}.png")
        draw(compared, base, metrics, folder / drawn[-1])
    return drawn


def draw(compared: Mapping[str, Json], base: str, metrics: Mapping[str, str], file: Path) -> None:
    """Draw the differences to `base`, by group; green and red where the interval leaves out 0.

    Args:
        compared: variant -> record, with the difference in `extra.versus`.
        base: the variant that differences are to.
        metrics: metric -> heading, a panel each.
        file: PNG.
    """
    groups = dict.fromkeys(record["group"] for record in compared.values())
    order = [name for group in groups for name, record in compared.items() if record["group"] == group]
    height = {name: -place for place, name in enumerate(order)}
    size = (3 + 2.6 * len(metrics), 1.2 + LINE * len(order))
    title = f"difference to {base}, mean of the seeds, 95 % over users or rows"
    with panels(file, len(metrics), size, title=title, dpi=110, tight=True, sharey=True) as axes:
        for axis, (metric, head) in zip(axes, metrics.items(), strict=True):
            for name in order:
                found = compared[name]["extra"]["versus"][metric]
                colour = ABOVE if found["low"] > 0 else BELOW if found["high"] < 0 else OPEN
                axis.plot([found["low"], found["high"]], [height[name]] * 2, color=colour, linewidth=1.5)
                axis.plot(found["difference"], height[name], "o", color=colour, markersize=4)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_title(head, fontsize=10)
            axis.tick_params(labelsize=8)
            axis.locator_params(axis="x", nbins=5)
            axis.grid(axis="x", alpha=0.3)
            for above, below in pairwise(order):
                if compared[above]["group"] != compared[below]["group"]:
                    axis.axhline(height[above] - 0.5, color="black", linewidth=0.4, alpha=0.5)
        axes[0].set_yticks(list(height.values()), list(height))
