"""The generic configuration on every log, and what a training time buys, as `docs/results` keeps them, in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from recsys.benchmarks.harness.books import markdown_table
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.recorded import origin

FIGURES = {
    "hit@10": "HR@10",
    "ndcg@10": "NDCG@10",
    "recall@100": "recall@100",
    "coverage@10": "coverage",
    "novelty@10": "novelty",
    "popularity@10": "popularity",
    "diversity@10": "diversity",
}
"""Column of a log's section; the last four describe the lists and are better neither high nor low."""
OURS = ("two_tower", "funnel")
ABOUT = """What `recsys init` writes of a log's tables, trained, indexed and measured as a newcomer would type it.
Nothing was changed for a set; what `init` decides, it decides by what it measures: rows, items, times, splits.
Every figure is a full ranking of the catalogue on the test part; intervals are 95 % over users.
KuaiRand, latest-small and MovieLens-1M were measured again after their first figures had shown faults of `init`
([which](../experiments.md#faults-of-what-init-wrote-found-by-its-own-table)), so they are not blind.
The time split was measured again with a horizon, two kinds of users and a linear part, chosen on its validation part
([why](../experiments.md#what-a-later-period-asks-of-towers-a-horizon-that-is-measured-and-two-kinds-of-users)).
Beauty and latest-small were measured before `init` wrote a linear part, of which their validation took none (seed 1).
Where histories are short `init` writes `final.rows = "auto"` since, which is Beauty's first row: its seed 1, trained
again so, has the same figures; the second row is what `final.rows = "none"` gives
([why](../experiments.md#who-needs-a-last-fit)). KuaiRand's row has a last fit, its rows with trees and with target
attention are from before and have none.
What `init` decides by size was tried on the validation parts of these same logs; yours is the first it does not know.
The best baseline is the best of popularity, recent popularity, item-kNN, EASE and transitions on the test part.
CPU seconds are the whole training's: reading, encoding, both stages, all baselines, every epoch's validation."""


def generic_summary(records: Sequence[Json]) -> str:
    """A row a log: the best baseline, the towers, the funnel, and what it cost."""
    rows = []
    for record in records:
        systems = mean_systems(record)
        rivals = {name: row for name, row in systems.items() if name not in OURS}
        rival = max(rivals, key=lambda name: float(rivals[name]["ndcg@10"]))
        taken = systems["funnel"].get("headroom_taken")
        rows.append(
            [
                titled(record),
                f"{rivals[rival]['ndcg@10']:.4f} (`{rival}`)",
                *(f"{systems[name]['hit@10']:.4f} / {systems[name]['ndcg@10']:.4f}" for name in OURS),
                f"{systems['two_tower']['recall@100']:.4f}",
                f"{taken:.3f}" if isinstance(taken, float) else "",
                f"{statistics.mean(one['cpu_seconds'] for one in record['seeds'].values()):,.0f}",
                str(len(record["seeds"])),
            ]
        )
    head = [
        "log",
        "best baseline, NDCG@10",
        "towers, HR@10 / NDCG@10",
        "funnel, HR@10 / NDCG@10",
        "towers, recall@100",
        "headroom taken",
        "CPU seconds",
        "seeds",
    ]
    return "\n\n".join(["## All logs", ABOUT, markdown_table(head, rows), HEADROOM])


HEADROOM = (
    "Headroom taken: of the way from the best retriever's own order of its candidates to a perfect order of them, the "
    "share that the second stage goes, in NDCG@10."
)


def generic_section(record: Json) -> str:
    """Every system on one log."""
    systems, several = mean_systems(record), len(record["seeds"]) > 1
    first = next(iter(record["seeds"].values()))
    rows = [
        [f"**{name}**" if name in OURS else name, *(_cell(record, name, figure, several) for figure in FIGURES)]
        for name in systems
    ]
    protocol = first["protocol"]
    about = ", ".join(f"{key} {protocol[key]}" for key in ("split", "positive", "users", "items") if key in protocol)
    parts = [
        f"## {titled(record)}",
        f"One training a seed: {about}; intervals {'of the first seed' if several else protocol['intervals']}.",
        f"```\n{record['command']}\n```",
        markdown_table(["", *FIGURES.values()], rows),
    ]
    found = {one["value"]: one for one in first["pauses"] if one["metric"].startswith("item_recall@")}
    if len(found) > 1:
        told = ", ".join(
            f"{value} {one['estimate']:.3f} ({one['size']:,} of the items to be found)" for value, one in found.items()
        )
        parts.append(f"The funnel's {next(iter(found.values()))['metric']} by how long a user had paused: {told}.")
    if first["ranking"]:
        tasks = [[task, _interval(row, "auc"), _interval(row, "gauc")] for task, row in first["ranking"].items()]
        parts.append(markdown_table(["task", "AUC", "GAUC"], tasks))
    parts += [*protocol.get("notes", []), origin(record)]
    return "\n\n".join(parts)


def titled(record: Json) -> str:
    """A record's log, and the name of what was changed."""
    return str(record["title"]) + (f" ({record['name']})" if record["name"] else "")


def mean_systems(record: Json) -> dict[str, dict[str, float]]:
    """System -> its figures, means over the seeds."""
    seeds = list(record["seeds"].values())
    found: dict[str, dict[str, float]] = {}
    for name, figures in seeds[0]["systems"].items():
        known = [key for key, value in figures.items() if isinstance(value, float)]
        found[name] = {key: statistics.mean(seed["systems"][name][key] for seed in seeds) for key in known}
    return found


def _cell(record: Json, system: str, figure: str, several: bool) -> str:
    seeds = [seed["systems"][system] for seed in record["seeds"].values()]
    values = [seed[figure] for seed in seeds if isinstance(seed.get(figure), float)]
    if len(values) < len(seeds):
        return ""
    digits = 4 if "@10" in figure and figure.split("@", maxsplit=1)[0] in ("hit", "ndcg", "recall") else 3
    if several and statistics.stdev(values) > 0:
        return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
    bounds = seeds[0].get(f"{figure}_ci")
    shown = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds and digits == 4 else ""
    return f"{values[0]:.{digits}f}{shown}"


def _interval(row: Mapping[str, object], name: str) -> str:
    value, bounds = row.get(name), row.get(f"{name}_ci")
    shown = f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if isinstance(bounds, list) else ""
    return f"{value:.4f}{shown}" if isinstance(value, float) else ""


def minutes_section(record: Json) -> str:
    """Quality against CPU seconds, the rows of the front in bold."""
    front = set(record["front"])
    ordered = sorted(record["rows"].items(), key=lambda item: float(item[1]["cpu_seconds"]))
    rows = [
        [
            f"**{name}**" if name in front else name,
            f"{row['cpu_seconds']:,.1f}",
            *(f"{row[metric]:.4f}" for metric in ("ndcg@10", "recall@10", "recall@100")),
        ]
        for name, row in ordered
    ]
    seeds = ", ".join(map(str, record["seeds"]))
    return "\n\n".join(
        [
            f"## {record['title']}",
            f"The validation part, full ranking; seeds {seeds}. **Bold**: nothing is better in less time.",
            f"```\n{record['command']}\n```",
            f"![{record['title']}](minutes-{record['minutes']}.png)",
            markdown_table(["", "CPU seconds", "NDCG@10", "recall@10", "recall@100"], rows),
            origin(record),
        ]
    )
