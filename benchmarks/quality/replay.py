"""Replaying KuaiRand's days: train day by day, from scratch every day, or never again, and test on the next day.

For every test day, four ways to have a ranker that morning. `daily`: yesterday's ranker, moved to today's vocabularies
by raw id, trained for one epoch on yesterday's rows alone. `full`: a new ranker trained on all days so far. `counts`:
the first day's ranker with fresh counts, histories and vocabularies, and no training. `never`: everything as it was on
the first test day, counts and vocabularies included. All start from the same ranker on the first test day, which
therefore is the same for all of them and no part of the means.

Not carried over from day to day: Adam's moments, and the edges of the numeric buckets, which are fitted on each day's
training rows (their embeddings are carried over in order). Seconds are processor time of training, one thread.

    python benchmarks/quality/replay.py --seeds 1,2,3
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys.benchmarks.quality.common import Session, Source, load, parser, pick, run, say, start
from recsys.benchmarks.quality.paired import Labelled, row_metrics
from recsys.benchmarks.quality.ranking_variants import RECIPES, ranking_config, variants
from recsys.benchmarks.quality.results import Book, Json, Record, provenance
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.data.tables import Tables
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.funnel.warm_start import copy_dense, copy_rows
from recsys.ranking.ranker import Ranker
from recsys.ranking.train import RankingConfig, build_model, score_rows, train_ranker

FIRST_DAY = datetime.fromisoformat("2022-04-24T23:52:10+08:00")
DAYS = 14
FIGURE = "replay-kuairand.png"
POLICIES = {
    "full": "trained from scratch on all days so far, every day",
    "daily": "yesterday's ranker, one epoch on yesterday's rows",
    "counts": "the first ranker with fresh counts and histories, never trained again",
    "never": "everything frozen on the first test day",
}


@dataclass
class Trained:
    """A ranker and the data whose vocabularies it was built on."""

    ranker: Ranker
    dataset: Dataset


@dataclass
class Log:
    """What a policy has reached and spent: per test day its metrics, seconds and rows trained on."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def beginning(day: int) -> datetime:
    """When a day of the log begins, 0 being the first."""
    return FIRST_DAY + timedelta(days=day)


def day_data(day: int, last: int) -> Dataset:
    """Rows before `day` train, days `day` to `last` test, later ones do not exist yet."""
    end = beginning(last + 1).timestamp() * 1000

    def known(tables: Tables) -> Tables:
        times = pc.cast(tables.events["time_ms"], pa.int64())
        return tables.keep("events", pc.less(times, int(end)).to_numpy(zero_copy_only=False))

    moment = beginning(day).isoformat()
    split = (f'data.split.valid_from="{moment}"', f'data.split.test_from="{moment}"')
    return load(Source("kuairand.toml", split, known))[1]


def moved(trained: Trained, dataset: Dataset, config: RankingConfig, seed: int) -> Ranker:
    """The ranker on another day's vocabularies: known values keep their rows, new ones begin as the unknown value."""
    _, ranker = build_model(config, dataset.layout, dataset.config.tasks, 0, seed)
    carry(trained, dataset, ranker)
    return ranker


def carry(trained: Trained, dataset: Dataset, ranker: Ranker) -> None:
    """Copy a trained ranker's weights into a new one by raw id."""
    mine, theirs = dataset.encoders.vocabularies, trained.dataset.encoders.vocabularies
    for table, old in zip(ranker.tables(), trained.ranker.tables(), strict=True):
        with torch.no_grad():
            for name in table.sizes:
                if name in old.sizes and name in mine:
                    table.rows_of(name)[FIRST:] = old.rows_of(name)[UNKNOWN]
        copy_rows(table, mine, old, theirs)
    copy_dense(ranker, trained.ranker)


def only_day(dataset: Dataset, day: int) -> Dataset:
    """The same data with only one day's rows to train on; earlier ones stay in histories and counts."""
    events = dataset.events
    early = (events.parts == Part.TRAIN) & (events.times < beginning(day).timestamp())
    return replace(dataset, events=replace(events, parts=np.where(early, Part.PRIOR, events.parts).astype(np.int8)))


def shorter(dataset: Dataset, rows: int) -> Dataset:
    """For a smoke test: only the first so many training rows."""
    parts = dataset.events.parts.copy()
    parts[np.flatnonzero(parts == Part.TRAIN)[rows:]] = Part.PRIOR
    return replace(dataset, events=replace(dataset.events, parts=parts))


def quality(ranker: Ranker, dataset: Dataset, rows: torch.Tensor) -> dict[str, float]:
    """AUC, GAUC and log-loss of given rows."""
    labelled = Labelled.of(dataset, Part.TEST)
    inside = np.isin(dataset.rows(Part.TEST).numpy(), rows.numpy())
    chosen = replace(labelled, labels=labelled.labels[inside], mask=labelled.mask[inside], users=labelled.users[inside])
    return row_metrics(chosen, score_rows(ranker, dataset, rows))


@dataclass
class Replay:
    """The rankers of all policies and seeds, morning by morning."""

    session: Session
    config: RankingConfig
    first: int
    policies: Sequence[str]
    logs: dict[tuple[str, int], Log] = field(default_factory=dict)
    begun: dict[int, Trained] = field(default_factory=dict)
    today: dict[int, Trained] = field(default_factory=dict)

    def train(
        self, dataset: Dataset, seed: int, epochs: int, lr: float, source: Trained | None
    ) -> tuple[Ranker, float]:
        """Train on the training rows, from scratch or from another ranker."""
        fit = self.config.fit.model_copy(update={"epochs": epochs, "metric": "auto"})
        optim = self.config.optim.model_copy(update={"lr": lr})
        config = self.config.model_copy(update={"fit": fit, "optim": optim})
        runtime = self.session.runtime(seed)
        began = time.process_time()

        def prepare(ranker: Ranker) -> None:
            if source is not None:
                carry(source, dataset, ranker)

        ranker = train_ranker(dataset, config, runtime, seed, prepare=prepare).ranker
        return ranker, time.process_time() - began

    def morning(self, day: int, dataset: Dataset, seed: int) -> None:
        """Every policy's ranker of a test day, and what it reaches."""
        args = self.session.args
        if self.session.smoke:
            dataset = shorter(dataset, 4000)
        epochs, lr = (1 if self.session.smoke else self.config.fit.epochs), self.config.optim.lr
        rows, test = len(dataset.rows(Part.TRAIN)), dataset.rows(Part.TEST)
        if day == self.first:
            ranker, seconds = self.train(dataset, seed, epochs, lr, None)
            self.begun[seed] = self.today[seed] = Trained(ranker, dataset)
            for policy in self.policies:
                self.log(policy, seed, quality(ranker, dataset, test), seconds, rows)
            return
        if "full" in self.policies:
            ranker, seconds = self.train(dataset, seed, epochs, lr, None)
            self.log("full", seed, quality(ranker, dataset, test), seconds, rows)
        if "daily" in self.policies:
            new = only_day(dataset, day - 1)
            ranker, seconds = self.train(new, seed + day, 1, args.daily_lr, self.today[seed])
            self.today[seed] = Trained(ranker, dataset)
            self.log("daily", seed, quality(ranker, dataset, test), seconds, len(new.rows(Part.TRAIN)))
        if "counts" in self.policies:
            ranker = moved(self.begun[seed], dataset, self.config, seed)
            self.log("counts", seed, quality(ranker, dataset, test), 0.0, 0)

    def frozen(self, dataset: Dataset, days: Sequence[int], seed: int) -> None:
        """The first ranker on all test days, in the encoding of the first."""
        rows = dataset.rows(Part.TEST)
        times = dataset.events.times[rows.numpy()]
        ranker = moved(self.begun[seed], dataset, self.config, seed)
        for day in days:
            inside = (times >= beginning(day).timestamp()) & (times < beginning(day + 1).timestamp())
            self.log("never", seed, quality(ranker, dataset, rows[torch.from_numpy(inside)]), 0.0, 0)

    def log(self, policy: str, seed: int, metrics: dict[str, float], seconds: float, rows: int) -> None:
        """Keep one day of one policy."""
        log = self.logs.setdefault((policy, seed), Log())
        log.metrics.append(metrics)
        log.seconds.append(seconds)
        log.rows.append(rows)


def draw(records: Mapping[str, Json], days: Sequence[int], file: Path) -> None:
    """Mean AUC by day, and seconds of training added up."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    labels = [f"{beginning(day) + timedelta(hours=12):%d %b}" for day in days]
    for policy in [name for name in POLICIES if name in records]:
        curves = records[policy]["extra"]["by_day"]
        for axis, metric in zip(axes, ("auc", "gauc"), strict=False):
            axis.plot(labels, [day[metric] for day in curves], marker="o", label=policy)
        axes[2].plot(labels, np.cumsum(records[policy]["extra"]["seconds_by_day"]), marker="o", label=policy)
    titles = ("AUC, mean of the tasks", "GAUC, mean of the tasks", "seconds of training, added up")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="test day")
        axis.tick_params(axis="x", rotation=60)
        axis.legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def record(session: Session, replay: Replay, policy: str, fingerprint: str, days: Sequence[int]) -> Record:
    """All seeds of a policy: means over the days after the first, the cost of all of them."""
    logs = {seed: replay.logs[policy, seed] for seed in session.seeds}
    per_seed = {}
    for seed, log in logs.items():
        later = log.metrics[1:]
        means = {
            name: float(np.mean([day[name] for day in later])) for name in later[0] if all(name in d for d in later)
        }
        per_seed[str(seed)] = means | {"seconds": sum(log.seconds[1:]), "rows": float(sum(log.rows[1:]))}
    every = list(logs.values())
    names = [name for name in every[0].metrics[0] if all(name in day for log in every for day in log.metrics)]
    by_day: list[dict[str, Any]] = [
        {name: float(np.mean([log.metrics[place][name] for log in every])) for name in names}
        for place in range(len(days))
    ]
    settings: Json = {"ranking": replay.config.model_dump(mode="json"), "daily_lr": session.args.daily_lr}
    found = provenance()
    return Record(
        variant=policy,
        group="policies",
        about=POLICIES[policy],
        command=session.command_of(policy),
        seeds=session.seeds,
        data=fingerprint,
        settings=settings | {"first_test_day": replay.first},
        per_seed=per_seed,
        extra={
            "days": [f"{beginning(day) + timedelta(hours=12):%Y-%m-%d}" for day in days],
            "by_day": by_day,
            "seconds_by_day": np.mean([log.seconds for log in every], axis=0).tolist(),
        },
        **found,
    )


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [])
    options.add_argument("--first", type=int, default=5, help="first test day, the log's first being 0")
    options.add_argument("--last", type=int, default=DAYS - 1, help="last test day (default: %(default)s)")
    options.add_argument("--daily-lr", type=float, default=1e-3, help="peak rate of a day's epoch")
    session = start(options)
    args = session.args
    if args.list:
        print("\n".join(POLICIES))
        return
    names = pick(dict.fromkeys(POLICIES, "policies"), args.variants, args.shard)
    days = range(args.first, (args.first + 2 if session.smoke else args.last) + 1)
    first = day_data(days[0], days[0])
    tasks = first.task_names
    recipe = RECIPES["kuairand"]
    config = ranking_config(variants(recipe, tasks, True)["shared_bottom"], recipe, tasks, recipe.width)
    replay = Replay(session, config, days[0], names)
    for day in days:
        dataset = first if day == days[0] else day_data(day, day)
        for seed in session.seeds:
            replay.morning(day, dataset, seed)
        reached = [
            f"{name} {replay.logs[name, session.seeds[0]].metrics[-1]['auc']:.4f}" for name in names if name != "never"
        ]
        say(f"{beginning(day) + timedelta(hours=12):%d %B}: {', '.join(reached)}")
    if "never" in names:
        whole = day_data(days[0], days[-1])
        for seed in session.seeds:
            replay.frozen(whole, days[1:], seed)
    columns = {f"auc/{task}": f"AUC {task}" for task in tasks} | {f"gauc/{task}": f"GAUC {task}" for task in tasks}
    columns |= {"auc": "AUC, mean", "gauc": "GAUC, mean", "seconds": "seconds of training", "rows": "rows trained on"}
    about = [" ".join(text.split()) for text in (__doc__ or "").split("\n\n")[1:3]]
    title = "KuaiRand, day by day"
    book = Book("replay-kuairand", title, about, columns, session.command, folder=args.out, figures=[FIGURE])
    for name in names:
        book.add(record(session, replay, name, first.fingerprint, days))
    draw(book.variants(), days, args.out / FIGURE)


if __name__ == "__main__":
    run(main)
