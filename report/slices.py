"""The parts of the traffic that an evaluation measured: those looked at first, the worst, and all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .values import Cell, Json, Row, Table, cell, interval, row, scalar, table, words

WORST = 3
"""Worst slices shown of each metric."""
FIRST_METRICS = 4
"""Metrics that a terminal shows slices of; the rest is on the page."""
HEADS = ("slice", "value", "size", "gap", "size × gap")


@dataclass(frozen=True)
class MetricSlices:
    """All slices of one metric, the costliest first."""

    metric: str
    slices: Table


@dataclass(frozen=True)
class SlicesView:
    """The columns looked at first, the worst slices of each metric, and all of them metric by metric."""

    columns: tuple[Table, ...]
    worst: Table
    metrics: tuple[MetricSlices, ...]


def slices_view(report: Json) -> SlicesView:
    """The section of an evaluation's `slices`, `all_slices` and `sliced_by`.

    Args:
        report: the JSON of `recsys evaluate`. Of each slice are read `metric`, `column`, `value`, `estimate`, `low`,
            `high`, `share`, `gap` and `cost`.
    """
    slices = _judged(report)
    return SlicesView(tuple(_column_tables(report)), table(HEADS, _worst(slices)), tuple(_by_metric(slices)))


def slice_tables(report: Json) -> Iterator[Table]:
    """The columns looked at first and the worst slices, as a terminal shows them."""
    yield from _column_tables(report, FIRST_METRICS)
    metrics = _metrics(report)[:FIRST_METRICS]
    worst = _worst([entry for entry in _judged(report) if entry["metric"] in metrics])
    if worst:
        caption = "worse than the whole by the gap; the costliest first: share of the traffic × gap"
        yield table(HEADS, worst, title="Worst slices", caption=caption)


def _metrics(report: Json) -> list[str]:
    """Metrics that slices are judged by."""
    known = (report.get("sliced_by") or {}).get("metrics")
    return list(known or dict.fromkeys(str(entry["metric"]) for entry in report.get("slices") or ()))


def _judged(report: Json) -> list[Json]:
    """Every slice of the metrics that slices are judged by."""
    metrics = _metrics(report)
    return [entry for entry in report.get("all_slices") or report.get("slices") or () if entry["metric"] in metrics]


def _column_tables(report: Json, most: int | None = None) -> Iterator[Table]:
    """A table for each column looked at first: a row for each value, a column for each metric."""
    slices = _judged(report)
    for column in (report.get("sliced_by") or {}).get("columns") or ():
        of_column = [entry for entry in slices if entry["column"] == column]
        metrics = [name for name in _metrics(report) if any(entry["metric"] == name for entry in of_column)]
        more = len(metrics) - len(metrics[:most])
        caption = "beside each value its interval and its share" + (
            f"; {more} more metrics on the page" if more else ""
        )
        found = {(entry["value"], entry["metric"]): entry for entry in of_column}
        for shown in _of_one_parting(of_column, metrics[:most]):
            values = dict.fromkeys(entry["value"] for entry in of_column if entry["metric"] in shown)
            rows = (row(str(value), *(_value(found.get((value, metric))) for metric in shown)) for value in values)
            heads = [words(column), *(words(name) for name in shown)]
            yield table(heads, rows, title=f"By {words(column)}", caption=caption)


def _of_one_parting(slices: Sequence[Json], metrics: Sequence[str]) -> list[list[str]]:
    """Metrics grouped by how their slices are parted: lists and rows may have other edges of the same tiers.

    "light (1 to 7)" of one metric and "light (1 to 90)" of another stand in tables of their own.
    """
    groups: list[tuple[list[str], dict[str, set[str]]]] = []
    for metric in metrics:
        tiers: dict[str, set[str]] = {}
        for entry in slices:
            if entry["metric"] == metric:
                tiers.setdefault(str(entry["value"]).partition(" (")[0], set()).add(str(entry["value"]))
        for members, known in groups:
            if all(not known.get(tier) or known[tier] & values for tier, values in tiers.items()):
                members.append(metric)
                for tier, values in tiers.items():
                    known[tier] = known.get(tier, set()) | values
                break
        else:
            groups.append(([metric], tiers))
    return [members for members, _ in groups]


def _worst(slices: Sequence[Json]) -> list[Row]:
    """The costliest slices of each metric, those only that are worse than the whole."""
    rows = []
    for metric in dict.fromkeys(str(entry["metric"]) for entry in slices):
        ordered = _costliest(slices, metric)[:WORST]
        costly = [entry for entry in ordered if (entry.get("cost") or 0.0) > 0]
        rows += [row(Cell(_name(entry), words(metric)), *_cells(entry)) for entry in costly]
    return rows


def _by_metric(slices: Sequence[Json]) -> Iterator[MetricSlices]:
    for metric in dict.fromkeys(str(entry["metric"]) for entry in slices):
        rows = [row(_name(entry), *_cells(entry)) for entry in _costliest(slices, metric)]
        yield MetricSlices(words(metric), table(HEADS, rows))


def _costliest(slices: Sequence[Json], metric: str) -> list[Json]:
    of_metric = [entry for entry in slices if entry["metric"] == metric]
    return sorted(of_metric, key=lambda entry: -(entry.get("cost") or 0.0))


def _name(entry: Json) -> str:
    return f"{words(str(entry['column']))}: {entry['value']}"


def _value(entry: Json | None) -> Cell:
    if entry is None or entry["estimate"] is None:
        return Cell(None)
    return Cell(scalar(entry["estimate"]), ", ".join(part for part in (_ends(entry), f"{entry['share']:.0%}") if part))


def _ends(entry: Json) -> str:
    low, high = entry.get("low"), entry.get("high")
    return "" if low is None or high is None else interval(low, high)


def _cells(entry: Json) -> list[Cell | str]:
    value = Cell(None if entry["estimate"] is None else scalar(entry["estimate"]), _ends(entry))
    return [value, f"{entry['share']:.0%}", cell(entry, "gap"), cell(entry, "cost")]
