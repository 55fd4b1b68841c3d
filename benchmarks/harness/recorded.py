"""Evaluated runs of the command line, as `docs/results` keeps them, in markdown."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.benchmarks.harness.books import markdown_table
from recsys.benchmarks.harness.provenance import Json

LISTS = ("recall@10", "ndcg@10", "recall@100")
LOOKS = ("coverage@10", "novelty@10", "popularity@10", "diversity@10")
ROWS = ("auc", "gauc", "logloss", "ece")

LOOKS_SAY = (
    "The lists themselves: share of the catalogue in anybody's, bits of surprise an item, mean percentile of "
    "popularity, and 1 - cosine of the towers' vectors within a list."
)


def run_section(name: str, run: Json) -> str:
    """The evaluation of a run, as `record_run.py` keeps it."""
    protocol = run["protocol"]
    about = ", ".join(
        f"{key} {protocol[key]}" for key in ("split", "positive", "test_rows", "users", "items") if key in protocol
    )
    told = run["command"].replace("--set data.path=", "")
    changed = "--set " in told or "--processes " in told
    parts = [
        f"## The run {name}" if changed else f"## The configuration {name}, as it is shipped",
        f"One run of the command line: {about}; intervals {protocol['intervals']}.",
    ]
    parts += [f"```\n{run['command']}\n```"]
    if run.get("retrieval"):
        rows = {source: metrics for source, metrics in run["retrieval"].items() if "ndcg@10" in metrics}
        rows["**funnel**"] = run["funnel"]
        parts.append(
            markdown_table(["", *LISTS], [[source, *_cells(metrics, LISTS)] for source, metrics in rows.items()])
        )
        parts.append(LOOKS_SAY)
        parts.append(markdown_table(["", *LOOKS], [[source, *_bare(metrics)] for source, metrics in rows.items()]))
    tasks = run["ranking"]
    parts.append(markdown_table(["task", *ROWS], [[task, *_cells(metrics, ROWS)] for task, metrics in tasks.items()]))
    parts += [*protocol.get("notes", []), origin(run)]
    return "\n\n".join(parts)


def _bare(metrics: Mapping[str, object]) -> list[str]:
    """What lists look like, without intervals; "" where a record does not say."""
    values = [metrics.get(name) for name in LOOKS]
    return [f"{value:.3f}" if isinstance(value, float) else "" for value in values]


def _cells(metrics: Mapping[str, object], names: tuple[str, ...]) -> list[str]:
    """Values with their intervals; "" where there is none."""
    cells = []
    for name in names:
        value, interval = metrics.get(name), metrics.get(f"{name}_ci")
        bounds = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if isinstance(interval, list) else ""
        cells.append(f"{value:.4f}{bounds}" if isinstance(value, float) else "")
    return cells


def folds_section(name: str, record: Json) -> str:
    """`recsys evaluate --folds` on a configuration, as `record_folds.py` keeps it."""
    folds = record["folds"]
    found = {entry["system"]: entry for entry in folds["comparison"] if entry["metric"] == "ndcg@10"}
    systems = {**record["retrieval"], f"**{folds['reference']}**": record["funnel"]}
    rows = []
    for system, metrics in systems.items():
        other = found.get(system)
        paired = "" if other is None else f"{other['difference']:+.4f} [{other['low']:+.4f}, {other['high']:+.4f}]"
        by_fold = " ".join(f"{one:.4f}" for one in metrics["ndcg@10_folds"])
        spread = f"{metrics['ndcg@10']:.4f} ± {metrics['ndcg@10_sd']:.4f}"
        rows.append([system, f"{metrics['recall@10']:.4f}", spread, by_fold, paired])
    tasks = [
        [
            task,
            f"{metrics['auc']:.4f} ± {metrics['auc_sd']:.4f}",
            " ".join(f"{one:.4f}" for one in metrics["auc_folds"]),
        ]
        for task, metrics in record["ranking"].items()
        if "auc_folds" in metrics
    ]
    cuts = "; ".join(f"tests from {cut['test_from']}" for cut in folds["cuts"])
    parts = [
        f"## Time folds of the configuration {name}",
        f"Each fold trains on all rows before its validation part: {cuts}. `±` is the standard deviation over folds; "
        f"differences are to {folds['reference']}, paired by user over all folds, with 95 % intervals.",
        f"```\n{record['command']}\n```",
        markdown_table(["", "recall@10", "ndcg@10", "ndcg@10 by fold", "difference"], rows),
        markdown_table(["task", "auc", "auc by fold"], tasks),
        origin(record),
    ]
    return "\n\n".join(parts)


def origin(record: Json) -> str:
    """Machine, commit and day of a record, in small type."""
    commit = f" · commit {record['commit'][:7]}" if "commit" in record else ""
    day = f" · {record['date']}" if "date" in record else ""
    threads = f" · {record['threads']} thread{'s' * (record['threads'] > 1)}" if "threads" in record else ""
    return f"<sub>{record['machine']}{threads}{commit}{day}</sub>"
