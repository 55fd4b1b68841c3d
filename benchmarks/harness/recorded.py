"""Single measurements of `docs/results` as markdown: evaluated runs of the command line, and the speed benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from recsys.benchmarks.harness.books import markdown_table
from recsys.benchmarks.harness.provenance import Json

LISTS = ("recall@10", "ndcg@10", "recall@100")
ROWS = ("auc", "gauc", "logloss", "ece")


def run_section(name: str, run: Json) -> str:
    """The evaluation of a run, as `record_run.py` keeps it."""
    protocol = run["protocol"]
    about = ", ".join(
        f"{key} {protocol[key]}" for key in ("split", "positive", "test_rows", "users", "items") if key in protocol
    )
    changed = run["command"].replace("--set data.path=", "").count("--set ")
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
    tasks = run["ranking"]
    parts.append(markdown_table(["task", *ROWS], [[task, *_cells(metrics, ROWS)] for task, metrics in tasks.items()]))
    parts += [*protocol.get("notes", []), _origin(run)]
    return "\n\n".join(parts)


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
        _origin(record),
    ]
    return "\n\n".join(parts)


def speed_section(record: Json) -> str:
    """A speed benchmark: what it measures, its figures, its command and machine."""
    title, table = SPEED[record["benchmark"]]
    command = record.get("command", f"python benchmarks/speed/{record['benchmark']}.py --out FILE")
    return "\n\n".join([f"## {title}", table(record), f"```\n{command}\n```", _origin(record)])


def _origin(record: Json) -> str:
    commit = f" · commit {record['commit'][:7]}" if "commit" in record else ""
    day = f" · {record['date']}" if "date" in record else ""
    threads = f" · {record['threads']} thread{'s' * (record['threads'] > 1)}" if "threads" in record else ""
    return f"<sub>{record['machine']}{threads}{commit}{day}</sub>"


def _training(record: Json) -> str:
    rates = record["rows_per_second"]
    return markdown_table(
        ["", "rows/s"],
        [
            ["the library, loader included", f"{rates['library']:,.0f}"],
            ["a bare loop of the same arithmetic", f"{rates['bare']:,.0f}"],
        ],
    )


def _towers(record: Json) -> str:
    return markdown_table(
        ["", "positives per CPU second", "items each is compared with"],
        [[n, f"{r['rows_per_cpu_second']:,.0f}", f"{r['compared_with']:,.0f}"] for n, r in record["rows"].items()],
    )


def _user_side(record: Json) -> str:
    return markdown_table(
        ["ranker, history", "once, ms", "repeated, ms", "ratio of CPU time"],
        [
            [f"{r['ranker']}, {r['history']}", f"{r['once_ms']:.2f}", f"{r['repeated_ms']:.1f}", f"{r['ratio']:.1f}"]
            for r in record["rows"]
        ],
    )


def _lists(record: Json) -> str:
    note = f"\n\n{record['note']}" if "note" in record else ""
    table = markdown_table(
        ["ranker", "users a second", "users a CPU second", "after loading, MB", "peak, MB"],
        [
            [
                "the towers alone" if row["ranker"] == "none" else row["ranker"],
                *(f"{row[key]:,.0f}" for key in ("users_per_second", "users_per_cpu_second", "loaded_mb", "peak_mb")),
            ]
            for row in record["rows"]
        ],
    )
    return table + note


def _dupn(record: Json) -> str:
    return markdown_table(
        ["", "history", "products", "torch's LSTM, ms", "DUPN, ms", "ratio"],
        [
            [
                row["what"],
                str(row["length"]),
                "bfloat16" if row["bf16"] else "float32",
                f"{row['torch']['ms']:.1f}",
                f"{row['dupn']['ms']:.1f}",
                f"{row['ratio']:.2f}",
            ]
            for row in record["rows"]
        ],
    )


def _index(record: Json) -> str:
    rows = [
        [
            index["data"],
            index["report"]["factory"],
            f"{index['fresh_recall']:.3f}",
            f"{index['cold']['p50_ms']:.2f}",
            f"{index['cold']['single_ratio']:.2f}",
            f"{index['build_seconds']:.0f}",
            f"{index['folder_mb']:.0f}",
            f"{index['updates']['upsert_1000_ms']:.0f}",
        ]
        for index in record["indexes"]
    ]
    head = [
        "vectors",
        "chosen",
        f"recall@{record['k']}",
        "median, ms",
        "over bare FAISS",
        "build, s",
        "folder, MB",
        "upsert of 1,000, ms",
    ]
    return markdown_table(head, rows)


def _evaluation(record: Json) -> str:
    rows = [
        [
            f"{row['users']:,} users x {row['items']:,} items x {row['width']}, k = {row['k']}",
            f"{row['seconds']:.2f}",
            f"{row['seconds_without_seen']:.2f}",
            f"{row['bare_seconds']:.2f}",
            f"{row['peak_gib']:.1f}",
        ]
        for row in record["ranking"]
    ]
    return markdown_table(["", "exact top k, s", "without 100 taken items each, s", "bare loop, s", "peak, GiB"], rows)


def _request(record: Json) -> str:
    rows = [
        [
            {"this": "this version", "beside": "the version beside it"}.get(name, name),
            f"{one['items']:,}",
            f"{one['wall_ms']['p50']:.2f}",
            f"{one['wall_ms']['p99']:.2f}",
            f"{one['cpu_ms']['p50']:.2f}",
            f"{one['calls']:,}",
            f"{one['users_per_cpu_second_in_blocks']:,.0f}",
        ]
        for name, one in record["checkouts"].items()
    ]
    heads = ["", "items", "p50, ms", "p99, ms", "CPU p50, ms", "calls", "users a CPU second, blocks of 32"]
    return markdown_table(heads, rows)


def _build(record: Json) -> str:
    names = {"this": "this version", "beside": "the version beside it"}
    rows = [
        [
            f"{one['rows']:,}",
            names[name],
            f"{one['seconds']:.1f}",
            f"{one['cpu_seconds']:.1f}",
            f"{one['phases']['build']['seconds']:.1f}",
            f"{one['peak_gib']:.2f}",
        ]
        for build in record["builds"]
        for name, one in build.items()
        if name in names
    ]
    return markdown_table(["events", "", "seconds in all", "CPU seconds", "of which the build", "peak, GiB"], rows)


def _loader(record: Json) -> str:
    names = {
        "rows_1024": "rows a CPU second, batches of 1,024",
        "rows_8192": "batches of 8,192",
        "rows_65536": "batches of 65,536",
        "rows_8192_windowed": "batches of 8,192, shuffled in windows",
        "window_events": "events a CPU second, history windows",
        "bytes_an_event": "bytes an event on disk",
        "load_mb": "MB in memory after loading",
    }
    rows = []
    for key, label in names.items():
        both = [record[side].get(key) for side in ("now", "before")]
        rows.append([label, *("" if one is None or math.isnan(one) else f"{one:,.0f}" for one in both)])
    return markdown_table([f"{record['events']:,} events", "this version", "the version beside it"], rows)


SPEED: Mapping[str, tuple[str, Callable[[Json], str]]] = {
    "train_throughput": ("Training MMoE on Census-Income", _training),
    "two_tower_throughput": ("Training towers on MovieLens-1M, beside torch-rechub's DSSM example", _towers),
    "user_side_once": ("500 candidates for one user: the user side once, or written 500 times", _user_side),
    "request_latency": ("One request in process: 200 candidates, one thread", _request),
    "data_build": ("Building a data set from Parquet, a fresh process", _build),
    "loader": ("Batches of logged rows and of history windows", _loader),
    "bulk_lists": ("Ten of 10,000 items for 10,000 users, to Parquet", _lists),
    "dupn_step": ("A training step of DUPN's encoder, beside torch's LSTM of the same sizes", _dupn),
    "index_recall_latency": ("An index of 1,000,000 vectors", _index),
    "evaluation_speed": ("Exact evaluation, beside a bare matrix product and top-k", _evaluation),
}
"""Benchmark -> heading, and its table."""
