"""The parts of Meituan's ranker one by one: equal-frequency numbers, the missing-value layer, the KL bound.

The rule, written before any result: **a part is worth having where its difference to the row without it is above 0
with its whole interval, on the task it is for.** Nothing is chosen here by test figures.

Protocol. Data, split, recipe and size of the ranking tables (`ranking.py`); the ranker is `meituan`, two epochs on
KuaiRand, four on Census-Income. Neither data set has a missing number, so for the missing-value layer three in ten
numbers of Census-Income are removed at random, in all parts alike, and the buckets of numbers are left out (a bucket
says 'missing' by itself): the layer against zero, which is where a learned value starts. The bound binds p(click)
p(long view | click) to p(long view), on KuaiRand; Census-Income has no chain of tasks. Differences are means over the
seeds with the 95 % interval over users, or rows.

    python benchmarks/quality/meituan.py --data census --seeds 1,2,3
    python benchmarks/quality/meituan.py --data kuairand --seeds 1,2,3
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from recsys.benchmarks.harness.finished import Arrays, Done, of_seeds
from recsys.benchmarks.harness.paired import Labelled, difference, row_metrics
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.harness.sources import load
from recsys.benchmarks.quality.ranking import PARTS, SOURCES, TITLES, few_rows, part_of, with_conversion
from recsys.benchmarks.quality.ranking_variants import (
    RECIPES,
    Table,
    Variant,
    dense_parameters,
    fit_width,
    meituan,
    ranking_config,
)
from recsys.data.dataset import Dataset
from recsys.data.schema import DataConfig
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import train_ranker

HOLES = 0.3
"""Share of the numbers removed."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        about: what it is, in a line.
        numbers: changes of every numeric feature and of every count.
        holes: whether numbers are removed; `zero` leaves none for the layer to fill.
        chain: whether the long view given the click is a task too.
        kl: weight of the KL bound.
        versus: row that the difference is taken from; empty: none.
        data: data set it is measured on.
    """

    about: str
    numbers: Table = field(default_factory=dict)
    holes: str = ""
    chain: bool = False
    kl: float = 0.0
    versus: str = ""
    data: str = "census"


EQUAL: Table = {"scale": "equal_frequency"}
ALONE: Table = {"bins": 0}
BOTH: Table = {**EQUAL, **ALONE}
KUAIRAND = "kuairand_meituan"
CHAIN = "kuairand_chain"
ROWS = {
    "meituan": Row("numbers as they ship: buckets, and log1p standardised"),
    "equal_frequency": Row("buckets, and equal-frequency numbers", EQUAL, versus="meituan"),
    "numbers_alone": Row("no buckets: log1p standardised numbers alone", ALONE),
    "equal_frequency_alone": Row("no buckets: equal-frequency numbers alone", BOTH, versus="numbers_alone"),
    "holes_zero": Row("three in ten numbers removed, no buckets: 0 in their place", BOTH, "zero"),
    "holes_learned": Row("the same, the missing-value layer in their place", BOTH, "nan", versus="holes_zero"),
    KUAIRAND: Row("counts as they ship: buckets, and log1p standardised", data="kuairand"),
    "kuairand_equal_frequency": Row("buckets, and equal-frequency counts", EQUAL, versus=KUAIRAND, data="kuairand"),
    CHAIN: Row("with the task long view given click", chain=True, versus=KUAIRAND, data="kuairand"),
    "kuairand_kl_0.1": Row("the same, KL bound of weight 0.1", chain=True, kl=0.1, versus=CHAIN, data="kuairand"),
}


def changed(config: DataConfig, numbers: Table) -> DataConfig:
    """The `[data]` section with every number fed otherwise."""
    features = [spec.model_copy(update=numbers) if spec.kind == "numeric" else spec for spec in config.features]
    scale = {key: value for key, value in numbers.items() if key == "scale"}
    counts = [spec.model_copy(update=scale) for spec in config.counts]
    return config.model_copy(update={"features": tuple(features), "counts": tuple(counts)})


def with_holes(dataset: Dataset, filled: bool) -> Dataset:
    """Three in ten numbers of the rows removed at random, the same ones always; 0 in their place where `filled`."""
    table = dataset.row_query
    removed = torch.rand(table.numbers.shape, generator=torch.Generator().manual_seed(7)) < HOLES
    numbers = torch.from_numpy(table.numbers).masked_fill(removed, 0.0 if filled else float("nan"))
    return replace(dataset, row_query=replace(table, numbers=numbers.numpy()))


@dataclass
class Lab:
    """A data set, read once for every way of feeding its numbers."""

    session: Session
    datasets: dict[str, Dataset] = field(default_factory=dict)

    def dataset(self, row: Row) -> Dataset:
        """The rows as the table's row reads them."""
        key = f"{row.data} {sorted(row.numbers.items())}"
        if key not in self.datasets:
            source = SOURCES[row.data]
            self.datasets[key] = load(replace(source, describe=lambda config: changed(config, row.numbers)))[1]
            if self.session.smoke:
                self.datasets[key] = few_rows(self.datasets[key], 3000)
        dataset = self.datasets[key]
        if row.holes:
            dataset = with_holes(dataset, row.holes == "zero")
        return with_conversion(dataset) if row.chain else dataset

    def record(self, name: str, seeds: Sequence[int]) -> tuple[Record, dict[int, Arrays]]:
        """Train what is missing and gather the seeds."""
        row = ROWS[name]
        dataset, recipe = self.dataset(row), RECIPES[row.data]
        reported = tuple(task for task in dataset.task_names if task != "long_given_click")
        labelled = {part: Labelled.of(self.dataset(replace(row, chain=False)), which) for part, which in PARTS.items()}
        bound: Table = {"kl_bound": ["click", "long_given_click", "long_view"], "kl_weight": row.kl} if row.kl else {}
        epochs = {"fit": {"epochs": 1}} if self.session.smoke else {}
        variant = Variant("parts of Meituan's ranker", row.about, meituan, train={"loss": bound, **epochs})
        # one size for the whole table: that of the row without any part
        width, _ = fit_width(variant, recipe, dataset.layout, dataset.config.tasks[: len(reported)])
        config = ranking_config(variant, recipe, dataset.task_names, width)
        settings = {"ranking": config.model_dump(mode="json"), "numbers": row.numbers, "holes": row.holes}

        def measure(seed: int) -> tuple[dict[str, float], Arrays]:
            started = time.perf_counter()
            ranker = train_ranker(dataset, config, self.session.runtime(seed), seed).ranker
            metrics = {"dense": float(dense_parameters(ranker)), "seconds": time.perf_counter() - started}
            arrays: Arrays = {}
            for part, rows in labelled.items():
                logits = score_rows(ranker, dataset, dataset.rows(PARTS[part]))
                arrays |= {f"{part}/{task}": logits[task] for task in reported}
                metrics |= {f"{part}/{key}": value for key, value in row_metrics(rows, logits).items()}
            say(f"  {name}, seed {seed}: " + " ".join(f"{t} {metrics[f'test/auc/{t}']:.5f}" for t in reported))
            return metrics, arrays

        done = Done(self.session.args.cache / f"meituan-{row.data}")
        again = bool(self.session.args.again)
        seen = {seed: done.seed(name, seed, settings, partial(measure, seed), again) for seed in seeds}
        record = Record(
            variant=name,
            group="parts of Meituan's ranker",
            about=row.about,
            command=self.session.command_of(name),
            seeds=tuple(seeds),
            data=dataset.fingerprint,
            settings=settings,
            **of_seeds(seen),
        )
        return record, {seed: arrays for seed, (_, arrays) in seen.items()}

    def versus(self, name: str, own: dict[int, Arrays], other: dict[int, Arrays], draws: int) -> Table:
        """Differences of a row to the one it is compared with."""
        rows = Labelled.of(self.dataset(replace(ROWS[name], chain=False)), PARTS["test"])
        sides = [[part_of(arrays, "test") for arrays in table.values()] for table in (own, other)]
        pairs = {task: ([a[task] for a in sides[0]], [b[task] for b in sides[1]]) for task in rows.tasks}
        return {"versus": difference(rows, pairs, draws, "test/"), "versus_name": ROWS[name].versus}


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", ["census", "kuairand"])
    options.add_argument("--draws", type=int, default=300, help="bootstrap draws (default: %(default)s)")
    session = start(options)
    data = session.args.data
    names = pick(
        {name: "parts" for name, row in ROWS.items() if row.data == data}, session.args.variants, session.args.shard
    )
    if session.args.list:
        print("\n".join(names))
        return
    lab = Lab(session)
    trained: dict[str, dict[int, Arrays]] = {}
    book: Book | None = None
    for name in names:
        record, trained[name] = lab.record(name, session.seeds)
        if book is None:
            tasks = lab.dataset(ROWS[name]).task_names
            columns = {f"test/auc/{task}": f"AUC {task}" for task in tasks}
            columns |= {f"test/logloss/{task}": f"log-loss {task}" for task in tasks}
            columns |= {"valid/auc": "validation AUC", "dense": "dense parameters", "seconds": "seconds"}
            about = [" ".join(part.split()) for part in (__doc__ or "").split("\n\n")[1:3]]
            title = f"Meituan's three parts: {TITLES[data]}"
            book = Book(f"meituan-{data}", title, about, columns, session.command, folder=session.args.out)
        book.add(record)
        versus = ROWS[name].versus
        if versus in trained:
            found = lab.versus(name, trained[name], trained[versus], 50 if session.smoke else session.args.draws)
            book.amend(name, found)
            for key, gap in found["versus"].items():
                say(f"    {key}: {gap['difference']:+.5f} [{gap['low']:+.5f}, {gap['high']:+.5f}] to {versus}")


if __name__ == "__main__":
    run(main)
