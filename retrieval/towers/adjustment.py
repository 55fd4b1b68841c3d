"""How much more of an item's popularity its score should hold than training put there.

Towers that learn the next event know what is popular among next events. Where a whole later period is asked for, more
of it may be right: `score(u, i) + tau log p(i)`, p the share of the training events, which is added to the item biases
when training is over. Of users without a history nothing else is known, and to them the biases may weigh more again:
`q(u) . v(i) + w b(i)`. Both numbers are chosen on the validation part, each by the users it is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import F64
from ...base.cited import cited
from ...base.device import device_of
from ...base.errors import ConfigError
from ...base.topk import exact_ranks
from ...data.split import Part
from ...evaluation.metrics.lists import rank_metrics
from .objective import AUTO
from .train import RetrievalConfig, asks, item_vectors, query_vectors, requests
from .two_tower import EMPTY_WEIGHT, TwoTower
from .windows import TowerData

SURE = 2.0
"""Standard errors by which a change must be better than none: what is within chance stays as it was trained."""
FEWEST = 30
"""Users below which a group chooses nothing: the spread of so few is not known."""
GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""What `auto` tries as tau; of equals it takes the least."""
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""What `auto` tries as the weight of the biases for users without a history."""


@dataclass(frozen=True)
class Adjustment:
    """What is done to trained scores.

    Attributes:
        tau: factor on the logarithm of an item's share of the training events.
        empty_weight: of the item bias, for users without a history.
    """

    tau: float = 0.0
    empty_weight: float = 1.0

    @classmethod
    def of_record(cls, record: Mapping[str, float]) -> Adjustment | None:
        """What a training's last epoch says was chosen; None where nothing was."""
        tau = record.get("logit_adjustment")
        return None if tau is None else cls(tau, record.get(EMPTY_WEIGHT, 1.0))

    def to_record(self) -> dict[str, float]:
        """See `of_record`."""
        return {"logit_adjustment": self.tau, EMPTY_WEIGHT: self.empty_weight}


def check_adjustment(config: RetrievalConfig) -> None:
    """Refuse an adjustment of scores that have no item bias, before anything is trained.

    Raises:
        ConfigError: the towers have none.
    """
    if config.logit_adjustment != 0 and not (config.tower.similarity == "dot" and config.tower.item_bias):
        raise ConfigError(
            "retrieval.logit_adjustment is added to the item bias, which these towers lack; set it to 0, or "
            'tower.similarity = "dot" and tower.item_bias = true'
        )


def chosen_adjustment(model: TwoTower, data: TowerData, config: RetrievalConfig) -> Adjustment:
    """What a configuration asks for; for `auto` the best of `GRID` and of `WEIGHTS` by `fit.metric` in validation.

    No change where there is no item id, and for `auto` where no metric chooses, nobody asks anything in validation, or
    the best is not surely better over the users. Users with a history choose tau, or all where these are too few, and
    those without one the weight that their answers then need.

    Args:
        model: trained towers, or several as one, not adjusted.
        data: what they see.
        config: the `[retrieval]` section.
    """
    if config.logit_adjustment != AUTO:
        return Adjustment(float(config.logit_adjustment) if model.bias is not None else 0.0)
    metric = config.fit.metric
    if model.bias is None or not metric or not asks(data, Part.VALID):
        return Adjustment()
    users, seen, truth = requests(data, Part.VALID)
    ends = data.ends(Part.VALID)[users]
    queries, items = query_vectors(model, data, users, ends), item_vectors(model, data)
    shift = log_popularity(data)[_id_rows(data)].numpy().astype(np.float32)
    columns = list(_bias_columns(model))

    def measured(tau: float, weight: float = 1.0) -> F64:
        moved, asked = items.copy(), queries.copy()
        moved[:, columns] += tau * shift[:, None]
        asked[..., columns] *= weight
        ranks = exact_ranks(asked, moved, truth, seen, device=device_of(model))
        return rank_metrics(ranks, truth.lengths, [10, 100], ("recall", "ndcg")).values[metric]

    known = ends > data.history.ptr[users]
    asking = known if known.sum() >= FEWEST else np.ones_like(known)
    tau = _surely_best({tau: measured(tau)[asking] for tau in GRID})
    if (~known).sum() < FEWEST or not known.any():
        return Adjustment(tau)
    return Adjustment(tau, _surely_best({weight: measured(tau, weight)[~known] for weight in WEIGHTS}))


def _surely_best(found: Mapping[float, F64]) -> float:
    """The change whose users have the best mean, or the first, which is none, where that gain is within chance."""
    none = next(iter(found))
    if len(found[none]) < FEWEST:
        return none
    best = max(found, key=lambda change: (float(found[change].mean()), -change))
    gains = found[best] - found[none]
    return best if gains.mean() > SURE * gains.std(ddof=1) / len(gains) ** 0.5 else none


@cited("Menon et al. ICLR 2021 (logit adjustment after training, with the other sign)")
def adjust(model: TwoTower, data: TowerData, by: Adjustment) -> None:
    """Add tau log p to the item biases in place, and weigh them; of an ensemble each member's, whose mean moves alike.

    Args:
        model: trained towers, or several as one.
        data: whose training events are counted.
        by: tau 0 and weight 1 leave all as it is.
    """
    shift = log_popularity(data) if by.tau else None
    with torch.no_grad():
        for member in _members(model):
            if member.bias is None:
                continue
            member.empty_weight.fill_(by.empty_weight)
            if shift is not None:
                rows = member.bias.rows_of(member.layout.item_id)
                rows += (by.tau * shift).to(rows)[:, None]


def log_popularity(data: TowerData) -> Tensor:
    """Logarithm of the share of the training events of each row of the item ids, float64 [V].

    Every row is counted once more. Items without a row of their own share that of the unknown id, which counts what an
    item of them has on average.
    """
    codes = _id_rows(data)
    size = data.layout.sizes[data.layout.item_id]
    events = torch.zeros(size, dtype=torch.float64).index_add_(0, codes, data.popularity(Part.VALID))
    items = torch.bincount(codes, minlength=size).clamp(min=1)
    counts = events / items + 1.0
    return (counts / counts.sum()).log()


def _id_rows(data: TowerData) -> Tensor:
    """Row of each item of the catalogue among the item ids, int64 [N]."""
    return data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)]


def _members(model: TwoTower) -> list[TwoTower]:
    towers = getattr(model, "towers", None)
    return [model] if towers is None else list(towers())


def _bias_columns(model: TwoTower) -> Iterator[int]:
    """Where the biases stand in the vectors of the items: the last of each member."""
    end = 0
    for member in _members(model):
        end += member.width
        yield end - 1
