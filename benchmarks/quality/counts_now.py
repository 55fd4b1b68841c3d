"""What counts of the whole log are worth to tomorrow's requests: KuaiRand, day by day.

A run that learned from the days before the last two answers the requests of the next day. Its histories know the two
days it was validated and tested on. Its counts either stand as training left them (`training`) or know these days too
(`now`, as `recsys recommend` answers). The ranker, its histories and the judged rows are the same; only the count
statistics of the judged rows differ. Means are over the test days.

    python benchmarks/quality/counts_now.py --seeds 1,2,3
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.base.arrays import I64
from recsys.benchmarks.harness.lab import paragraphs
from recsys.benchmarks.harness.paired import Labelled, row_metrics
from recsys.benchmarks.harness.provenance import provenance
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, run, say, start
from recsys.benchmarks.quality.ranking_inputs import variants
from recsys.benchmarks.quality.ranking_variants import RECIPES, ranking_config
from recsys.benchmarks.quality.replay import DAYS, Days
from recsys.data.dataset import Dataset
from recsys.data.encoding.counts import CountTable, encode_counts
from recsys.data.encoding.groups import combine
from recsys.data.packed import Packed
from recsys.data.split import Part
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import build_training, fit_ranker

HELD_OUT = 2
"""Days of validation and test between the end of training and the day of the requests."""
ROWS = {
    "training": "counts as they stood at the end of training",
    "now": "counts of every row of the log, as histories have them",
}


def with_counts(dataset: Dataset, tables: Sequence[CountTable], rows: I64) -> Dataset:
    """The data set with the count statistics of some event rows read from other tables."""
    events = dataset.events
    of = {"user": events.users[rows], "item": events.items[rows], "context": rows}
    sizes = dataset.encoders.sizes()
    changed: dict[str, Packed] = {}
    for name, before, counts, derived in (
        ("row_query", "context", "query_counts", "query_derived"),
        ("row_item", "", "item_counts", "item_derived"),
    ):
        layouts = [dataset.sides[side] for side in (before, counts, derived) if side in dataset.sides]
        block = getattr(dataset, name).whole()
        for table in tables:
            if table.names[0] not in dataset.sides[counts].categorical:
                continue
            keys = [(key, dataset.config.feature(key).side) for key in table.spec.keys]
            statistics = table.lookup(combine([dataset.key_codes[key][of[side]] for key, side in keys], table.sizes))
            columns = list(zip(table.names, statistics.T, strict=True))
            encoded = encode_counts(columns, dataset.encoders, len(rows))
            for kind, values in (("categorical", encoded.categorical), ("numeric", encoded.numeric)):
                names = [column for layout in layouts for column in getattr(layout, kind)]
                places = [names.index(column) for column in table.names]
                getattr(block, kind)[rows[:, None], places] = values
        changed[name] = Packed.of(block, [sizes[column] for layout in layouts for column in layout.categorical])
    return replace(dataset, row_query=changed["row_query"], row_item=changed["row_item"])


def measure(session: Session, days: Days, day: int, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of one day under both."""
    dataset = days.build("held out", 0, day, day, valid=HELD_OUT)
    recipe, tasks = RECIPES["kuairand"], dataset.task_names
    config = ranking_config(variants(recipe, tasks, True)["shared_bottom"], recipe, tasks, recipe.width)
    epochs = 1 if session.smoke else config.fit.epochs
    config = config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": epochs, "metric": ""})})
    runtime = session.runtime(seed)
    ranker = fit_ranker(build_training(dataset, config, runtime, seed), config, runtime, seed).ranker
    rows = dataset.rows(Part.TEST)
    known = dataset.counts_with(np.flatnonzero(dataset.events.parts == Part.VALID))
    labelled = Labelled.of(dataset, Part.TEST)
    found = {}
    for name, counts in (("training", dataset.counts), ("now", known)):
        asked = with_counts(dataset, counts, rows.numpy())
        found[name] = row_metrics(labelled, score_rows(ranker, asked, rows))
    return found


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [])
    options.add_argument("--first", type=int, default=7, help="first day of requests, the log's first being 0")
    options.add_argument("--last", type=int, default=DAYS - 1, help="last day of requests (default: %(default)s)")
    session = start(options)
    args = session.args
    if args.list:
        print("\n".join(ROWS))
        return
    days, began = Days(session), time.process_time()
    asked = range(args.first, (args.first + 1 if session.smoke else args.last) + 1)
    found = {(day, seed): measure(session, days, day, seed) for day in asked for seed in session.seeds}
    first = next(iter(found.values()))["now"]
    names = [name for name in first if all(name in one for pair in found.values() for one in pair.values())]
    columns = {"auc": "AUC, mean", "gauc": "GAUC, mean", "logloss": "log-loss, mean"}
    columns |= {name: name.replace("/", " ") for name in names if name.startswith(("auc/", "gauc/"))}
    title = "What counts of the whole log are worth: KuaiRand-Pure, day by day"
    book = Book("counts-now-kuairand", title, paragraphs(__doc__), columns, session.command, folder=args.out)
    for variant, about in ROWS.items():
        per_seed = {
            str(seed): {name: float(np.mean([found[day, seed][variant][name] for day in asked])) for name in names}
            for seed in session.seeds
        }
        by_day = [
            {name: float(np.mean([found[day, seed][variant][name] for seed in session.seeds])) for name in names}
            for day in asked
        ]
        say(
            f"{variant}: "
            + " ".join(f"{name} {np.mean([one[name] for one in per_seed.values()]):.5f}" for name in columns)
        )
        book.add(
            Record(
                variant=variant,
                group="counts",
                about=about,
                command=session.command_of(variant),
                seeds=session.seeds,
                data=days.read[1].fingerprint,
                settings={"held_out_days": HELD_OUT, "first": asked[0], "last": asked[-1]},
                per_seed=per_seed,
                extra={"by_day": by_day},
                **provenance(),
            )
        )
    say(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    run(main)
