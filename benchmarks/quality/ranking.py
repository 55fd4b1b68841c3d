"""Every ranker on logged rows: equal inputs, equal size, several seeds, and the difference to single-task models.

The rule, written before any result: **the variant with the highest mean validation AUC over the tasks is chosen**, the
mean of the seeds counting; test numbers choose nothing. The table reports it beside all others.

Protocol. Census-Income: the official training file trains; half of the test file, drawn once, validates and the other
half tests. KuaiRand: days in order, 25 April - 3 May train, 4 - 5 May validate, 6 - 8 May test. The best epoch by mean
validation AUC is kept. Dense parameters are equal within the step of one unit of width (see `ranking_variants`);
`single_task` is the exception on purpose: a whole network for every task is what a user without multi-task learning
would train, and what every difference is taken from (gates and histories: the shared bottom they change): mean over
the seeds of the one minus mean over the seeds of the other, with the 95 % interval over users drawn with replacement
(rows, where there are no users).

    python benchmarks/quality/ranking.py --data census --variants architectures --seeds 1,2,3,4,5
    python benchmarks/quality/ranking.py --data kuairand --shard 0/2     # and 1/2 in a second process
    python benchmarks/quality/ranking.py --data kuairand --compare       # differences once all rows are there
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from recsys.base.arrays import F32
from recsys.base.errors import ConfigError
from recsys.base.package import install_hint
from recsys.benchmarks.harness.finished import Arrays, of_seeds
from recsys.benchmarks.harness.lab import Lab, fill, paragraphs
from recsys.benchmarks.harness.paired import Labelled, difference, row_metrics
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.harness.sources import Source, load
from recsys.benchmarks.quality import trees
from recsys.benchmarks.quality.ranking_inputs import variants
from recsys.benchmarks.quality.ranking_variants import (
    BASELINE,
    RECIPES,
    Recipe,
    Variant,
    dense_parameters,
    fit_width,
    ranking_config,
    single,
)
from recsys.data.dataset import Dataset
from recsys.data.schema import TaskSpec
from recsys.data.split import Part
from recsys.pipeline.warm_start import warm_start_ranker
from recsys.ranking.distil import taught
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import build_training, fit_ranker
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.train import train_two_tower

SOURCES = {
    "census": Source("census-income.toml"),
    "census2": Source("census-education.toml"),
    "kuairand": Source("kuairand.toml"),
}
TITLES = {
    "census": "Census-Income, task group 1: income above 50,000 and never married",
    "census2": "Census-Income, task group 2: college degree and never married",
    "kuairand": "KuaiRand-Pure, 25 April - 8 May 2022: click, long view, like, profile entry",
}
TREES = "lightgbm"
PARTS = {"valid": Part.VALID, "test": Part.TEST}


@dataclass
class Ranking(Lab):
    """A data set and everything that is trained on it."""

    table = "ranking"

    recipe: Recipe
    towers: dict[int, Retriever] = field(default_factory=dict)

    @classmethod
    def open(cls, session: Session) -> Ranking:
        """Load the data set of the command line."""
        name = session.args.data
        config, dataset = load(SOURCES[name])
        recipe = RECIPES["kuairand" if name == "kuairand" else "census"]
        if session.smoke:
            dataset = few_rows(dataset, 4000)
            recipe = replace(recipe, train={**recipe.train, "fit": {"epochs": 1, "metric": "auc"}})
        return cls(session, config, dataset, recipe)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that are reported."""
        return self.dataset.task_names

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """Everything that can be trained here."""
        return variants(self.recipe, self.tasks, bool(self.dataset.sequence_specs))

    @cached_property
    def labelled(self) -> dict[str, Labelled]:
        """Labels of the validation and of the test rows."""
        return {name: Labelled.of(self.dataset, part) for name, part in PARTS.items()}

    def data_of(self, variant: Variant, seed: int) -> Dataset:
        """The rows as the variant reads them."""
        dataset = self.dataset
        if variant.needs == "clicks":
            dataset = with_conversion(dataset)
        if variant.distil:
            teachers = [part_of(self.seed(variant.versus, teacher)[1], "train") for teacher in self.session.seeds]
            dataset = taught(dataset, dataset.rows(Part.TRAIN), teachers, variant.distil)
        return dataset

    def settings(self, name: str) -> tuple[int, int, Json]:
        """Width, dense parameters and the whole `[ranking]` section of a variant."""
        if name == TREES:
            return 0, 0, dict(trees.SETTINGS[self.session.args.data])
        variant = self.variants[name]
        dataset = with_conversion(self.dataset) if variant.needs == "clicks" else self.dataset
        width, dense = fit_width(variant, self.recipe, dataset.layout, dataset.config.tasks)
        config = ranking_config(variant, self.recipe, dataset.task_names, width)
        marks = {"warm": variant.warm, "distil": variant.distil, "bf16": self.session.args.bf16}
        if variant.distil:
            marks["teachers"] = list(self.session.seeds)
        return width, dense, {"ranking": config.model_dump(mode="json"), "seed_of_split": self.config.seed, **marks}

    def seed(self, name: str, seed: int, again: bool = False) -> tuple[Json, Arrays]:
        """One training, or what is left of it from an earlier run unless `again`."""
        width, _, settings = self.settings(name)

        def now() -> tuple[dict[str, float], Arrays]:
            started = time.perf_counter()
            if name == TREES:
                arrays, dense = trees.train(self.dataset, self.session.args.data, seed, self.session.args.threads), 0
            else:
                arrays, dense = self._train(name, seed, width)
            metrics = {"dense": float(dense), "seconds": time.perf_counter() - started}
            for part, rows in self.labelled.items():
                metrics |= {f"{part}/{key}": value for key, value in row_metrics(rows, part_of(arrays, part)).items()}
            shown = " ".join(f"{task} {metrics[f'test/auc/{task}']:.4f}" for task in self.tasks)
            say(f"  seed {seed}: {shown} (validation {metrics['valid/auc']:.4f}, {metrics['seconds']:.0f} s)")
            return metrics, arrays

        return self.done.seed(name, seed, settings, now, again)

    def _train(self, name: str, seed: int, width: int) -> tuple[Arrays, int]:
        variant = self.variants[name]
        dataset = self.data_of(variant, seed)
        config = ranking_config(variant, self.recipe, dataset.task_names, width)
        runtime = self.session.runtime(seed)
        retriever = self._retriever(seed) if variant.warm else None  # before the ranker's seed
        training = build_training(dataset, config, runtime, seed)
        if retriever is not None:
            warm_start_ranker(training.ranker, dataset, retriever)
        ranker = fit_ranker(training, config, runtime, seed).ranker
        parts = {**PARTS, **({"train": Part.TRAIN} if variant.model is single else {})}
        arrays: Arrays = {}
        for part, which in parts.items():
            for task, logits in score_rows(ranker, dataset, dataset.rows(which)).items():
                arrays[f"{part}/{task}"] = logits
        return arrays, dense_parameters(ranker)

    def _retriever(self, seed: int) -> Retriever:
        """Towers of the ranker's embedding width, trained on the same rows."""
        if seed not in self.towers:
            section = self.config.retrieval
            tower = section.tower.model_copy(update={"dim": self.recipe.input["embedding_dim"]})
            fit = section.fit.model_copy(update={"epochs": 1 if self.session.smoke else section.fit.epochs})
            section = section.model_copy(update={"tower": tower, "fit": fit})
            model, data, _ = train_two_tower(self.dataset, section, self.session.runtime(seed), seed)
            self.towers[seed] = Retriever(model, data, {})
        return self.towers[seed]

    def record(self, name: str, seeds: Sequence[int]) -> Record:
        """Train what is missing and gather the seeds."""
        found = {seed: self.seed(name, seed, self.session.args.again) for seed in seeds}
        variant = self.variants.get(name)
        ensemble: dict[str, float] = {}
        if len(seeds) > 1:
            for part, rows in self.labelled.items():
                tables = [part_of(arrays, part) for _, arrays in found.values()]
                mean = {task: np.mean([table[task] for table in tables], axis=0) for task in self.tasks}
                ensemble |= {f"{part}/{key}": value for key, value in row_metrics(rows, mean).items()}
        return Record(
            variant=name,
            group="baseline" if variant is None else variant.group,
            about="LightGBM, one model per task, no ids and no sequences" if variant is None else variant.about,
            command=self.session.command_of(name),
            seeds=tuple(seeds),
            data=self.dataset.fingerprint,
            settings=self.settings(name)[2],
            extra={"ensemble": ensemble} if ensemble else {},
            **of_seeds(found),
        )

    def compare(self, book: Book, names: Sequence[str]) -> None:
        """Differences to the single-task models, of gates and histories to the plain shared bottom."""
        records = book.variants()
        bases = {name: self.variants[name].versus if name in self.variants else BASELINE for name in names}
        if missing := set(bases.values()) - set(records):
            say(f"no differences yet to {', '.join(sorted(missing))}; measure them and run --compare")
        baselines = {
            base: [self.seed(base, seed)[1] for seed in records[base]["seeds"]]
            for base in set(bases.values()) & set(records)
        }
        for name, base in bases.items():
            known = name in records and "versus" in records[name]["extra"] and not self.session.args.compare
            if name == base or name not in records or base not in baselines or known:
                continue
            say(f"difference of {name} to {base}")
            baseline = baselines[base]
            own = [self.seed(name, seed)[1] for seed in records[name]["seeds"]]
            draws = 50 if self.session.smoke else self.session.args.draws
            pairs = {
                task: ([a[f"test/{task}"] for a in own], [b[f"test/{task}"] for b in baseline]) for task in self.tasks
            }
            found = difference(self.labelled["test"], pairs, draws, "test/")
            book.amend(name, {"versus": found, "versus_name": base})


def part_of(arrays: Arrays, part: str) -> dict[str, F32]:
    """task -> logits of one part."""
    return {key.removeprefix(f"{part}/"): values for key, values in arrays.items() if key.startswith(f"{part}/")}


def with_conversion(dataset: Dataset) -> Dataset:
    """With a further task, `long_given_click`: the long view where there was a click."""
    click, view = (dataset.task_names.index(name) for name in ("click", "long_view"))
    events = dataset.events
    mask = events.mask[:, [click]] & (events.labels[:, [click]] > 0)
    labels = np.where(mask, events.labels[:, [view]], 0.0).astype(np.float32)
    tasks = (*dataset.config.tasks, TaskSpec(name="long_given_click", column="long_view", where="click"))
    events = replace(
        events, labels=np.hstack([events.labels.astype(np.float32), labels]), mask=np.hstack([events.mask, mask])
    )
    return replace(dataset, events=events, config=dataset.config.model_copy(update={"tasks": tasks}))


def few_rows(dataset: Dataset, count: int) -> Dataset:
    """Only some rows of every part, for a quick look; the others go to nobody."""
    parts = dataset.events.parts.copy()
    for part in (Part.TRAIN, Part.VALID, Part.TEST):
        rows = np.flatnonzero(parts == part)
        parts[np.setdiff1d(rows, rows[:: max(1, len(rows) // count)])] = Part.PRIOR
    return replace(dataset, events=replace(dataset.events, parts=parts))


def book_of(session: Session, tasks: Sequence[str], users: bool) -> Book:
    """The file of this data set."""
    name = session.args.data
    columns = {f"test/auc/{task}": f"AUC {task}" for task in tasks}
    columns |= {f"test/gauc/{task}": f"GAUC {task}" for task in tasks} if users else {}
    columns |= {f"test/logloss/{task}": f"log-loss {task}" for task in tasks}
    columns |= {"valid/auc": "validation AUC", "dense": "dense parameters", "seconds": "seconds"}
    about = paragraphs(__doc__)
    return Book(
        f"ranking-{name}",
        TITLES[name],
        about,
        columns,
        session.command,
        folder=session.args.out,
        rule="valid/auc",
    )


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", list(SOURCES))
    options.add_argument("--lightgbm", action="store_true", help="also the LightGBM row (needs the package)")
    options.add_argument("--compare", action="store_true", help="train nothing, only take the differences")
    options.add_argument("--draws", type=int, default=500, help="bootstrap draws of users (default: %(default)s)")
    options.add_argument("--sizes", action="store_true", help="print width and dense parameters of every variant")
    session = start(options)
    lab = Ranking.open(session)
    groups = {name: variant.group for name, variant in lab.variants.items()} | {TREES: "baseline"}
    if not (session.args.lightgbm or TREES in session.args.variants):
        del groups[TREES]
    if session.args.list:
        print("\n".join(f"{name:32} {group}" for name, group in groups.items()))
        return
    names = pick(groups, session.args.variants, session.args.shard)
    if TREES in names and not trees.available():
        raise ConfigError(f"lightgbm is not installed; {install_hint('bench')}, or leave --lightgbm out")
    if session.args.sizes:
        for name in names:
            width, dense, _ = lab.settings(name)
            print(f"{name:32} width {width:5} dense parameters {dense:>9,}")
        return
    book = book_of(session, lab.tasks, bool(lab.dataset.config.user))
    missing = [] if session.args.compare else names
    fill(book, session, missing, lab.dataset.fingerprint, lambda name: lab.record(name, session.seeds))
    lab.compare(book, names)


if __name__ == "__main__":
    run(main)
