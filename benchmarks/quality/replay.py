"""Replaying KuaiRand's days: train day by day, from scratch every day, or never again, and test on the next day.

For every test day, several ways to have a ranker that morning. `daily` is what `recsys train --from` does: it goes on
from yesterday's ranker for one epoch on yesterday's rows alone, on yesterday's data set: vocabularies grow, bucket
edges stay, earlier events are history and counts, the optimiser's moments go on, new videos begin near videos like
them. `daily_fresh` forgets the moments, `daily_plain` begins new videos as unknown ones. `full`: a new ranker trained
on all days so far. `counts`: the first ranker on the day's data set, untrained. `never`: everything as it was on the
first test day, counts and vocabularies included.

All start from the same ranker on the first test day, which therefore is the same for all of them and no part of the
means. Seconds are processor time of training, one thread; building the day's data set is counted by itself.

    python benchmarks/quality/replay.py --seeds 1,2,3
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.lab import paragraphs
from recsys.benchmarks.harness.paired import Labelled, row_metrics
from recsys.benchmarks.harness.provenance import Json, provenance
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.harness.sources import Source, read
from recsys.benchmarks.quality.ranking_inputs import variants
from recsys.benchmarks.quality.ranking_variants import RECIPES, ranking_config
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.tables import Tables
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.pipeline.continuation import Learned, remember, take_up
from recsys.ranking.config import RankingConfig
from recsys.ranking.ranker import Ranker
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import build_model, build_training, fit_ranker
from recsys.training.optim import Optimizer

FIRST_DAY = datetime.fromisoformat("2022-04-24T23:52:10+08:00")
DAYS = 14
FIGURE = "replay-kuairand.png"
POLICIES = {
    "full": "trained from scratch on all days so far, every day",
    "daily": "--from yesterday's run, one epoch on yesterday's rows",
    "daily_fresh": "as daily, without the optimiser's moments",
    "daily_plain": "as daily, new videos begin at the unknown row",
    "counts": "the first ranker on fresh counts and histories, never trained again",
    "never": "everything frozen on the first test day",
}
GOING_ON = ("daily", "daily_fresh", "daily_plain")
SMOKE_USERS = 20
"""In a smoke test, one in so many users is looked at."""


def beginning(day: int) -> datetime:
    """When a day of the log begins, 0 being the first."""
    return FIRST_DAY + timedelta(days=day)


@dataclass
class Log:
    """What a policy has reached and spent: per test day its metrics, seconds and rows trained on."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


@dataclass
class Days:
    """The log, cut into days. `seconds` counts what building data sets cost, by kind and test day."""

    session: Session
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @cached_property
    def read(self) -> tuple[DataConfig, Tables]:
        """The section and the raw tables."""
        config, tables = read(Source("kuairand.toml"))
        if self.session.smoke:
            users = pc.cast(tables.events["user_id"], pa.int64()).to_numpy()
            tables = tables.keep("events", users % SMOKE_USERS == 0)
        return config.data, tables

    def build(
        self, kind: str, first: int, day: int, last: int, source: Dataset | None = None, valid: int = 0
    ) -> Dataset:
        """Days `first` to `day` - 1 train, the last `valid` of them apart; days `day` to `last` test."""
        config, tables = self.read
        times = pc.cast(tables.events["time_ms"], pa.int64()).to_numpy()
        low, high = (beginning(when).timestamp() * 1000 for when in (first, last + 1))
        cuts = {"valid_from": beginning(day - valid).isoformat(), "test_from": beginning(day).isoformat()}
        split = config.split.model_copy(update=cuts)
        began = time.process_time()
        kept = tables.keep("events", (times >= low if first else times > 0) & (times < high))
        dataset = build_dataset(kept, config.model_copy(update={"split": split}), 1, source=source)
        self.seconds.setdefault(kind, []).append(time.process_time() - began)
        return dataset


def quality(ranker: Ranker, dataset: Dataset, rows: torch.Tensor) -> dict[str, float]:
    """AUC, GAUC and log-loss of given rows."""
    labelled = Labelled.of(dataset, Part.TEST)
    inside = np.isin(dataset.rows(Part.TEST).numpy(), rows.numpy())
    chosen = replace(labelled, labels=labelled.labels[inside], mask=labelled.mask[inside], users=labelled.users[inside])
    return row_metrics(chosen, score_rows(ranker, dataset, rows))


def as_unknown(ranker: Ranker, known: int) -> None:
    """Videos behind the known rows begin as the unknown one."""
    with torch.no_grad():
        for table in ranker.tables():
            rows = table.rows_of("video_id")
            rows[known:] = rows[UNKNOWN]


@dataclass
class Replay:
    """The rankers of all policies and seeds, morning by morning."""

    session: Session
    config: RankingConfig
    days: Days
    policies: Sequence[str]
    logs: dict[tuple[str, int], Log] = field(default_factory=dict)
    begun: dict[int, Learned] = field(default_factory=dict)
    today: dict[tuple[str, int], Learned] = field(default_factory=dict)

    def train(
        self, dataset: Dataset, seed: int, epochs: int, lr: float, source: Learned | None, policy: str = ""
    ) -> tuple[Learned, float]:
        """Train on the training rows, from scratch or on from what was learned."""
        fit = self.config.fit.model_copy(update={"epochs": epochs, "metric": ""})
        optim = self.config.optim.model_copy(update={"lr": lr})
        config = self.config.model_copy(update={"fit": fit, "optim": optim})
        runtime = self.session.runtime(seed)
        began = time.process_time()
        training = build_training(dataset, config, runtime, seed)
        if source is not None:
            kept = replace(source, state={}) if policy == "daily_fresh" else source
            take_up(training.ranker, training.optimizer, dataset, kept)
            if policy == "daily_plain":
                as_unknown(training.ranker, len(source.dataset.encoders.vocabularies["video_id"]))
        ranker = fit_ranker(training, config, runtime, seed).ranker
        seconds = time.process_time() - began
        return Learned(ranker, dataset, remember(training.optimizer, ranker)), seconds

    def first(self, dataset: Dataset, seed: int) -> None:
        """The ranker that all policies have on the first morning."""
        epochs = 1 if self.session.smoke else self.config.fit.epochs
        learned, seconds = self.train(dataset, seed, epochs, self.config.optim.lr, None)
        self.begun[seed] = learned
        rows, found = len(dataset.rows(Part.TRAIN)), self.judge(learned)
        for policy in self.policies:
            self.today[policy, seed] = learned
            self.log(policy, seed, found, seconds, rows)

    def full(self, dataset: Dataset, seed: int) -> None:
        """A morning after a night of training on everything."""
        epochs = 1 if self.session.smoke else self.config.fit.epochs
        learned, seconds = self.train(dataset, seed, epochs, self.config.optim.lr, None)
        self.log("full", seed, self.judge(learned), seconds, len(dataset.rows(Part.TRAIN)))

    def going_on(self, dataset: Dataset, seed: int, day: int) -> None:
        """A morning after a night of training on one day."""
        for policy in [name for name in GOING_ON if name in self.policies]:
            before = self.today[policy, seed]
            learned, seconds = self.train(dataset, seed + 1000 * day, 1, self.session.args.daily_lr, before, policy)
            self.today[policy, seed] = learned
            self.log(policy, seed, self.judge(learned), seconds, len(dataset.rows(Part.TRAIN)))
        if "counts" in self.policies:
            self.log("counts", seed, self.judge(self.moved(dataset, seed)), 0.0, 0)

    def moved(self, dataset: Dataset, seed: int) -> Learned:
        """The first ranker on another day's data set, untrained."""
        _, ranker = build_model(self.config, dataset.layout, dataset.config.tasks, 0, seed)
        take_up(ranker, Optimizer(ranker, self.config.optim, 1), dataset, self.begun[seed])
        return Learned(ranker, dataset, {})

    def frozen(self, dataset: Dataset, days: Sequence[int], seed: int) -> None:
        """The first ranker on all test days, in the encoding of the first."""
        rows = dataset.rows(Part.TEST)
        times = dataset.events.times[rows.numpy()]
        ranker = self.moved(dataset, seed).model
        assert isinstance(ranker, Ranker)
        for day in days:
            inside = (times >= beginning(day).timestamp()) & (times < beginning(day + 1).timestamp())
            self.log("never", seed, quality(ranker, dataset, rows[torch.from_numpy(inside)]), 0.0, 0)

    def judge(self, learned: Learned) -> dict[str, float]:
        """What a ranker reaches on the test rows of its data set."""
        assert isinstance(learned.model, Ranker)
        return quality(learned.model, learned.dataset, learned.dataset.rows(Part.TEST))

    def log(self, policy: str, seed: int, metrics: dict[str, float], seconds: float, rows: int) -> None:
        """Keep one day of one policy."""
        log = self.logs.setdefault((policy, seed), Log())
        log.metrics.append(metrics)
        log.seconds.append(seconds)
        log.rows.append(rows)


def draw(records: Mapping[str, Json], days: Sequence[int], file: Path) -> None:
    """Mean AUC by day, and seconds of training added up."""
    with panels(file, 3, (14, 4.2)) as axes:
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
        settings=settings | {"first_test_day": days[0]},
        per_seed=per_seed,
        extra={
            "days": [f"{beginning(day) + timedelta(hours=12):%Y-%m-%d}" for day in days],
            "by_day": by_day,
            "seconds_by_day": np.mean([log.seconds for log in every], axis=0).tolist(),
            "build_seconds_by_day": replay.days.seconds.get("daily" if policy in (*GOING_ON, "counts") else policy, []),
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
    test_days = range(args.first, (args.first + 2 if session.smoke else args.last) + 1)
    days = Days(session)
    first = today = days.build("first", 0, test_days[0], test_days[0])
    tasks = first.task_names
    recipe = RECIPES["kuairand"]
    config = ranking_config(variants(recipe, tasks, True)["shared_bottom"], recipe, tasks, recipe.width)
    replay = Replay(session, config, days, names)
    for seed in session.seeds:
        replay.first(first, seed)
    for day in test_days[1:]:
        today = days.build("daily", day - 1, day, day, today)
        whole = days.build("full", 0, day, day) if "full" in names else None
        for seed in session.seeds:
            if whole is not None:
                replay.full(whole, seed)
            replay.going_on(today, seed, day)
        shown = [name for name in names if name != "never"]
        reached = [f"{name} {replay.logs[name, session.seeds[0]].metrics[-1]['auc']:.4f}" for name in shown]
        say(f"{beginning(day) + timedelta(hours=12):%d %B}: {', '.join(reached)}")
    if "never" in names:
        ahead = days.build("never", 0, test_days[0], test_days[-1], first)
        for seed in session.seeds:
            replay.frozen(ahead, test_days[1:], seed)
    columns = {f"auc/{task}": f"AUC {task}" for task in tasks} | {f"gauc/{task}": f"GAUC {task}" for task in tasks}
    columns |= {"auc": "AUC, mean", "gauc": "GAUC, mean", "seconds": "seconds of training", "rows": "rows trained on"}
    about = paragraphs(__doc__)
    title = "KuaiRand, day by day"
    book = Book("replay-kuairand", title, about, columns, session.command, folder=args.out, figures=[FIGURE])
    for name in names:
        book.add(record(session, replay, name, first.fingerprint, test_days))
    draw(book.variants(), test_days, args.out / FIGURE)


if __name__ == "__main__":
    run(main)
