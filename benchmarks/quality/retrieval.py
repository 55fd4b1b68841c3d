"""The two-tower retriever beside the baselines, and the whole funnel: full ranking, seen items removed.

The rule, written before any result: rows are compared by **validation NDCG@10**; test numbers choose nothing. The
epoch with the best validation NDCG@10 is kept.

Protocol. Every item of the catalogue that the user has not met before is ranked. Under leave-last-out each user's last
event is the test target and the one before it the validation target; training sees neither, and the history at test
time holds the validation item. Rows called `+valid` are retrained with it, for the same number of epochs and without
looking at any metric. The history is the only thing known of a user unless a row says otherwise, and the time of the
request is no input. A seed ensemble concatenates the vectors of the seeds: one dot product. Whole funnels retrieve 200
candidates and order them by a second stage trained on the validation part (85 % of the users; the rest choose the
epoch). Hits are also split by the time between the user's last known event and the target. Intervals are 95 % over
users drawn with replacement, of the mean over the seeds.

    python benchmarks/quality/retrieval.py --data movielens --variants baselines,mean,lstm --seeds 1,2,3
    python benchmarks/quality/retrieval.py --data movielens --variants funnel_select_lstm
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from recsys.base.arrays import F32
from recsys.base.errors import ConfigError
from recsys.base.package import install_hint
from recsys.base.ragged import Ragged
from recsys.base.topk import ranks_of_scores
from recsys.benchmarks.harness.finished import Arrays, of_seeds
from recsys.benchmarks.harness.lab import Lab, fill, paragraphs
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.harness.sources import load
from recsys.benchmarks.quality.retrieval_towers import Asked, Towers, second_stage, user_values
from recsys.benchmarks.quality.retrieval_variants import (
    FACTORS,
    SOURCES,
    TITLES,
    Variant,
    retrieval_config,
    variants,
)
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap
from recsys.pipeline.companions import fit_companions
from recsys.retrieval.baselines.base import Histories
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, train_two_tower
from recsys.retrieval.towers.windows import TowerData


@dataclass
class Retrieval(Lab):
    """A data set, its two encodings (with and without the validation part in training), and what is trained on them."""

    table = "retrieval"

    variants: dict[str, Variant] = field(default_factory=dict)

    @classmethod
    def open(cls, session: Session) -> Retrieval:
        """Load the data set of the command line."""
        config, dataset = load(SOURCES[session.args.data])
        found = variants(session.smoke)
        if not config.retrieval.positive:  # nothing tells a taken exposure from another
            found = {name: variant for name, variant in found.items() if variant.table.get("loss") != "exposures"}
        if not importlib.util.find_spec("implicit"):
            found = {name: variant for name, variant in found.items() if variant.baseline not in FACTORS}
        return cls(session, config, dataset, found)

    @cached_property
    def merged(self) -> Dataset:
        """The same data with the validation part in training and the test part in its place."""
        parts = self.dataset.events.parts.copy()
        parts[parts == Part.VALID] = Part.TRAIN
        parts[parts == Part.TEST] = Part.VALID
        return replace(self.dataset, events=replace(self.dataset.events, parts=parts))

    def section(self, name: str) -> RetrievalConfig:
        """`[retrieval]` of a row of towers."""
        variant = self.variants[name]
        table = self.variants[variant.tower].table if variant.tower else variant.table
        data = self.config.data
        item_id = next(s.name for s in data.features if s.side == "item" and s.source == data.item)
        return retrieval_config(table, self.config.retrieval, {s.name for s in data.features}, item_id)

    def settings(self, name: str) -> Json:
        """What decides a row."""
        variant = self.variants[name]
        about: Json = {"bf16": self.session.args.bf16, "retrained": variant.retrained, "second": variant.second}
        if variant.baseline:
            options = self.config.retrieval.baseline_options.get(variant.baseline, {})
            return {"baseline": variant.baseline, "options": dict(options)}
        return about | {"retrieval": self.section(name).model_dump(mode="json"), "data": self.config.data.split.kind}

    def towers(self, name: str, seed: int, again: bool = False) -> Towers:
        """Trained towers: from an earlier run, or now."""
        variant = self.variants[name]
        base = f"{variant.tower}+valid" if variant.retrained else variant.tower or name
        section, dataset = self.section(base), self.merged if variant.retrained else self.dataset
        settings = self.settings(base) | {"weights": True}
        data = TowerData.of(dataset, section.tower, section.positive)

        def now() -> tuple[dict[str, float], Arrays]:
            started, learned = time.perf_counter(), section
            if variant.retrained:  # the last epoch's weights: nothing may look at the test part
                learned = section.model_copy(update={"fit": section.fit.model_copy(update={"metric": ""})})
            model, _, history = train_two_tower(dataset, learned, self.session.runtime(seed), seed)
            metrics = {"seconds": time.perf_counter() - started, "best_epoch": float(history.best_epoch)}
            return metrics, {key: tensor.numpy() for key, tensor in model.state_dict().items()}

        about, arrays = self.done.seed(f"towers-{base}", seed, settings, now, again)
        model = build_two_tower(data, section.tower, seed)
        model.load_state_dict({key: torch.from_numpy(values) for key, values in arrays.items()})
        return Towers([model], data, Part.VALID if variant.retrained else Part.TEST, about["metrics"])

    def seed(self, name: str, seed: int, again: bool) -> tuple[Json, Arrays]:
        """Ranks of the targets by one seed, or what is left of them from an earlier run."""
        variant = self.variants[name]

        def now() -> tuple[dict[str, float], Arrays]:
            if variant.baseline:
                arrays, metrics = self._baseline(variant.baseline, seed)
            elif variant.second:
                arrays, metrics = self._funnel(name, [self.towers(name, seed)], seed)
            else:
                arrays, metrics = self._rank(self.towers(name, seed, again))
            shown = " ".join(f"{key} {metrics[key]:.4f}" for key in metrics if key in ("test/hit@10", "test/ndcg@10"))
            say(f"  seed {seed}: {shown} ({metrics['seconds']:.0f} s)")
            return metrics, arrays

        return self.done.seed(name, seed, self.settings(name), now, again)

    def _rank(self, towers: Towers) -> tuple[Arrays, dict[str, float]]:
        arrays: Arrays = {}
        metrics = dict(towers.metrics)
        for part, moment in towers.moments().items():
            asked = Asked.of(towers.data, moment)
            ranks = towers.ranks(asked)
            metrics |= {f"{part}/{key}": float(value.mean()) for key, value in user_values(ranks, asked).items()}
            arrays[f"{part}/ranks"] = ranks.items
            if part == "test":
                metrics |= asked.by_gap(ranks)
        return arrays, metrics

    def _baseline(self, name: str, seed: int) -> tuple[Arrays, dict[str, float]]:
        started = time.perf_counter()
        section = self.config.retrieval
        data = TowerData.of(self.dataset, section.tower, section.positive)
        options = dict(section.baseline_options.get(name, {})) | ({"seed": seed} if name in FACTORS else {})
        only = section.model_copy(
            update={"baselines": (name,), "scorers": (), "proposers": (), "baseline_options": {name: options}}
        )
        model = fit_companions(self.config.model_copy(update={"retrieval": only}), self.dataset, data)[name]
        arrays: Arrays = {}
        metrics: dict[str, float] = {}
        for part, moment in (("valid", Part.VALID), ("test", Part.TEST)):
            asked = Asked.of(data, moment)
            past = Histories(asked.seen)

            def scores(rows: slice, past: Histories = past) -> F32:
                return model.score(past.block(rows.start, rows.stop))

            ranks = ranks_of_scores(scores, data.num_items, asked.truth, asked.seen)
            metrics |= {f"{part}/{key}": float(value.mean()) for key, value in user_values(ranks, asked).items()}
            arrays[f"{part}/ranks"] = ranks.items
            if part == "test":
                metrics |= asked.by_gap(ranks)
        return arrays, metrics | {"seconds": time.perf_counter() - started}

    def _funnel(self, name: str, several: Sequence[Towers], seed: int) -> tuple[Arrays, dict[str, float]]:
        variant = self.variants[name]
        started = time.perf_counter()
        towers = Towers.averaged(several)
        learned = towers
        if variant.retrained:  # the second stage learns on the validation part, which its towers must not have seen
            plain = [self.towers(variant.tower, one) for one in ([seed] if len(several) == 1 else self.session.seeds)]
            learned = Towers.averaged(plain)
        config = self.config.model_copy(update={"retrieval": self.section(name)})
        companions = fit_companions(config, self.dataset, learned.data)
        later = fit_companions(config, self.merged, towers.data) if variant.retrained else companions
        ranked = second_stage(
            config,
            self.dataset,
            learned.retriever(companions, config),
            towers.retriever(later, config),
            towers.test_moment,
            variant.second,
            self.session.runtime(seed),
            seed,
            self.session.smoke,
        )
        asked = Asked.of(towers.data, towers.test_moment)
        ranks = asked.ranks_in(ranked)
        values = {k: v for k, v in user_values(ranks, asked).items() if k.endswith("@10")}
        metrics = {f"test/{key}": float(value.mean()) for key, value in values.items()} | asked.by_gap(ranks)
        return {"test/ranks": ranks.items}, metrics | {"seconds": time.perf_counter() - started}

    def ensemble(self, name: str, seeds: Sequence[int]) -> Json:
        """Metrics of the seeds' concatenated towers; none of towers with several user vectors, which have no order."""
        variant = self.variants[name]
        if variant.baseline or len(seeds) < 2 or self.section(name).tower.interests > 1:
            return {}
        several = [self.towers(name, seed) for seed in seeds]
        found = self._funnel(name, several, seeds[0]) if variant.second else self._rank(Towers.averaged(several))
        return {"ensemble": {key: value for key, value in found[1].items() if "@" in key}}

    def record(self, name: str, seeds: Sequence[int]) -> Record:
        """Train what is missing and gather the seeds."""
        variant = self.variants[name]
        own = seeds if not variant.baseline or variant.baseline in FACTORS else seeds[:1]
        found = {seed: self.seed(name, seed, self.session.args.again) for seed in own}
        section = self.section(name) if not variant.baseline else self.config.retrieval
        asked = Asked.of(TowerData.of(self.dataset, section.tower, section.positive), Part.TEST)
        each = [user_values(Ragged(arrays["test/ranks"], asked.truth.ptr), asked) for _, arrays in found.values()]
        keys = [key for key in each[0] if not variant.second or key.endswith("@10")]
        values = np.stack([np.mean([one[key] for one in each], axis=0) for key in keys], axis=1)
        boot = UserBootstrap(len(values), 50 if self.session.smoke else 1000)
        intervals = dict(zip((f"test/{key}" for key in keys), boot.interval(boot.means(values)), strict=True))
        return Record(
            variant=name,
            group=variant.group,
            about=variant.about,
            command=self.session.command_of(name),
            seeds=tuple(seeds),
            data=self.dataset.fingerprint,
            settings=self.settings(name),
            extra={"intervals": intervals, **asked.describe(), **self.ensemble(name, own)},
            **of_seeds(found),
        )


def main() -> None:
    """See the module."""
    session = start(parser(__doc__ or "", list(SOURCES)))
    if session.args.list:
        print("\n".join(f"{name:28} {variant.group}" for name, variant in variants().items()))
        return
    lab = Retrieval.open(session)
    names = pick({name: v.group for name, v in lab.variants.items()}, session.args.variants, session.args.shard)
    if missing := [name for name in FACTORS if name in session.args.variants.split(",") and name not in lab.variants]:
        raise ConfigError(f"{missing[0]} needs the package implicit; {install_hint('bench')}")
    columns = {f"test/{key}": key for key in ("hit@10", "ndcg@10", "recall@10", "recall@100", "recall@500")}
    gaps = {"same_second": "same second", "hour": "within the hour", "later": "later"}
    columns |= {f"test/hits@10/{key}": f"hits: {words}" for key, words in gaps.items()}
    columns |= {"valid/ndcg@10": "validation ndcg@10", "seconds": "seconds"}
    about = paragraphs(__doc__) + list(lab.dataset.notes)
    name = session.args.data
    out = session.args.out
    book = Book(f"retrieval-{name}", TITLES[name], about, columns, session.command, folder=out, rule="valid/ndcg@10")
    fill(book, session, names, lab.dataset.fingerprint, lambda variant: lab.record(variant, session.seeds))


if __name__ == "__main__":
    run(main)
