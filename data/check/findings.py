"""What the numbers of a data report mean, in sentences, worst first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...base.column_auc import SUSPICIOUS
from ...base.finding import Finding, worst_first
from ..hashing import Collisions
from ..joins import Joined

SINGLE = 0.2
"""Share of users or items with one event from which it is worth a sentence."""
GAPS = 3
"""Gaps in time that get a sentence each, the longest first."""
DRIFT = 0.2
"""Total variation from which a drift is worth a sentence."""

CROWDED = 0.5
"""Share of training rows whose hashed value shares its table row, from which a collision report is a warning."""

_AFTERWARDS = re.compile(
    r"(play|watch|view|stay|dwell|listen|read|spent)[a-z]*_?(time|ms|sec|seconds|duration)|dwell|profile_stay"
)


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """Sentences on a report as `data_report` builds it: problems, then warnings, then notes."""
    return worst_first(_all(report))


def _all(report: Mapping[str, Any]) -> Iterable[Finding]:
    for note in report["notes"]:
        yield Finding("note", "source", note[0].upper() + note[1:] + ".")
    if report["dropped_rows"]:
        yield Finding("warning", "rows", f"{report['dropped_rows']:,} bad rows were dropped while reading.")
    for task, about in report["tasks"].items():
        yield from _task_findings(task, about)
    for one, other in report["echoes"]:
        yield Finding(
            "warning",
            other,
            f'Tasks "{one}" and "{other}" are the same in every row that has both: one of them tells nothing new.',
        )
    repeated = report["duplicates"].get("user_item_time", 0)
    if repeated:
        share = repeated / report["rows"]["events"]
        yield Finding(
            "warning" if share > 0.01 else "note",
            "rows",
            f"{repeated:,} rows ({share:.1%}) repeat the user, item and time of another row.",
        )
    if report["duplicates"].get("contradictory"):
        yield Finding(
            "warning",
            "rows",
            f"{report['duplicates']['contradictory']:,} rows share user, item and time with a row of another label: "
            "which one holds?",
        )
    yield from _activity_findings(report)
    yield from _time_findings(report.get("timeline"))
    yield from _split_findings(report["split"])
    for name, about in report["entities"].items():
        if about.get("unlisted"):
            join = Joined(name, about["seen"], about["listed"], about["unlisted"], about["unlisted_because"])
            yield Finding("problem" if join.unlisted == join.seen else "warning", name, join.sentence)
    for pair in report["overlap"]:
        yield Finding(
            "note",
            "split",
            f"{pair['rows']:,} {pair['later']} rows ({pair['share']:.2%}) lie before the end of {pair['earlier']}: as "
            "far as they do, this split borrows from the future.",
        )
    for part, about in report["parts"].items():
        for name in report["entities"]:
            rows = about[f"rows_of_unseen_{name}"]
            if rows > 0.05:
                yield Finding(
                    "note",
                    name,
                    f"{rows:.0%} of the {part} rows are of {name} unseen in train ({about[f'unseen_{name}']:.0%} of "
                    f"its {name}).",
                )
    for name, numbers in report["hashed"].items():
        collisions = Collisions(**numbers)
        crowded = collisions.rows_sharing > CROWDED
        mend = "; raise hash_buckets or min_count" if crowded else ""
        yield Finding("warning" if crowded else "note", name, f'Hashed feature "{name}": {collisions}{mend}.')
    for about in report["columns"]:
        yield from _column_findings(about)


def _task_findings(task: str, about: Mapping[str, Any]) -> Iterable[Finding]:
    if not about["rows"]:
        yield Finding("problem", task, f'Task "{task}" has no observed label in any row.')
    elif about["kind"] == "binary":
        if about["positives"] in (0, about["rows"]):
            only = 1 if about["positives"] else 0
            yield Finding("problem", task, f'Task "{task}" is {only} in every row: there is nothing to learn.')
        first = next(iter(about["parts"].values()), None)
        for part, rates in about["parts"].items():
            if first is not None and _shifted(first, rates):
                yield Finding(
                    "warning",
                    task,
                    f'Task "{task}" is 1 in {rates["rate"]:.2%} of the {part} rows, in train in {first["rate"]:.2%}: '
                    "probabilities learned on train will be off by as much.",
                )
            positives = round((rates["rate"] or 0) * rates["rows"])
            if rates["rows"] and 0 < positives < 100:
                yield Finding(
                    "note", task, f'Task "{task}" has only {positives} positives in {part}; its metrics will be loose.'
                )


def _activity_findings(report: Mapping[str, Any]) -> Iterable[Finding]:
    outliers = report.get("outliers") or {"users": 0}
    if outliers["users"]:
        worst = outliers["worst"][0]
        many = outliers["users"] > 1
        yield Finding(
            "warning" if outliers["share"] > 0.01 else "note",
            "users",
            f"{outliers['users']:,} user{'s' if many else ''} with {outliers['share']:.1%} of the events "
            f'{"do" if many else "does"} not act like a person: "{worst["user"]}" has {"; ".join(worst["why"])}.',
        )
    for name, about in report["entities"].items():
        if about["single_share"] > SINGLE:
            yield Finding(
                "note",
                name,
                f"{about['single']:,} of the {about['seen']:,} {name} with events ({about['single_share']:.0%}) have "
                "one event only: their own rows of a table can learn next to nothing; give them features.",
            )


def _time_findings(timeline: Mapping[str, Any] | None) -> Iterable[Finding]:
    for gap in sorted((timeline or {"gaps": ()})["gaps"], key=lambda one: -one["steps"])[:GAPS]:
        what = f"are only {gap['events']:,} events" if gap["events"] else "is no event"
        start, end = (gap[edge][:16].replace("T", " ") for edge in ("from", "to"))
        yield Finding("warning", "time", f"From {start} to {end} UTC there {what}: did the logging stop?")


def _split_findings(split: Mapping[str, Any]) -> Iterable[Finding]:
    configured, suits = split["configured"], split["kind"]
    if configured in ("", suits, "column"):
        return
    if configured == "random" and split.get("time"):
        yield Finding(
            "warning",
            "split",
            "A random split of rows with times trains on what came after the test rows; "
            f'kind = "{suits}" suits: {split["why"]}.',
        )
    elif suits == "random" and configured == "leave_last":
        yield Finding(
            "warning",
            "split",
            f"Every last row would test on the highest item id: {split['why']}. Name a column of times, or set "
            'kind = "random".',
        )
    else:
        yield Finding("note", "split", f'Split kind "{suits}" suits better than "{configured}": {split["why"]}.')


def _shifted(train: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether a rate moved by more than a fifth, and by more than chance."""
    if not train["rows"] or not later["rows"] or train["rate"] is None or later["rate"] is None:
        return False
    rate, moved = train["rate"], abs(later["rate"] - train["rate"])
    deviation = (rate * (1 - rate) * (1 / train["rows"] + 1 / later["rows"])) ** 0.5
    return bool(moved > 0.2 * rate and moved > 4 * deviation)


def _column_findings(about: Mapping[str, Any]) -> Iterable[Finding]:
    name = f'Column "{about["column"]}" of the {about["table"]} table'
    if not about["used"]:
        return
    if about["distinct"] <= 1:
        yield Finding(
            "warning", about["column"], f"{name} has {('no', 'only one')[about['distinct']]} value: it tells nothing."
        )
    elif about["missing"] > 0.5:
        yield Finding("note", about["column"], f"{name} is missing in {about['missing']:.0%} of the rows.")
    suspects = {task: auc for task, auc in about["auc"].items() if auc >= SUSPICIOUS and task not in about["by_chance"]}
    for task, auc in suspects.items():
        yield Finding(
            "problem", about["column"], f"{name} alone predicts {task} with AUC {auc:.3f}: known only after the event?"
        )
    for task in about["only_with"]:
        if task not in suspects:
            yield Finding(
                "problem",
                about["column"],
                f"{name} is other than 0 only where {task} is 1: known only after the event?",
            )
    if about["table"] == "events" and not suspects and not about["only_with"] and _AFTERWARDS.search(about["column"]):
        yield Finding("warning", about["column"], f"{name} sounds like a measurement: known only after the event?")
    for part, numbers in about.get("drift", {}).items() if not about["id"] else ():  # said of unseen users and items
        if numbers["total_variation"] > 0.95:
            yield Finding(
                "warning", about["column"], f"{name} has next to no value in common between train and {part}."
            )
        elif numbers["total_variation"] > DRIFT:
            yield Finding(
                "note",
                about["column"],
                f"{name} drifts: {numbers['total_variation']:.0%} of its mass moves between train and {part} "
                f"(PSI {numbers['psi']:.2f}).",
            )
