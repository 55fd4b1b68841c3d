"""The tables of an evaluation over time folds: the cuts, and baselines and stages side by side over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .values import Block, Cell, Json, Row, Table, cell, interval, row, scalar, signed, table, words

CUT_HEADS = ("fold", "valid_from", "test_from", "end", "train_rows", "test_rows", "users", "items")
FIRST = ("recall", "ndcg")
"""Metrics that have a column, at the smallest cut-off that every system has."""


def fold_blocks(result: Json) -> Iterator[Block]:
    """The section `folds` of `pipeline.folds.evaluate_folds`, with the systems' figures over folds."""
    folds = result.get("folds") or {}
    if folds.get("cuts"):
        yield _cuts(folds["cuts"])
    if folds.get("comparison"):
        yield _systems(result, folds)


def _cuts(cuts: Sequence[Json]) -> Table:
    shown = [name for name in CUT_HEADS if any(cut.get(name) is not None for cut in cuts)]
    rows = (row(*(cell(cut, name) for name in shown)) for cut in cuts)
    caption = "each fold knows only the rows before its end, and trains on those before valid from; moments in UTC"
    return table([words(name) for name in shown], rows, title="Folds", caption=caption)


def _systems(result: Json, folds: Mapping[str, Any]) -> Table:
    """Mean and spread of each system, its last metric fold by fold, and its difference to the reference."""
    reference, compared = str(folds["reference"]), folds["comparison"]
    systems = {**(result.get("retrieval") or {}), **({"funnel": result["funnel"]} if result.get("funnel") else {})}
    known = dict.fromkeys(str(entry["metric"]) for entry in compared)
    metrics = [name for kind in FIRST for name in known if name.startswith(f"{kind}@")]
    cut = min((int(name.partition("@")[2]) for name in metrics), default=0)
    shown = [name for name in metrics if name.endswith(f"@{cut}")] or list(known)[:1]
    judged = shown[-1]
    found = {entry["system"]: entry for entry in compared if entry["metric"] == judged}
    heads = ["system", *(words(name) for name in shown), "folds", f"difference to {reference}", "95 % interval", "p"]
    rows = [
        row(
            name,
            *(_spread(values, metric) for metric in shown),
            " ".join("-" if one is None else f"{one:.4f}" for one in values.get(f"{judged}_folds") or ()),
            *_difference(found.get(name)),
        )
        for name, values in systems.items()
        if name == reference or name in found
    ]
    caption = (
        f"mean ± standard deviation between folds; folds and difference are of {words(judged)}; "
        "interval and p over users, all folds together, p after Holm's correction over all metrics"
    )
    return table(heads, rows, title="Systems over folds", caption=caption)


def _spread(values: Json, metric: str) -> Cell:
    if values.get(metric) is None:
        return Cell(None)
    deviation = values.get(f"{metric}_sd")
    return Cell(scalar(values[metric]) + ("" if deviation is None else f" ± {scalar(deviation)}"))


def _difference(entry: Json | None) -> Row:
    if entry is None:
        return row("", "", "")
    ends = None if entry["low"] is None else interval(entry["low"], entry["high"])
    difference = Cell(signed(entry["difference"]), level="strong" if entry["significant"] else "")
    return row(difference, Cell(ends), cell(entry, "p_holm"))
