"""How much more of an item's popularity its score should hold than training put there.

Towers that learn the next event know what is popular among next events. Where a whole later period is asked for, more
of it may be right: `score(u, i) + tau log p(i)`, p the share of the training events. It is one number, added to the
item biases when training is over, and the validation part chooses it.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from .two_tower import TwoTower
from .windows import TowerData

ADJUSTMENT = "logit_adjustment"
"""What `auto` chose, in the record of a training's last epoch."""
SURE = 2.0
"""Standard errors by which a tau must be better than none: what is within chance stays as it was trained."""
GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""What `auto` tries; of equals it takes the least."""


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


def chosen_adjustment(model: TwoTower, data: TowerData, config: RetrievalConfig) -> float:
    """The tau of a configuration; for `auto` the best of `GRID` by `fit.metric` on the validation part.

    0 where there is no item id, and for `auto` where no metric chooses, nobody asks anything in validation, or the best
    is not surely better than 0 over the users.

    Args:
        model: trained towers, or several as one, not adjusted.
        data: what they see.
        config: the `[retrieval]` section.
    """
    if config.logit_adjustment != AUTO:
        return float(config.logit_adjustment) if model.bias is not None else 0.0
    metric = config.fit.metric
    if model.bias is None or not metric or not asks(data, Part.VALID):
        return 0.0
    users, seen, truth = requests(data, Part.VALID)
    queries, items = query_vectors(model, data, users, data.ends(Part.VALID)[users]), item_vectors(model, data)
    shift = log_popularity(data)[_id_rows(data)].numpy().astype(np.float32)
    columns = list(_bias_columns(model))
    found: dict[float, F64] = {}
    for tau in GRID:
        moved = items.copy()
        moved[:, columns] += tau * shift[:, None]
        ranks = exact_ranks(queries, moved, truth, seen, device=device_of(model))
        found[tau] = rank_metrics(ranks, truth.lengths, [10, 100], ("recall", "ndcg")).values[metric]
    best = max(GRID, key=lambda tau: (float(found[tau].mean()), -tau))
    gains = found[best] - found[0.0]
    return best if gains.mean() > SURE * gains.std() / len(gains) ** 0.5 else 0.0


@cited("Menon et al. ICLR 2021 (logit adjustment after training, with the other sign)")
def adjust(model: TwoTower, data: TowerData, tau: float) -> None:
    """Add tau log p to the item biases in place; of an ensemble to each member's, whose mean then moves by as much.

    Args:
        model: trained towers, or several as one.
        data: whose training events are counted.
        tau: 0 leaves all as it is.
    """
    if tau == 0.0:
        return
    shift = log_popularity(data)
    with torch.no_grad():
        for member in _members(model):
            assert member.bias is not None
            rows = member.bias.rows_of(member.layout.item_id)
            rows += (tau * shift).to(rows)[:, None]


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
