"""Keeps the curve of variety that an evaluation drew: relevance against how unlike the items of a list are.

    recsys evaluate --run RUN --stage funnel --variety genres --json > curve.json
    python benchmarks/quality/record_variety.py curve.json --name movielens-1m --command "recsys evaluate ..."

A strength is worth its price here where it costs at most 1 % of NDCG and makes the items of a list, by the cosine of
their tower vectors, at least 10 % more unlike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recsys.benchmarks.harness.provenance import RESULTS, Json, provenance
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import run, say

PRICE, GAIN = 0.01, 0.10
HEADINGS = {
    "mmr": "maximal marginal relevance",
    "dpp": "greedy determinantal point process",
    "calibrated": "shares of the history",
    "none": "by score alone",
}


def points(curve: Json) -> dict[str, tuple[Json, dict[str, float]]]:
    """Point by name, with its figures and their relation to the list by score alone."""
    k, first = curve["k"], curve["points"][0]
    ndcg, unlike = f"ndcg@{k}", f"diversity@{k}"
    found = {}
    for point in curve["points"]:
        figures = {
            "ndcg": point[ndcg],
            "lost": 1.0 - point[ndcg] / first[ndcg],
            "unlike": point[unlike],
            "gained": point[unlike] / first[unlike] - 1.0,
            "entropy": point[f"entropy@{k}"],
        }
        found[f"{point['kind']}-{point['strength']:g}"] = (point, figures)
    return found


def worth_it(found: dict[str, tuple[Json, dict[str, float]]]) -> list[str]:
    """Points that cost little and gain much."""
    return [name for name, (_, one) in found.items() if one["lost"] <= PRICE and one["gained"] >= GAIN]


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("evaluation", type=Path, help="JSON of `recsys evaluate --variety COLUMN --json`")
    options.add_argument("--name", required=True, help="of the data: the file is variety-NAME.json")
    options.add_argument("--command", required=True, help="measures it again")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = options.parse_args()
    result = json.loads(args.evaluation.read_text(encoding="utf-8"))
    curve = result["variety"]
    found, k = points(curve), curve["k"]
    about = [
        f"Lists of {k} for {result['protocol']['users']:,} users under variety of each kind and strength; `calibrated`"
        f" and the entropy read the column `{curve['column']}`.",
        "Wanted: at most 1 % of NDCG lost, at least 10 % more distance. "
        + (", ".join(worth_it(found)) or "No point")
        + ".",
    ]
    columns = {
        "ndcg": f"NDCG@{k}",
        "lost": "share of it lost",
        "unlike": "1 - cosine of two items",
        "gained": "more of it",
        "entropy": f"entropy of {curve['column']}, bits",
    }
    book = Book(f"variety-{args.name}", f"Variety: {args.name}", about, columns, args.command, folder=args.out)
    told: Json = provenance()
    for name, (point, figures) in found.items():
        book.add(
            Record(
                variant=name,
                group=HEADINGS[point["kind"]],
                about=f"strength {point['strength']:g}",
                command=args.command,
                seeds=(1,),
                data=result["data"]["fingerprint"],
                settings={"k": k, "column": curve["column"]},
                per_seed={"1": figures},
                extra={name: value for name, value in point.items() if name.endswith("_ci")},
                **told,
            )
        )
    say(about[-1])


if __name__ == "__main__":
    run(main)
