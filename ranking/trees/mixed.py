"""A network and boosted trees that answer as one: a share of each task's logit is the trees'."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from ...base.arrays import F64, Floats
from ...data.batch import Batch, Layout
from ...data.dataset import Dataset
from ...data.schema import TaskSpec
from ...evaluation.metrics.rows import logloss
from ..blend import BlendConfig
from ..calibrate import sigmoid
from ..config import RankingConfig
from ..held import Held
from ..ranker import Ranker
from ..requests import SELECT, RequestBatch, RequestRanker
from ..scoring import request_logits, request_loss, row_metrics, score_rows, select_metrics
from ..train import TrainedRanker, build_model, finished
from .fit import grow
from .forest import build_forest
from .settings import TreesConfig

SHARES: F64 = np.linspace(0.0, 1.0, 21)
"""Shares of the trees that are looked at."""


class MixedRanker(Ranker):
    """A network and trees on rows; it answers and is not trained as a whole.

    Args:
        network: trained.
        forest: grown.
        shares: task -> share of the trees; a task without any has the network's logit.
    """

    def __init__(self, network: Ranker, forest: Ranker, shares: dict[str, float]) -> None:
        nn.Module.__init__(self)
        self.config, self.layout, self.tasks = network.config, network.layout, network.tasks
        self.network, self.forest = network, forest
        self.shares = shares

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Ranker.forward`."""
        return _mixed(self.network(batch), self.forest(batch), self.shares)

    def texts(self) -> dict[str, str]:
        """The shares."""
        return {"shares.json": json.dumps(self.shares)}

    def read_texts(self, texts: Mapping[str, str]) -> None:
        """See `forest.Written`."""
        self.shares.update(json.loads(texts["shares.json"]))


class RequestMixed(RequestRanker):
    """A network and trees on requests.

    Args:
        network: with its head for `select`.
        forest: with its trees for `select`.
        shares: as of `MixedRanker`, and of `select`.
    """

    def __init__(self, network: RequestRanker, forest: RequestRanker, shares: dict[str, float]) -> None:
        nn.Module.__init__(self)
        self.config, self.others = network.config, network.others
        self.network, self.forest = network, forest
        self.shares = shares
        # By reference, as in an ensemble: both are modules of the members.
        self.__dict__["ranker"] = MixedRanker(network.ranker, forest.ranker, shares)

    def train(self, mode: bool = True) -> RequestMixed:
        """See `nn.Module.train`; the rankers as rows see them go along."""
        self.__dict__["ranker"].train(mode)
        super().train(mode)
        return self

    def forward(self, requests: RequestBatch) -> dict[str, Tensor]:
        """See `RequestRanker.forward`."""
        return _mixed(self.network(requests), self.forest(requests), self.shares)

    def texts(self) -> dict[str, str]:
        """The shares."""
        return {"shares.json": json.dumps(self.shares)}

    def read_texts(self, texts: Mapping[str, str]) -> None:
        """See `forest.Written`."""
        self.shares.update(json.loads(texts["shares.json"]))


def _mixed(
    network: Mapping[str, Tensor], forest: Mapping[str, Tensor], shares: Mapping[str, float]
) -> dict[str, Tensor]:
    both = {name: shares.get(name, 0.0) for name in network if name in forest}
    return {
        name: (1 - both[name]) * logit + both[name] * forest[name] if name in both else logit
        for name, logit in network.items()
    }


def as_mixed(network: nn.Module, forest: nn.Module, shares: dict[str, float]) -> tuple[nn.Module, Ranker]:
    """Both as one model, and the ranker in it."""
    if isinstance(network, RequestRanker):
        assert isinstance(forest, RequestRanker)
        both = RequestMixed(network, forest, shares)
        return both, both.ranker
    assert isinstance(network, Ranker)
    assert isinstance(forest, Ranker)
    rows = MixedRanker(network, forest, shares)
    return rows, rows


def build_whole(
    config: RankingConfig, layout: Layout, tasks: tuple[TaskSpec, ...], num_features: int, seed: int
) -> tuple[nn.Module, Ranker]:
    """The second stage as it answers: a network, trees, or both; see `build_model`."""
    if isinstance(config.model, TreesConfig):
        return build_forest(config.model, layout, tasks, num_features, config.select)
    network = build_model(config, layout, tasks, num_features, seed)
    if not config.trees.enabled:
        return network
    return as_mixed(network[0], build_forest(config.trees, layout, tasks, num_features, config.select)[0], {})


def train_trees(
    dataset: Dataset, config: RankingConfig, held: Held, seed: int, threads: int, blend: BlendConfig | None
) -> TrainedRanker:
    """Trees alone, calibrated; arguments as of `grow` and `finished`."""
    assert isinstance(config.model, TreesConfig)
    model, forest, history = grow(dataset, config, config.model, held, seed, threads)
    return finished(model, forest, history, dataset, config, held, blend, seed)


def with_trees(
    trained: TrainedRanker,
    dataset: Dataset,
    config: RankingConfig,
    held: Held,
    seed: int,
    threads: int,
    blend: BlendConfig | None,
) -> TrainedRanker:
    """A trained network with trees beside it: grown, mixed on the held-out rows, and calibrated as one.

    Arguments as of `grow` and `finished`.
    """
    forest, _, grown = grow(dataset, config, config.trees, held, seed, threads)
    trained.model.eval()
    model, ranker = as_mixed(trained.model, forest, {})
    assert isinstance(ranker, MixedRanker)
    ranker.shares.update(best_shares(ranker, dataset, held))
    if isinstance(model, RequestMixed) and held.asked is not None and len(held.asked):
        apart = [request_logits(one, held.asked)[SELECT].astype(np.float64) for one in (model.network, model.forest)]
        losses = [request_loss((1 - share) * apart[0] + share * apart[1], held.asked.taken) for share in SHARES]
        model.shares[SELECT] = float(SHARES[int(np.argmin(losses))])
    figures = row_metrics(ranker, dataset, held.rows) if dataset.config.tasks and len(held.rows) else {}
    if isinstance(model, RequestMixed) and held.asked is not None and len(held.asked):
        figures |= select_metrics(model, held.asked)
    told = {**grown.details[0]["trees"], "shares": dict(ranker.shares), "mixed": figures}
    earlier = trained.history.details
    details = [*earlier[:-1], {**(earlier[-1] if earlier else {}), "trees": told}]
    return finished(model, ranker, replace(trained.history, details=details), dataset, config, held, blend, seed)


def best_shares(ranker: MixedRanker, dataset: Dataset, held: Held) -> dict[str, float]:
    """Task -> the share of the trees with the least loss on the held-out rows; no task without rows there."""
    if not len(held.rows):
        return {}
    apart = [score_rows(one, dataset, held.rows) for one in (ranker.network, ranker.forest)]
    events, chosen, found = dataset.events, held.rows.numpy(), {}
    for column, task in enumerate(dataset.config.tasks):
        inside = events.mask[chosen, column]
        if inside.any():
            labels = events.labels[chosen, column][inside].astype(np.float64)
            network, forest = (told[task.name][inside].astype(np.float64) for told in apart)
            losses = [_loss(task, (1 - share) * network + share * forest, labels) for share in SHARES]
            found[task.name] = float(SHARES[int(np.argmin(losses))])
    return found


def _loss(task: TaskSpec, outputs: Floats, labels: Floats) -> float:
    if task.kind == "binary":
        return logloss(labels, sigmoid(outputs)) or 0.0
    return float(np.mean((outputs - (np.log1p(labels) if task.log1p else labels)) ** 2))
