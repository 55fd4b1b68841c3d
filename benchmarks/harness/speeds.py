"""The speed benchmarks of `docs/results` as markdown: a heading and a table each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from recsys.benchmarks.harness.books import markdown_table
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.recorded import origin


def speed_section(record: Json) -> str:
    """A speed benchmark: what it measures, its figures, its command and machine."""
    title, table = SPEED[record["benchmark"]]
    command = record.get("command", f"python benchmarks/speed/{record['benchmark']}.py --out FILE")
    return "\n\n".join([f"## {title}", table(record), f"```\n{command}\n```", origin(record)])


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


def _inputs(record: Json) -> str:
    return markdown_table(
        ["the shared bottom reads", "500 candidates of one user, CPU ms", "1,024 rows forward and back, CPU ms"],
        [[row["input"], f"{row['request_ms']:.1f}", f"{row['step_ms']:.0f}"] for row in record["rows"]],
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
            _asked(build.get("asked", {})),
            names[name],
            f"{one['seconds']:.1f}",
            f"{one['cpu_seconds']:.1f}",
            f"{one['phases']['build']['cpu_seconds']:.1f}",
            f"{one['peak_gib']:.2f}",
        ]
        for build in record["builds"]
        for name, one in build.items()
        if name in names
    ]
    heads = ["events", "the log", "", "seconds in all", "CPU seconds", "of which the build", "peak, GiB"]
    return markdown_table(heads, rows)


def _asked(asked: Json) -> str:
    """What is special about a log and its build; "" for Parquet in time order, built in one go."""
    words = [
        "CSV" if asked.get("csv") else "",
        "one bad row, left out" if asked.get("bad") else "",
        "out of time order" if asked.get("unsorted") else "",
        f"memory {asked['memory']}" if asked.get("memory") else "",
        f"{asked['append']:,.0f} more appended" if asked.get("append") else "",
        "nothing of it held out" if asked.get("append") and asked.get("held_out") == 0 else "",
    ]
    return ", ".join(word for word in words if word)


def _whole_run(record: Json) -> str:
    rows = [
        [f"`recsys {verb}`", *(f"{one[key] / 60:.1f}" for key in ("seconds", "cpu_seconds")), f"{one['peak_gib']:.1f}"]
        for verb in ("train", "build-index", "recommend")
        for one in [record[verb]]
    ]
    return markdown_table([f"{record['events']:,} events", "minutes", "CPU minutes", "peak, GiB"], rows)


def _killed(record: Json) -> str:
    trials = record["trials"]
    counted = {
        "trainings of two processes": len(trials),
        "of which one process was killed": sum(one["killed"] for one in trials),
        "that went on from a checkpoint": sum(bool(one["resumed"]) for one in trials),
        "that ended with the weights of an undisturbed one, bit for bit": sum(one["same_weights"] for one in trials),
        "whose run folder was absent or whole all the while": sum(one["whole_or_absent"] for one in trials),
    }
    return markdown_table(["", "count"], [[what, str(count)] for what, count in counted.items()])


def _tables(record: Json) -> str:
    rows = [
        [name, *(f"{times[key]:.1f}" for key in ("wall_ms", "cpu_ms", "least_ms"))]
        for name, times in record["steps"].items()
    ]
    ratios = "; ".join(f"{ratio:.2f} of {name}" for name, ratio in record["ratios"].items())
    return markdown_table(["ms a step", "wall", "CPU", "least CPU"], rows) + f"\n\nThe library takes {ratios}."


def _scaling(record: Json) -> str:
    names = {"this": "this version", "beside": "the version beside it"}
    keys = {"cpu_ms": ".1f", "optimizer_cpu_ms": ".1f", "weights_gib": ".3f", "building_gib": ".3f"}
    rows = [
        [
            row["model"],
            f"{row['size']:,}",
            names[row["checkout"]],
            *(format(row[key], form) for key, form in keys.items()),
        ]
        for row in sorted(record["steps"], key=lambda row: (row["model"], row["size"]))
    ]
    heads = ["model", "users, and items", "", "CPU ms a step", "of which the optimiser", "weights, GiB"]
    return markdown_table([*heads, "more while they are made, GiB"], rows)


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


def _processes(record: Json) -> str:
    rows = [
        [
            name,
            count,
            f"{one['wall_ms']:.1f}",
            f"{one['cpu_ms']:.1f}",
            f"{one['bytes'] / 1e6:.2f}",
            f"{one['speed_up']:.2f}",
            f"{one['bound']:.2f}",
        ]
        for name, by_count in record["rows"].items()
        for count, one in by_count.items()
    ]
    heads = ["step", "processes", "ms", "CPU ms of the busiest", "MB sent by each", "gain", "gain if nothing waited"]
    return markdown_table(heads, rows)


def _pieces(record: Json) -> str:
    rows = [
        [name, one["failed"], "", "", "", ""]
        if "failed" in one
        else [
            name,
            f"{one['wall_ms']:.1f}",
            f"{one['cpu_ms']:.1f}",
            f"{one['bytes'] / 1e6:.2f}",
            f"{one['memory'] / 1e9:.2f}",
            f"{one['loss_apart']:.0e}",
        ]
        for name, one in record["ways"].items()
    ]
    asked = record["asked"]
    budget = f", and no process may take more than {asked['budget']}" if asked["budget"] else ""
    size = f"{asked['rows']:,} rows of {asked['width']}, {asked['bytes'] / 1e9:.2f} GB with its sums"
    note = f"\n\nThe table: {size}{budget}."
    heads = ["", "ms a step", "CPU ms of the busiest", "MB sent by each", "GB a process", "losses apart from the first"]
    return markdown_table(heads, rows) + note


SPEED: Mapping[str, tuple[str, Callable[[Json], str]]] = {
    "train_throughput": ("Training MMoE on Census-Income", _training),
    "two_tower_throughput": ("Training towers on MovieLens-1M, beside torch-rechub's DSSM example", _towers),
    "user_side_once": ("500 candidates for one user: the user side once, or written 500 times", _user_side),
    "input_cost": ("What reading more costs a ranker: target attention and interaction layers", _inputs),
    "request_latency": ("One request in process: 200 candidates, one thread", _request),
    "data_build": ("Building a data set from Parquet, a fresh process", _build),
    "loader": ("Batches of logged rows and of history windows", _loader),
    "bulk_lists": ("Ten of 10,000 items for 10,000 users, to Parquet", _lists),
    "dupn_step": ("A training step of DUPN's encoder, beside torch's LSTM of the same sizes", _dupn),
    "index_recall_latency": ("An index of 1,000,000 vectors", _index),
    "table_step": ("A step of 20 tables of 1,000,000 x 16, batch 4,096", _tables),
    "step_scaling": ("A training step as the vocabularies grow", _scaling),
    "processes": ("A training step in one process and in two", _processes),
    "pieces": ("A step of a large table, whole in every process and in pieces", _pieces),
    "killed_workers": ("Trainings of which a process was killed", _killed),
    "whole_run": ("A log from end to end, one epoch of each stage", _whole_run),
    "evaluation_speed": ("Exact evaluation, beside a bare matrix product and top-k", _evaluation),
}
"""Benchmark -> heading, and its table."""
