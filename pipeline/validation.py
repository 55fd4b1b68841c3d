"""Which figure of the validation part judges a whole training, and what it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..base.errors import ConfigError, RunError
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..funnel.run import Stage, TrainedRun
from ..ranking.labels import row_metric
from .train import Stages

ORDERED = "select_ndcg@10"
"""Of two stages: where the item taken stands among the retriever's candidates as the ranker orders them; an item that
was not retrieved counts as not found, so that towers are judged with it."""


@dataclass(frozen=True)
class Judged:
    """The figure that judges.

    Attributes:
        metric: its name.
        stage: whose epochs have it.
        upwards: whether it is to grow.
    """

    metric: str
    stage: Stage
    upwards: bool

    def of(self, trained: TrainedRun) -> float:
        """The figure of the weights that a training kept: of the epoch it chose; of trees beside a network, of the mix.

        Raises:
            RunError: it was not measured, or is undefined.
        """
        records = trained.training.get(self.stage, ())
        chosen = trained.epochs.get(self.stage, (len(records),))[0]
        record = dict(records[min(chosen, len(records)) - 1]) if records else {}
        mixed = (records[-1].get("trees") or {}).get("mixed") if records else None
        value = (mixed or record).get(self.metric)
        if value is None or not math.isfinite(value):
            there = ", ".join(sorted(name for name, one in record.items() if isinstance(one, float)))
            raise RunError(f'"{self.metric}" was not measured in validation; there are: {there or "no figures"}')
        return float(value)


def judged(config: RunConfig, dataset: Dataset, stage: Stages, metric: str = "") -> Judged:
    """What judges trainings of a configuration.

    Args:
        config: the whole configuration.
        dataset: encoded data.
        stage: that is trained.
        metric: asked for; the usual one when empty.

    Raises:
        ConfigError: nothing is measured in validation.
    """
    two_stages = bool(config.data.user and config.data.item)
    if stage == "retrieval":
        named, of = metric or config.retrieval.fit.metric, "retrieval"
    else:
        usual = (
            ORDERED if two_stages and config.ranking.select.enabled else row_metric(dataset, dataset.rows(Part.VALID))
        )
        asked = config.ranking.fit.metric
        named, of = metric or (usual if asked == "auto" or not asked else asked), "ranking"
        if not metric and named == "select_loss":
            named = ORDERED  # the loss of a request whose item was not retrieved is unknown
    if not named:
        raise ConfigError("no figure of the validation part can judge: its rows have no label that varies")
    return Judged(named, "retrieval" if of == "retrieval" else "ranking", "loss" not in named and named not in ERRORS)


ERRORS = ("rmse", "mae")
