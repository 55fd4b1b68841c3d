"""The data report: what a careful colleague would tell you about a log before you train on it.

Rates, missing values, duplicates, cardinalities, drift between the parts, overlap in time, strangers among the users
and items of the test, and columns that seem to know the label. The numbers come as a JSON-ready dict; the findings in
it are sentences, worst first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64, Floats
from ...base.column_auc import beyond_chance, column_auc
from ..hashing import Collisions
from ..joins import joined
from ..reading.columns import as_strings
from ..reading.tables import BadRows, Tables
from .activity import concentration, outlier_users
from .advice import split_advice
from .file_order import sorted_by_item
from .findings import findings
from .profile import Profile, buckets, comes_only_with, drift, profile
from .timeline import timeline

Labels = Mapping[str, Floats]


def data_report(
    tables: Tables,
    *,
    user: str = "",
    item: str = "",
    times: Floats | None = None,
    labels: Labels | None = None,
    parts: Mapping[str, I64] | None = None,
    features: Iterable[tuple[str, str]] | None = None,
    ignore: Iterable[str] = (),
    dropped: BadRows | None = None,
    split: str = "",
    hashed: Mapping[str, Collisions] | None = None,
) -> dict[str, Any]:
    """Look the tables over.

    Args:
        tables: as read.
        user: the user id column of events and users; empty where there are no users.
        item: the item id column of events and items; empty where there are no items.
        times: float [R] seconds since 1970 of the events, in file order.
        labels: task -> float [R], NaN where unobserved; binary ones hold 0 and 1 only.
        parts: `train` and the later parts, in that order -> row numbers of the events, in file order.
        features: (table, column) pairs the models read; by default every column but ids and `ignore`.
        ignore: event columns that are no input, such as label columns, when `features` is not given.
        dropped: rows that were dropped while reading.
        split: kind of the split that made the parts; empty where none was configured.
        hashed: feature with a fixed number of table rows -> how often its training values share one.

    Returns:
        A dict of plain numbers, strings, lists and dicts; `findings` holds {level, about, message}, worst first.
    """
    labels, parts = labels or {}, parts or {}
    events = tables.events
    given = [name for name in ("events", "users", "items") if getattr(tables, name) is not None]
    ids = {name: as_strings(tables, "events", key) for name, key in (("users", user), ("items", item)) if key}
    codes = {name: profile(column, names=True) for name, column in ids.items()}
    report: dict[str, Any] = {
        "rows": {name: tables.table(name).num_rows for name in given},
        "files": {name: str(tables.origin[name]) for name in given},
        "fingerprint": tables.fingerprint,
        "notes": list(tables.notes),
        "dropped_rows": dropped.count() if dropped else 0,
        "tasks": {name: _task(values, parts) for name, values in labels.items()},
        "echoes": _echoes(labels),
        "duplicates": _duplicates(codes, times, labels, events.num_rows),
        "entities": {name: _entity(tables, name, {"users": user, "items": item}[name], codes[name]) for name in codes},
        "parts": {name: _part(rows, parts, codes, times) for name, rows in parts.items()},
        "overlap": _overlap(parts, times),
        "timeline": timeline(times, labels) if times is not None and len(times) else None,
        "outliers": outlier_users(codes["users"], times) if "users" in codes else None,
        "split": {
            "configured": split,
            **split_advice(
                _codes(codes, "users"),
                _codes(codes, "items"),
                times,
                by_item=times is None and len(ids) == 2 and sorted_by_item(ids["users"], ids["items"]),
            ),
        },
        "hashed": {name: asdict(collisions) for name, collisions in (hashed or {}).items()},
    }
    rows_of = {name: _lookup(tables, name, {"users": user, "items": item}[name], ids[name]) for name in codes}
    wanted = None if features is None else set(features)
    skip = {user, item, *ignore} if wanted is None else set()
    report["columns"] = [
        _column(
            tables, table, column, keys=(user, item), rows=rows_of.get(table), parts=parts, labels=labels, used=used
        )
        for table in given
        for column in tables.table(table).column_names
        for used in [(table, column) in wanted if wanted is not None else column not in skip]
        if table == "events" or table in rows_of
    ]
    report["findings"] = [
        {"level": finding.level, "about": finding.about, "message": finding.sentence} for finding in findings(report)
    ]
    return report


def _codes(columns: Mapping[str, Profile], name: str) -> I64 | None:
    return columns[name].codes if name in columns else None


def _task(values: Floats, parts: Mapping[str, I64]) -> dict[str, Any]:
    def rates(chosen: Floats) -> dict[str, Any]:
        seen = chosen[~np.isnan(chosen)]
        return {"rows": len(seen), "rate": float(seen.mean()) if seen.size else None}

    seen = values[~np.isnan(values)]
    binary = bool(np.isin(seen, (0, 1)).all())
    about = {"kind": "binary" if binary else "number", **rates(values), "unobserved": int(len(values) - len(seen))}
    if binary:
        about["positives"] = int(seen.sum())
    else:
        about |= {"min": float(seen.min()), "max": float(seen.max()), "zeros": float((seen == 0).mean())}
    return {**about, "parts": {name: rates(values[rows]) for name, rows in parts.items()}}


def _echoes(labels: Labels) -> list[list[str]]:
    """Pairs of tasks whose labels are the same in every row that has both."""
    names, found = list(labels), []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            both = ~np.isnan(labels[one]) & ~np.isnan(labels[other])
            if both.any() and np.array_equal(labels[one][both], labels[other][both]):
                found.append([one, other])
    return found


def _duplicates(codes: Mapping[str, Profile], times: Floats | None, labels: Labels, rows: int) -> dict[str, int]:
    """Rows beyond the first of their kind; with times also `contradictory`, repeated rows whose labels differ."""
    if set(codes) != {"users", "items"}:
        return {}
    pair = codes["users"].codes * (len(codes["items"].values) + 1) + codes["items"].codes
    distinct, pair = np.unique(pair, return_inverse=True)
    found = {"user_item": rows - len(distinct)}
    if times is not None:
        moments, moment = np.unique(times, return_inverse=True)
        kinds, kind = np.unique(pair.astype(np.int64) * len(moments) + moment, return_inverse=True)
        found["user_item_time"] = rows - len(kinds)
        differs = np.zeros(len(kinds), dtype=bool)
        for values in labels.values() if len(kinds) < rows else ():
            seen = ~np.isnan(values)
            low, high = np.full(len(kinds), np.inf), np.full(len(kinds), -np.inf)
            np.minimum.at(low, kind[seen], values[seen])
            np.maximum.at(high, kind[seen], values[seen])
            differs |= low < high
        found["contradictory"] = int(differs[kind].sum())
    return found


def _entity(tables: Tables, name: str, key: str, seen: Profile) -> dict[str, Any]:
    """How many users (or items) there are, and how the events fall on them."""
    counts = np.bincount(seen.codes, minlength=len(seen.values) + 1)[1:]
    marks = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
    top = np.sort(counts)[::-1][: max(1, len(counts) // 100)].sum()
    about: dict[str, Any] = {
        "seen": len(counts),
        "events_each": {mark: float(np.quantile(counts, at)) for mark, at in marks.items()},
        "share_of_top_percent": float(top / max(counts.sum(), 1)),
        **concentration(counts),
    }
    if getattr(tables, name) is not None:
        join = joined(tables, name, key)
        silent = join.listed - (join.seen - join.unlisted)
        about |= {"listed": join.listed, "unlisted": join.unlisted, "silent": silent, "unlisted_because": join.why}
    return about


def _part(rows: I64, parts: Mapping[str, I64], codes: Mapping[str, Profile], times: Floats | None) -> dict[str, Any]:
    first = next(iter(parts.values()))
    about: dict[str, Any] = {"rows": len(rows)}
    if times is not None and len(rows):
        about |= {"from": _iso(float(times[rows].min())), "to": _iso(float(times[rows].max()))}
    for name, column in codes.items():
        here = np.unique(column.codes[rows])
        new = ~np.isin(here, column.codes[first])
        about[name] = len(here)
        about[f"unseen_{name}"] = float(new.mean()) if len(here) else 0.0
        about[f"rows_of_unseen_{name}"] = float(np.isin(column.codes[rows], here[new]).mean()) if len(rows) else 0.0
    return about


def _overlap(parts: Mapping[str, I64], times: Floats | None) -> list[dict[str, Any]]:
    """For each pair of parts, the rows of the later one that lie before the end of the earlier one."""
    found = []
    names = [name for name, rows in parts.items() if len(rows)]
    for at, earlier in enumerate(names if times is not None else ()):
        for later in names[at + 1 :]:
            assert times is not None
            before = int((times[parts[later]] <= times[parts[earlier]].max()).sum())
            if before:
                share = before / len(parts[later])
                found.append({"earlier": earlier, "later": later, "rows": before, "share": share})
    return found


def _lookup(tables: Tables, name: str, key: str, ids: pa.Array) -> I64 | None:
    """`[R]` row of the users (items) table of each event, -1 where it has none; None without such a table."""
    if getattr(tables, name) is None:
        return None
    at = pc.fill_null(pc.index_in(ids, value_set=as_strings(tables, name, key)), -1)
    rows: I64 = at.to_numpy(zero_copy_only=False).astype(np.int64)
    return rows


def _column(
    tables: Tables,
    table: str,
    name: str,
    *,
    keys: Iterable[str],
    rows: I64 | None,
    parts: Mapping[str, I64],
    labels: Labels,
    used: bool,
) -> dict[str, Any]:
    column = profile(tables.table(table).column(name), names=name in keys, decimal=tables.notation.decimal)
    counts = np.bincount(column.codes, minlength=len(column.values) + 1)
    about: dict[str, Any] = {
        "table": table,
        "column": name,
        "kind": column.kind,
        "missing": float(counts[0] / len(column.codes)),
        "distinct": len(column.values),
        "used": used,
        "id": name in keys,
    }
    if len(column.values):
        top = int(np.argmax(counts[1:]))
        about |= {"top": str(column.values[top].as_py()), "top_share": float(counts[top + 1] / len(column.codes))}
    if not used:
        return about
    if rows is not None:
        column = column.take(rows)
    if len(parts) > 1:
        (_, first), *others = parts.items()
        coarse = buckets(column, first)
        about["drift"] = {
            part: dict(zip(("total_variation", "psi"), drift(coarse, first, rows), strict=True))
            for part, rows in others
            if len(rows)
        }
    binary = {task: values for task, values in labels.items() if np.isin(values[~np.isnan(values)], (0, 1)).all()}
    about["auc"] = {task: column_auc(column.codes, column.numbers, values) for task, values in binary.items()}
    about["by_chance"] = [task for task, auc in about["auc"].items() if not beyond_chance(auc, binary[task])]
    about["only_with"] = [task for task, values in binary.items() if comes_only_with(column, values)]
    return about


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
