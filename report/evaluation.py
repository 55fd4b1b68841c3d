"""The tables of an evaluation: what a terminal prints and a notebook shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .folds import fold_blocks
from .slices import slice_tables
from .values import (
    Block,
    Cell,
    Json,
    Line,
    Table,
    cell,
    facts,
    grid,
    is_single,
    names_of,
    row,
    scalar,
    signed,
    table,
    words,
)
from .variety import variety_table

HEADLINES = (("recall", "ndcg", "mrr", "coverage"), ("recall",))
"""Retrieval metrics shown at the smallest cut-off, and at the largest; the rest is in JSON and page."""
BINARY_METRICS = ("auc", "gauc", "logloss", "ece", "predicted_to_observed", "positives", "rows")
REGRESSION_METRICS = ("rmse", "mae", "r2", "spearman", "predicted_to_observed", "rows")
"""Ranking metrics in the order of their columns, for tasks of each kind."""
SHORT = ("predicted_to_observed",)
"""Ranking metrics that only the page has a column for."""


def evaluation_blocks(result: Json) -> list[Block]:
    """The evaluation of a run: protocol, a table for each stage with 95 % intervals, and the faults that were found.

    Args:
        result: the JSON of `recsys evaluate`; what it lacks is left out.
    """
    return list(_blocks(result))


def _blocks(result: Json) -> Iterator[Block]:
    protocol = result.get("protocol") or {}
    settings = [f"{words(name)} {scalar(value)}" for name, value in protocol.items() if is_single(name, value)]
    if settings:
        yield Line("protocol: " + ", ".join(settings), "soft")
    yield from (Line(f"note: {note}", "soft") for note in protocol.get("notes") or ())
    yield from fold_blocks(result)
    if result.get("retrieval"):
        yield retrieval_table(result["retrieval"])
    if result.get("similar"):
        yield similar_table(result["similar"], first=True)
    if result.get("index"):
        yield facts(result["index"], title="Index")
    if result.get("ranking"):
        yield from ranking_tables(result["ranking"], leave_out=SHORT)
    if result.get("blend"):
        yield blend_table(result["blend"])
    funnel = result.get("funnel")
    if funnel:
        yield facts({name: value for name, value in funnel.items() if name != "verdict"}, title="Funnel")
        yield from stages_table(funnel.get("stages") or [])
        yield from contributions_table(funnel.get("sources") or {})
        if funnel.get("verdict"):
            yield Line(str(funnel["verdict"]))
    if result.get("variety"):
        yield variety_table(result["variety"])
    yield from slice_tables(result)
    for finding in result.get("findings") or ():
        yield Line(finding["sentence"], "error" if finding["severity"] == "error" else "warning", finding["severity"])


def retrieval_table(systems: Mapping[str, Json]) -> Table:
    """The headline metrics of each retriever."""
    names = names_of(systems.values())
    headlines = _headlines(names)
    return grid(systems, headlines, "retriever", title="Retrieval", caption=_left_out(len(names) - len(headlines)))


def similar_table(similar: Json, first: bool = False) -> Table:
    """The next item given the last one alone, by who names similar items; the headline metrics where `first`."""
    sources = similar["sources"]
    caption = f"the next item among those like the last one, {similar['requests']:,} users"
    shown = [name for name in names_of(sources.values()) if name.partition("@")[2].isdigit()]
    if first:
        named = _headlines(shown)
        caption, shown = "; ".join(part for part in (caption, _left_out(len(shown) - len(named))) if part), named
    return grid(sources, shown, "similar items by", title="Similar items", caption=caption)


def ranking_tables(tasks: Mapping[str, Json], leave_out: Sequence[str] = ()) -> Iterator[Table]:
    """The tasks of each kind: binary ones, and regression tasks, which have metrics of their own."""
    kinds = {"Ranking": BINARY_METRICS, "Ranking, regression tasks": REGRESSION_METRICS}
    for (title, metrics), regression in zip(kinds.items(), (False, True), strict=True):
        of_kind = {task: values for task, values in tasks.items() if ("rmse" in values) == regression}
        if not of_kind:
            continue
        names = names_of(of_kind.values())
        shown = [name for name in metrics if name in names and name not in leave_out]
        caption = _left_out(len(names) - len(shown)) if leave_out else ""
        yield grid(of_kind, shown, "task", title=title, caption=caption)


def blend_table(blend: Json) -> Table:
    """The weights that make the lists; of a search also what they gained where they were chosen."""
    caption = f"{blend['kind']}, chosen by {blend['chosen_by']}"
    if "objective" in blend:
        by_default = scalar(blend["default_value"])
        caption += f": {blend['objective']} {scalar(blend['value'])}, {by_default} by default"
    rows = (row(task, scalar(float(weight))) for task, weight in blend["weights"].items())
    return table(["task", "weight"], rows, title="Blend", caption=caption)


def stages_table(stages: Sequence[Json]) -> Iterator[Table]:
    """What each stage keeps: a row for each stage, whichever columns the evaluation gave them."""
    if stages:
        heads = names_of(stages)
        rows = (row(*(cell(stage, head) for head in heads)) for stage in stages)
        yield table([words(head) for head in heads], rows, title="Stages")


def contributions_table(sources: Mapping[str, Json]) -> Iterator[Table]:
    """What each of several retrievers contributes to the candidates and to the hits."""
    if len(sources) < 2:
        return
    every = names_of(sources.values())
    kinds = (
        "credit_of_candidates",
        "recall_lost",
        "recall_gain",
        "credit_of_list@",
        "credit_of_hits@",
        "share_of_hits_alone@",
    )
    shown = [name for kind in kinds for name in every if name.startswith(kind)]
    caption = "credit divides what several named evenly among them; alone is what nobody else named"
    yield grid(sources, shown, "retriever", title="Sources", caption=caption)


def comparison_blocks(result: Json) -> list[Block]:
    """Paired differences to the first run, one table a run; differences that are no chance are strong."""
    blocks: list[Block] = [Line(f"baseline: {result['baseline']}", "strong")]
    blocks += [differences_table(rows, title=run) for run, rows in result["comparisons"].items()]
    return blocks


def differences_table(rows: Sequence[Json], *, title: str = "") -> Table:
    """Paired differences of one run to the baseline."""
    heads = ["metric", "baseline", "this run", "difference", "95 % interval", "p", "smallest visible"]
    cells = [
        row(
            words(str(entry["metric"])),
            cell(entry, "a"),
            cell(entry, "b"),
            Cell(signed(entry["difference"]), level="strong" if entry["significant"] else ""),
            Cell(None if entry["low"] is None else f"{signed(entry['low'])} .. {signed(entry['high'])}"),
            cell(entry, "p_holm"),
            cell(entry, "smallest_visible"),
        )
        for entry in rows
    ]
    caption = "bold: p below 0.05 after Holm's correction over all metrics"
    return table(heads, cells, title=title, caption=caption)


def _headlines(names: Sequence[str]) -> list[str]:
    """The retrieval metrics of `HEADLINES` among those there are."""
    cuts = sorted({int(name.partition("@")[2]) for name in names if name.partition("@")[2].isdigit()})
    chosen = [
        f"{kind}@{cut}" for kinds, cut in zip(HEADLINES, (cuts[:1] or [0]) + cuts[-1:], strict=False) for kind in kinds
    ]
    return [name for name in dict.fromkeys(chosen) if name in names]


def _left_out(count: int) -> str:
    return f"{count} more in the JSON and on the page" if count else ""
