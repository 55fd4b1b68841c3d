"""New users and new items: what each rung of the cold-start ladder is worth, and what content says of unmet items.

Protocol. MovieLens-1M, every rating an interaction. A tenth of the users is hidden from training with all their events,
a twentieth of the rated items likewise; the draw has its own seed and does not change with the trainings'. Of the rest,
everybody's last event validates (it chooses the epoch) and the others train. Everything is ranked by its full order.

New users. A hidden user makes four requests: knowing nothing, and after the first 1, 3 and 10 events. The truth of each
is the next ten events (fewer at the end of a history), the known ones are left out of the order. `popular`: training
events per film. `segment`: the same within gender, age and occupation, shrunk. `features`: the user tower with these
three, trained beside the histories; knowing nothing it reads them alone. `history`: a tower that reads histories only.
`ahead`: the same with `retrieval.horizon = 10` and `logit_adjustment = 0.5`, which suit a truth of ten events.
`..., ranked`: the configured second stage, trained as in a run on this split, orders 200 candidates of the rung.

New items. A user who trained and met hidden films is to find the last of them from the events before it: among all
films not met before (`all`), and among the films without a training event (`new`; some of these nobody ever rated).
`content` towers are those of `history` with a share of the item ids hidden in training (0, 0.1, 0.3); `network` towers
have a hidden layer of 128 on the item side besides, `text` towers read the film's title too, as `recsys embed` makes 64
numbers of it, fitted on the titles of films with a training event. `..., mean row`:
the embedding and the bias of the unknown id are set to the mean over the training events' ids afterwards. `genre`: mean
popularity of the film's genres; `taste`: the same times the user's share of each genre; `lot`: what chance would give.
`bias`: `retrieval.new_item_bias`, set when the training is over.

Intervals are 95 % over users drawn with replacement, of the mean over the seeds.

python benchmarks/quality/cold_start.py            # writes docs/results/cold-start-movielens.json
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from recsys.base.arrays import F64
from recsys.base.settings import merged
from recsys.base.topk import exact_ranks
from recsys.benchmarks.harness.finished import Arrays, of_seeds
from recsys.benchmarks.harness.lab import Lab, fill, paragraphs
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import parser, pick, run, say, start
from recsys.benchmarks.harness.sources import Source, load
from recsys.benchmarks.quality.cold_start_requests import (
    STAGES,
    TITLE,
    TITLES,
    Asked,
    Genres,
    hide,
    hide_titled,
    new_items,
    new_users,
)
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap
from recsys.funnel.funnel import Funnel
from recsys.funnel.run import TrainedRun, usable_scorers
from recsys.pipeline.companions import fit_companions
from recsys.pipeline.requests import select_requests
from recsys.ranking.train import train_ranker
from recsys.retrieval.baselines.base import Baseline, Histories
from recsys.retrieval.baselines.segment import SEGMENT_POPULARITY
from recsys.retrieval.merge import places
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.adjustment import Adjustment, adjust, chosen_adjustment
from recsys.retrieval.towers.train import (
    RetrievalConfig,
    build_two_tower,
    item_vectors,
    query_vectors,
    train_two_tower,
    validation_metrics,
)
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData

OVERRIDES = ("data.split.kind=column", "data.split.column=part")
SOURCES = {
    "movielens": Source("movielens-1m-mean.toml", OVERRIDES, hide),
    "ml-100k": Source(
        "movielens-1m-mean.toml", (*OVERRIDES, "data.path=../../shared/datasets/ml-100k/ml-100k.zip"), hide
    ),
}
TRAITS = ("gender", "age", "occupation")
USERS, ITEMS, RANKED = "new users", "new items", "new users, ranked"
BLOCK = 64


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        group: heading in the table.
        about: what it is, in a line.
        tower: changes of `[retrieval.tower]`; None for what needs no tower.
        mean_row: whether the unknown id's row is set to the mean of the trained ones.
        titles: whether items have a vector of their title.
        keys: further changes of `[retrieval]`.
    """

    group: str
    about: str
    tower: Json | None = None
    mean_row: bool = False
    titles: bool = False
    keys: Json = field(default_factory=dict)


def variants() -> dict[str, Variant]:
    """All rows by name."""
    features: Json = {"user_features": list(TRAITS)}
    found = {
        "popular": Variant(USERS, "popularity"),
        "segment": Variant(USERS, "popularity within gender, age and occupation, shrunk"),
        "features": Variant(USERS, "tower with the user's own features", features),
        "history": Variant(USERS, "tower with histories only", {}),
        "ahead": Variant(
            USERS,
            "the same, looking ten events ahead, half the logarithm of popularity added",
            {},
            keys={"horizon": 10, "logit_adjustment": 0.5},
        ),
        "segment_ranked": Variant(RANKED, "the ranker orders the candidates of `segment`", {}),
        "features_ranked": Variant(RANKED, "the ranker orders the candidates of `features`", features),
        "lot": Variant(ITEMS, "expectation of an order by lot"),
        "genre": Variant(ITEMS, "popularity of the film's genres"),
        "taste": Variant(ITEMS, "the same, times the user's share of each genre"),
    }
    for share in (0.0, 0.1, 0.3):
        tower: Json = {"id_dropout": share} if share else {}
        name = f"content_{round(100 * share)}"
        found[name] = Variant(ITEMS, f"tower, {share:.0%} of the ids hidden in training", tower)
        found[f"{name}_mean_row"] = Variant(
            ITEMS, "the same, the unknown id set to the mean of the training events' ids", tower, mean_row=True
        )
        about = f"the same with the film's title as a vector, {share:.0%} of the ids hidden"
        found[f"text_{round(100 * share)}"] = Variant(ITEMS, about, tower, titles=True)
        about = f"the same with a network on the item side, {share:.0%} of the ids hidden"
        found[f"network_{round(100 * share)}"] = Variant(ITEMS, about, {**tower, "item_hidden": [128]})
    for bias in (0.4, 0.8):
        about = f"tower, 10% of the ids hidden in training, an item bias of {bias} for new items"
        found[f"content_10_bias_{bias}"] = Variant(ITEMS, about, {"id_dropout": 0.1}, keys={"new_item_bias": bias})
    return found


@dataclass
class ColdStart(Lab):
    """The split data and what is trained on it."""

    table = "cold-start"

    variants: dict[str, Variant] = field(default_factory=variants)

    def section(self, variant: Variant) -> RetrievalConfig:
        """`[retrieval]` of a row."""
        table: Json = {"tower": variant.tower or {}, "segments": list(TRAITS), **variant.keys}
        if self.session.smoke:
            table = merged(table, {"tower": {"dim": 16}, "fit": {"epochs": 1}})
        return RetrievalConfig.model_validate(merged(self.config.retrieval.model_dump(), table))

    def settings(self, name: str) -> Json:
        """What decides a row."""
        variant = self.variants[name]
        about: Json = {"retrieval": self.section(variant).model_dump(mode="json"), "bf16": self.session.args.bf16}
        if variant.group == RANKED:
            about["ranking"] = self.config.ranking.model_dump(mode="json")
        about |= {"titles": TITLES} if variant.titles else {}
        return about | {"group": variant.group, "mean_row": variant.mean_row}

    @cached_property
    def titled(self) -> Dataset:
        """The same data with a vector of every film's title."""
        return load(replace(SOURCES[self.session.args.data], change=hide_titled, features=(TITLE,)))[1]

    def tower(self, variant: Variant, seed: int) -> tuple[TwoTower, TowerData, dict[str, float]]:
        """Trained towers: from an earlier row, or now; several rows stand on the same ones."""
        section = self.section(variant)
        settings = section.tower.model_dump(mode="json") | {"bf16": self.session.args.bf16}
        settings |= {"titles": TITLES} if variant.titles else {}
        settings |= {"horizon": section.horizon} if section.horizon != 1 else {}
        dataset = self.titled if variant.titles else self.dataset

        def now() -> tuple[dict[str, float], Arrays]:
            started = time.perf_counter()
            model, data, _ = train_two_tower(dataset, section, self.session.runtime(seed), seed)
            about = {"seconds": time.perf_counter() - started}
            about |= {f"valid/{key}": value for key, value in validation_metrics(model, data).items()}
            return about, {key: tensor.numpy() for key, tensor in model.state_dict().items()}

        about, arrays = self.done.seed("tower", seed, settings, now)
        data = TowerData.of(dataset, section.tower, section.positive)
        model = build_two_tower(data, section.tower, seed)
        model.load_state_dict({key: torch.from_numpy(values) for key, values in arrays.items()})
        kept = {key: value for key, value in about["metrics"].items() if key in ("seconds", "valid/ndcg@10")}
        if variant.mean_row:
            set_mean_row(model, data)
        adjusted = replace(chosen_adjustment(model, data, section), new_items=section.new_item_bias)
        if adjusted != Adjustment():
            adjust(model, data, adjusted)
            kept["valid/ndcg@10"] = validation_metrics(model, data)["ndcg@10"]
        return model, data, kept

    @cached_property
    def plain(self) -> tuple[TowerData, dict[str, Baseline]]:
        """Data and baselines of the rows without towers."""
        section = self.section(self.variants["popular"])
        data = TowerData.of(self.dataset, section.tower, section.positive)
        only = section.model_copy(update={"baselines": (), "scorers": ()})
        return data, fit_companions(self.config.model_copy(update={"retrieval": only}), self.dataset, data)

    def measure(self, name: str, seed: int) -> tuple[dict[str, F64], dict[str, float]]:
        """Per-user values of every metric, and what is known of the training."""
        variant = self.variants[name]
        if variant.group == RANKED:
            return self._ranked(name, seed)
        model, data, about = (None, self.plain[0], {}) if variant.tower is None else self.tower(variant, seed)
        values: dict[str, F64] = {}
        for title, asked in self._requests(variant.group, data).items():
            if model is not None:
                found = self._by_tower(model, data, asked)
            elif name == "lot":
                found = asked.by_chance()
            elif variant.group == ITEMS:
                found = asked.ranked(Genres.of(self.dataset, data).scores(asked, taste=name == "taste"))
            else:
                found = asked.ranked(
                    self._by_baseline("popularity" if name == "popular" else SEGMENT_POPULARITY, asked)
                )
            values |= {f"{title}/{key}": each for key, each in found.items()}
        return values, about

    def _requests(self, group: str, data: TowerData) -> dict[str, Asked]:
        if group == ITEMS:
            return {"all": new_items(data, among_new=False), "new": new_items(data, among_new=True)}
        return {f"after_{known}" if known else "first": new_users(data, known) for known in STAGES}

    def _by_tower(self, model: TwoTower, data: TowerData, asked: Asked) -> dict[str, F64]:
        queries, items = query_vectors(model, data, asked.users, asked.ends), item_vectors(model, data)
        if asked.pool is not None:
            return asked.values(exact_ranks(queries, items[asked.pool], asked.truth))
        return asked.values(exact_ranks(queries, items, asked.truth, asked.known))

    def _by_baseline(self, name: str, asked: Asked) -> Any:
        model = self.plain[1][name]
        past = Histories(asked.known, asked.users)
        return lambda rows: model.score(past.block(rows.start, rows.stop))

    def _ranked(self, name: str, seed: int) -> tuple[dict[str, F64], dict[str, float]]:
        """The second stage over the first request's candidates."""
        variant = self.variants[name]
        model, data, _ = self.tower(variant, seed)
        started = time.perf_counter()
        config = self.config.model_copy(update={"retrieval": self.section(variant)})
        ranking = config.ranking
        if self.session.smoke:
            table = merged(ranking.model_dump(), {"fit": {"epochs": 1}, "select": {"max_requests": 200}})
            ranking = type(ranking).model_validate(table)
        companions = fit_companions(config, self.dataset, data)
        retriever = Retriever(model, data, companions, scorers=usable_scorers(config, companions))
        asked = select_requests(self.dataset, retriever, config)
        trained = train_ranker(self.dataset, ranking, self.session.runtime(seed), seed, asked)
        trained.model.eval()
        whole = TrainedRun(
            config=config,
            dataset=self.dataset,
            retriever=retriever,
            model=trained.model,
            ranker=trained.ranker,
            calibrators=trained.calibrators,
        )
        funnel, fresh, moment = Funnel(whole), new_users(data, 0), int(Part.TEST)
        lists = []
        for begin in range(0, len(fresh.users), BLOCK):
            users = fresh.users[begin : begin + BLOCK]
            found = retriever.candidates(users, moment, config.retrieval.num_candidates)
            if name == "segment_ranked":
                past, queries = retriever.histories(users, moment), retriever.queries(users, moment)
                rows = retriever.propose(SEGMENT_POPULARITY, queries, past, config.retrieval.num_candidates)
                found = retriever.describe(rows, queries, past, places(rows)[:, :, None])
            lists.append(funnel.rank(users, found, moment).top(100))
        values = fresh.in_lists(np.concatenate(lists))
        return {f"first/{key}": each for key, each in values.items()}, {"seconds": time.perf_counter() - started}

    def seed(self, name: str, seed: int) -> tuple[Json, Arrays]:
        """One seed's values, or what is left of them from an earlier run."""

        def now() -> tuple[dict[str, float], Arrays]:
            values, about = self.measure(name, seed)
            metrics = {key: float(each.mean()) for key, each in values.items()} | about
            say(f"  seed {seed}: " + " ".join(f"{key} {metrics[key]:.4f}" for key in list(values)[:3]))
            return metrics, dict(values)

        return self.done.seed(name, seed, self.settings(name), now, self.session.args.again)

    def record(self, name: str, seeds: Sequence[int]) -> Record:
        """Train what is missing and gather the seeds."""
        variant = self.variants[name]
        own = seeds if variant.tower is not None else seeds[:1]
        found = {seed: self.seed(name, seed) for seed in own}
        intervals: Json = {}
        for key in next(iter(found.values()))[1]:
            values = np.mean([arrays[key] for _, arrays in found.values()], axis=0)[:, None]
            boot = UserBootstrap(len(values), 50 if self.session.smoke else 1000)
            intervals[key] = boot.interval(boot.means(values))[0]
        return Record(
            variant=name,
            group=variant.group,
            about=variant.about,
            command=self.session.command_of(name),
            seeds=tuple(seeds),
            data=self.dataset.fingerprint,
            settings=self.settings(name),
            extra={"intervals": intervals},
            **of_seeds(found),
        )


def set_mean_row(model: TwoTower, data: TowerData) -> None:
    """Give the unknown item id the embedding, and the bias, that the ids of the training events have on average."""
    tables = [model.table] if model.bias is None else [model.table, model.bias]
    with torch.no_grad():
        for table in tables:
            rows = table.rows_of(model.layout.item_id)
            events = torch.zeros(len(rows), dtype=torch.float64)
            events.index_add_(0, data.items.categorical[:, model.item_id_column], data.popularity(Part.VALID))
            share = (events[FIRST:] / events[FIRST:].sum()).to(rows.dtype)
            rows[UNKNOWN] = share @ rows[FIRST:]


def main() -> None:
    """See the module."""
    session = start(parser(__doc__ or "", list(SOURCES)))
    offered = variants()
    if session.args.list:
        print("\n".join(f"{name:20} {variant.group}" for name, variant in offered.items()))
        return
    config, dataset = load(SOURCES[session.args.data])
    lab = ColdStart(session, config, dataset)
    names = pick({name: v.group for name, v in offered.items()}, session.args.variants, session.args.shard)
    titles = {"first": "nothing known"} | {f"after_{n}": f"after {n}" for n in STAGES if n}
    titles |= {"all": "among all", "new": "among new"}
    columns = {
        f"{t}/{m}": f"{words}: {m}" for t, words in titles.items() for m in ("recall@10", "recall@100", "ndcg@10")
    }
    columns |= {"valid/ndcg@10": "known users: validation ndcg@10", "seconds": "seconds"}
    about = paragraphs(__doc__, 4) + list(dataset.notes)
    title = f"New users and new items, {'MovieLens-1M' if session.args.data == 'movielens' else 'MovieLens-100K'}"
    book = Book(f"cold-start-{session.args.data}", title, about, columns, session.command, folder=session.args.out)
    fill(book, session, names, dataset.fingerprint, lambda name: lab.record(name, session.seeds))


if __name__ == "__main__":
    run(main)
