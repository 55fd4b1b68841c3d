"""What the retrieval tables are made of: requests, towers of one or several seeds, the second stage over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recsys.base.arrays import F32, F64, I64, Bool
from recsys.base.ragged import Ragged
from recsys.base.settings import merged
from recsys.base.topk import exact_ranks
from recsys.configs.run import RunConfig
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.evaluation.metrics.lists import rank_metrics
from recsys.funnel.funnel import Funnel
from recsys.funnel.run import TrainedRun, usable_scorers
from recsys.pipeline.requests import select_requests
from recsys.ranking.config import RankingConfig
from recsys.ranking.train import train_ranker
from recsys.retrieval.baselines.base import Baseline
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.train import item_vectors, query_vectors, requests
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData
from recsys.training.progress import track
from recsys.training.runtime import Runtime

KS = (10, 100, 500)
BLOCK = 64
HOUR = 3600.0
SELECT: dict[str, Any] = {
    "model": {
        "kind": "shared_bottom",
        "bottom_hidden": [64],
        "dropout": 0.2,
        "input": {"embedding_dim": 8},
    },
    "select": {"requests_per_step": 16, "hidden": [64, 64]},
    "optim": {"lr": 1e-3, "warmup_steps": 50, "schedule": "cosine", "final_fraction": 0.02},
    "fit": {"epochs": 10, "metric": "auto", "patience": 0},
    "calibration": {"kind": "none"},
    "warm_start": False,
}
"""The second stage without logged rows: the listwise task over the candidates, a small network beside it."""


@dataclass(frozen=True)
class Asked:
    """Requests at the start of a part.

    Attributes:
        users: int64 [B] user rows.
        seen: item rows before the part.
        truth: new item rows of the part, per request.
        gaps: float64 [E] seconds from the user's last known event to each target; NaN without a known event.
    """

    users: I64
    seen: Ragged
    truth: Ragged
    gaps: F64

    @classmethod
    def of(cls, data: TowerData, part: Part) -> Asked:
        """Everybody with something to predict in the part."""
        users, seen, truth = requests(data, part)
        history = data.history
        ends = history.ends(part)
        last = np.where(ends > history.ptr[:-1], history.times[np.maximum(ends - 1, 0)], np.nan)
        last = np.where(np.isfinite(last), last, np.nan)
        # the first time each target is taken: targets are (user, item) pairs, events of the part in time order
        owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
        inside = np.flatnonzero(history.parts == part)
        keys = owner[inside] * data.num_items + history.items[inside]
        pairs, first = np.unique(keys, return_index=True)
        asked = users[truth.users] * data.num_items + truth.items
        when = history.times[inside[first[np.searchsorted(pairs, asked)]]]
        return cls(users, seen, truth, when - last[users[truth.users]])

    def groups(self) -> dict[str, Bool]:
        """Targets by how soon they follow: masks [E]."""
        gaps = self.gaps
        with np.errstate(invalid="ignore"):
            return {
                "same_second": gaps < 1.0,
                "hour": (gaps >= 1.0) & (gaps <= HOUR),
                "later": gaps > HOUR,
                "no_history": np.isnan(gaps),
            }

    def by_gap(self, ranks: Ragged) -> dict[str, float]:
        """Share of the targets of each group that stand among the first ten."""
        hit = (ranks.items > 0) & (ranks.items <= 10)
        return {f"test/hits@10/{name}": float(hit[mask].mean()) for name, mask in self.groups().items() if mask.any()}

    def describe(self) -> dict[str, Any]:
        """How many requests and targets there are, and the share of targets in each group."""
        shares = {name: float(mask.mean()) for name, mask in self.groups().items()}
        return {"requests": len(self.users), "targets": len(self.truth.items), "targets_by_gap": shares}

    def ranks_in(self, lists: I64) -> Ragged:
        """Ranks of the targets in given lists [B, k]; 0 for those not in them."""
        found = lists[self.truth.users] == self.truth.items[:, None]
        return Ragged(np.where(found.any(1), found.argmax(1) + 1, 0), self.truth.ptr)


def user_values(ranks: Ragged, asked: Asked) -> dict[str, F64]:
    """Per-user `hit@k`, `ndcg@k`, `recall@k`."""
    return rank_metrics(ranks, asked.truth.lengths, list(KS), ("hit", "ndcg", "recall")).values


@dataclass(frozen=True)
class Towers:
    """Towers of one seed, or of several whose vectors are concatenated.

    Attributes:
        models: trained towers.
        data: what they see.
        test_moment: the part that holds the test rows in `data` (validation's place where they were retrained).
        metrics: of the training.
    """

    models: list[TwoTower]
    data: TowerData
    test_moment: Part
    metrics: Mapping[str, float]

    @classmethod
    def averaged(cls, several: Sequence[Towers]) -> Towers:
        """All of them as one: the score is the mean of their scores."""
        first = several[0]
        models = [model for one in several for model in one.models]
        return cls(models, first.data, first.test_moment, first.metrics if len(several) == 1 else {})

    def moments(self) -> dict[str, Part]:
        """Parts to measure, by name."""
        if self.test_moment == Part.VALID:
            return {"test": Part.VALID}
        return {"valid": Part.VALID, "test": Part.TEST}

    def ranks(self, asked: Asked) -> Ragged:
        """Full-ranking ranks of the targets."""
        retriever = Retrieving(self.models, self.data, {})
        ends = np.asarray(self.data.history.ptr[asked.users] + asked.seen.lengths, dtype=np.int64)
        queries = retriever.query_block(asked.users, ends)
        return exact_ranks(queries, retriever.item_vectors, asked.truth, asked.seen)

    def retriever(self, companions: Mapping[str, Baseline], config: RunConfig) -> Retriever:
        """The first stage of a funnel."""
        return Retrieving(self.models, self.data, companions, usable_scorers(config, companions))


class Retrieving(Retriever):
    """A retriever whose vectors are those of several towers side by side, scaled so that scores are their mean."""

    def __init__(
        self,
        models: Sequence[TwoTower],
        data: TowerData,
        companions: Mapping[str, Baseline],
        scorers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(models[0], data, companions, scorers=scorers)
        self.models = models
        self.item_vectors = np.hstack([item_vectors(model, data) for model in models])

    def query_block(self, users: I64, ends: I64) -> F32:
        """Query vectors before pointers [B] -> [B, sum of widths]."""
        # `describe` multiplies by the first model's scale, so the others' come relative to it
        with torch.no_grad():
            scales = [float(model.scale) for model in self.models]
        shares = [np.float32(scale / scales[0] / len(scales)) for scale in scales]
        vectors = [query_vectors(model, self.data, users, ends) for model in self.models]
        return np.hstack([share * block for share, block in zip(shares, vectors, strict=True)])

    def queries(self, users: I64, moment: int) -> F32:
        """See `Retriever.queries`."""
        return self.query_block(users, self.data.ends(moment)[users])


def second_stage(
    config: RunConfig,
    dataset: Dataset,
    learned: Retriever,
    serving: Retriever,
    test_moment: Part,
    kind: str,
    runtime: Runtime,
    seed: int,
    smoke: bool,
) -> I64:
    """Train the second stage on the validation part and order the test part's candidates.

    Args:
        config: the whole configuration.
        dataset: with the validation part apart.
        learned: proposes the candidates the second stage learns on.
        serving: proposes those it orders.
        test_moment: where the test part begins in the serving retriever's data.
        kind: `select` or `full`.
        runtime: arithmetic.
        seed: of weights, order and draws.
        smoke: train as little as possible.

    Returns:
        The best ten items of every request, int64 [B, 10], -1 pads.
    """
    section, rows = config.ranking, dataset
    if kind == "select":
        section = RankingConfig.model_validate(SELECT)
        rows = _without_tasks(dataset)
    if smoke:
        table = merged(section.model_dump(), {"fit": {"epochs": 1}, "select": {"max_requests": 200}})
        section = RankingConfig.model_validate(table)
    config = config.model_copy(update={"ranking": section})
    asked = select_requests(rows, learned, config)
    trained = train_ranker(rows, section, runtime, seed, asked)
    funnel = Funnel(
        TrainedRun(
            config=config,
            dataset=rows,
            retriever=serving,
            model=trained.model,
            ranker=trained.ranker,
            calibrators=trained.calibrators,
        )
    )
    users, _, _ = requests(serving.data, test_moment)
    trained.model.eval()
    lists = []
    starts = range(0, len(users), BLOCK)
    for start in track(starts, "ordering candidates", len(starts)):
        block = users[start : start + BLOCK]
        found = serving.candidates(block, int(test_moment), config.retrieval.num_candidates)
        lists.append(funnel.rank(block, found, int(Part.TEST)).top(10))
    return np.concatenate(lists)


def _without_tasks(dataset: Dataset) -> Dataset:
    """The same columns with nothing to learn from logged rows."""
    return replace(dataset, config=dataset.config.model_copy(update={"tasks": ()}))
