"""What the chain is worth: a ranker that begins with the retriever's embeddings against one that begins at random.

The towers are trained once, on the training part of KuaiRand, and every seed of the ranker begins with the same ones;
a seed's rankers differ in nothing but where the rows of the shared fields (video, author, tag) begin. `warm`: the
towers as configured, 64 wide, their rows brought to the ranker's 8 by principal directions. `warm_equal`: towers as
narrow as the ranker, their rows as they are. `shuffled`, the control: the rows of `warm`, each given to another value,
so that spread and directions are right and only what a row stands for is lost.

Each is trained on all training rows and on a tenth of them (histories and counts stay whole), where a start should
matter more. Differences are to `cold` on the same rows: means over seeds with the 95 % interval over users drawn with
replacement, and the mean and standard deviation of the differences seed by seed.

    python benchmarks/quality/chain_gain.py --seeds 1,2,3,4,5
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from recsys.benchmarks.harness.finished import Arrays, of_seeds
from recsys.benchmarks.harness.lab import Lab, fill, paragraphs
from recsys.benchmarks.harness.paired import Labelled, difference, row_metrics
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import parser, pick, run, say, start
from recsys.benchmarks.harness.sources import Source, load
from recsys.benchmarks.quality.ranking_inputs import variants
from recsys.benchmarks.quality.ranking_variants import RECIPES, ranking_config
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST
from recsys.pipeline.warm_start import Copied, warm_start_ranker
from recsys.ranking.config import RankingConfig
from recsys.ranking.ranker import Ranker
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import build_training, fit_ranker
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.train import RetrievalConfig, train_two_tower

STARTS = {
    "cold": "every row begins at random",
    "warm": "shared fields begin with the 64-wide towers' rows, in 8 principal directions",
    "warm_equal": "shared fields begin with the rows of 8-wide towers",
    "shuffled": "control: the rows of warm, each given to another value",
}
SHARES = {"": 1, "_tenth": 10}
"""Suffix of a variant's name -> one training row in so many is learned from."""
GROUPS = {"": "all training rows", "_tenth": "a tenth of the training rows"}
TOWER_SEED = 1
PARTS = {"valid": Part.VALID, "test": Part.TEST}


@dataclass
class Chain(Lab):
    """The data, the towers, and the rankers that begin with them."""

    table = "chain-gain"

    towers: dict[int, Retriever] = field(default_factory=dict)
    reports: dict[str, list[Copied]] = field(default_factory=dict)

    @cached_property
    def ranking(self) -> RankingConfig:
        """What all rankers share."""
        recipe, tasks = RECIPES["kuairand"], self.dataset.task_names
        found = ranking_config(variants(recipe, tasks, True)["shared_bottom"], recipe, tasks, recipe.width)
        epochs = 1 if self.session.smoke else found.fit.epochs
        return found.model_copy(update={"fit": found.fit.model_copy(update={"epochs": epochs, "metric": ""})})

    @cached_property
    def labelled(self) -> dict[str, Labelled]:
        """Labels of the validation and of the test rows."""
        return {name: Labelled.of(self.dataset, part) for name, part in PARTS.items()}

    def settings(self, name: str) -> Json:
        """Everything that decides a variant."""
        return {
            "ranking": self.ranking.model_dump(mode="json"),
            "retrieval": self.section(self.width(name)).model_dump(mode="json"),
            "tower_seed": TOWER_SEED,
            "variant": name,
        }

    def width(self, name: str) -> int:
        """Width of the towers a variant begins with."""
        narrow = int(self.ranking.model.input.embedding_dim)
        return narrow if name.startswith("warm_equal") else int(self.config.retrieval.tower.dim)

    def section(self, width: int) -> RetrievalConfig:
        """The `[retrieval]` section at a width."""
        section = self.config.retrieval
        fit = section.fit.model_copy(update={"epochs": 1 if self.session.smoke else section.fit.epochs})
        return section.model_copy(update={"tower": section.tower.model_copy(update={"dim": width}), "fit": fit})

    def retriever(self, width: int) -> Retriever:
        """The towers of a width, trained once."""
        if width not in self.towers:
            say(f"towers of width {width}")
            model, data, _ = train_two_tower(
                self.dataset, self.section(width), self.session.runtime(TOWER_SEED), TOWER_SEED
            )
            self.towers[width] = Retriever(model, data, {})
        return self.towers[width]

    def begin(self, name: str, ranker: Ranker, seed: int) -> None:
        """Set where a ranker's rows begin."""
        kind = name.removesuffix("_tenth")
        if kind == "cold":
            return
        self.reports[name] = report = warm_start_ranker(ranker, self.dataset, self.retriever(self.width(name)))
        if kind == "shuffled":
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for table in ranker.tables():
                    for entry in report:
                        rows = table.rows_of(entry.vocabulary)[FIRST:]
                        rows.copy_(rows[torch.randperm(len(rows), generator=generator)])

    def seed(self, name: str, seed: int, again: bool = False) -> tuple[Json, Arrays]:
        """One training, or what is left of it from an earlier run unless `again`."""
        return self.done.seed(name, seed, self.settings(name), lambda: self._train(name, seed), again)

    def _train(self, name: str, seed: int) -> tuple[dict[str, float], Arrays]:
        share = SHARES["_tenth" if name.endswith("_tenth") else ""]
        dataset = self.dataset if share == 1 else one_in(self.dataset, share)
        if not name.startswith("cold"):
            self.retriever(self.width(name))  # before the clock and before the ranker's seed
        runtime, began = self.session.runtime(seed), time.process_time()
        training = build_training(dataset, self.ranking, runtime, seed)
        self.begin(name, training.ranker, seed)
        ranker = fit_ranker(training, self.ranking, runtime, seed).ranker
        metrics = {"seconds": time.process_time() - began}
        arrays: Arrays = {}
        for part, which in PARTS.items():
            logits = score_rows(ranker, self.dataset, self.dataset.rows(which))
            metrics |= {f"{part}/{key}": value for key, value in row_metrics(self.labelled[part], logits).items()}
            if part == "test":
                arrays |= logits
        metrics |= {f"variance/{e.vocabulary}": e.variance for e in self.reports.get(name, []) if e.variance < 1}
        say(f"  seed {seed}: test {metrics['test/auc']:.4f}, validation {metrics['valid/auc']:.4f}")
        return metrics, arrays

    def record(self, name: str, group: str, seeds: Sequence[int]) -> Record:
        """Train what is missing, gather the seeds, and take the differences to the cold start."""
        found = {seed: self.seed(name, seed, self.session.args.again) for seed in seeds}
        abouts = [about for about, _ in found.values()]
        base = "cold" + name[len(name.removesuffix("_tenth")) :]
        extra: Json = {}
        if name != base:
            cold = {seed: self.seed(base, seed) for seed in seeds}
            tasks = self.dataset.task_names
            draws = 50 if self.session.smoke else self.session.args.draws
            pairs = {t: ([a[t] for _, a in found.values()], [a[t] for _, a in cold.values()]) for t in tasks}
            extra = {
                "versus": difference(self.labelled["test"], pairs, draws, "test/"),
                "versus_name": base,
                "seed_by_seed": seed_by_seed(
                    [about["metrics"] for about in abouts], [about["metrics"] for about, _ in cold.values()]
                ),
            }
        return Record(
            variant=name,
            group=group,
            about=STARTS[name.removesuffix("_tenth")],
            command=self.session.command_of(name),
            seeds=tuple(seeds),
            data=self.dataset.fingerprint,
            settings=self.settings(name),
            extra=extra,
            **of_seeds(found),
        )


def seed_by_seed(own: Sequence[Json], other: Sequence[Json]) -> Json:
    """Differences of two models seed by seed, for every metric: mean, standard deviation, how many are above 0."""
    found: Json = {}
    for metric in [name for name in own[0] if name.startswith(("test/", "valid/"))]:
        gaps = np.array([a[metric] - b[metric] for a, b in zip(own, other, strict=True)])
        spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else None
        found[metric] = {"mean": float(gaps.mean()), "sd": spread, "above": int((gaps > 0).sum())}
    return found


def one_in(dataset: Dataset, share: int) -> Dataset:
    """Only one training row in `share`, drawn once, is learned from; histories and counts stay as they are."""
    parts = dataset.events.parts.copy()
    rows = np.flatnonzero(parts == Part.TRAIN)
    kept = np.random.default_rng(share).random(len(rows)) < 1.0 / share
    parts[rows[~kept]] = Part.PRIOR
    return replace(dataset, events=replace(dataset.events, parts=parts))


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [], seeds="1,2,3,4,5")
    options.add_argument("--draws", type=int, default=500, help="bootstrap draws of users (default: %(default)s)")
    session = start(options)
    groups = {f"{name}{suffix}": GROUPS[suffix] for suffix in SHARES for name in STARTS}
    if session.args.list:
        print("\n".join(f"{name:20} {group}" for name, group in groups.items()))
        return
    names = pick(groups, session.args.variants, session.args.shard)
    config, dataset = load(Source("kuairand.toml"))
    chain = Chain(session, config, one_in(dataset, 30) if session.smoke else dataset)
    tasks = dataset.task_names
    columns = {f"test/auc/{task}": f"AUC {task}" for task in tasks} | {
        f"test/gauc/{task}": f"GAUC {task}" for task in tasks
    }
    columns |= {"valid/auc": "validation AUC", "test/auc": "AUC, mean", "seconds": "seconds"}
    about = paragraphs(__doc__)
    title = "The chain on KuaiRand: warm against cold start"
    book = Book("chain-kuairand", title, about, columns, session.command, folder=session.args.out)
    fill(book, session, names, dataset.fingerprint, lambda name: chain.record(name, groups[name], session.seeds))


if __name__ == "__main__":
    run(main)
