"""What is added to the towers' scores when their training is over: what goes together, and what is popular.

Towers that learn the next event say what follows what. Where more is asked for than what comes next, more may be right:
a linear model of whole histories (`puresvd`), and `tau log p(i)`, p the share of the training events, on the item
biases. Of users without a history nothing else is known, and to them the biases may weigh more again: `q(u) . v(i) + w
b(i)`. The three numbers are chosen on the validation part, each by the users it is for. What the item bias of new items
is, nobody chooses but the configuration: a validation part holds few of them or none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import F64, Bool
from ...base.cited import cited
from ...base.device import device_of
from ...base.errors import ConfigError
from ...base.topk import exact_ranks
from ...data.split import Part
from ...data.vocabulary import UNKNOWN
from ...evaluation.metrics.lists import rank_metrics
from .linear import Factors, LinearPart
from .objective import AUTO
from .puresvd import svd_factors
from .train import RetrievalConfig, asks, item_vectors, query_vectors, requests
from .two_tower import EMPTY_WEIGHT, TwoTower
from .windows import TowerData

log = logging.getLogger(__name__)

SURE = 2.0
"""Standard errors by which a change must be better than none: what is within chance stays as it was trained."""
FEWEST = 30
"""Users below which a group chooses nothing: the spread of so few is not known."""
GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""What `auto` tries as tau; of equals it takes the least."""
LINEAR = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""What `auto` tries as the weight of the linear part."""
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""What `auto` tries as the weight of the biases for users without a history."""


@dataclass(frozen=True)
class Adjustment:
    """What is done to trained scores.

    Attributes:
        tau: factor on the logarithm of an item's share of the training events.
        empty_weight: of the item bias, for users without a history.
        linear: weight of the linear part; 0 for none.
        new_items: item bias of items without a training event, beside tau; None: what training made of it.
        factors: of the linear part, where they are at hand.
    """

    tau: float = 0.0
    empty_weight: float = 1.0
    linear: float = 0.0
    new_items: float | None = None
    factors: Factors | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_record(cls, record: Mapping[str, float]) -> Adjustment | None:
        """What a training's last epoch says was chosen; None where nothing was. What is configured is not in it."""
        tau = record.get("logit_adjustment")
        return None if tau is None else cls(tau, record.get(EMPTY_WEIGHT, 1.0), record.get("linear", 0.0))

    def to_record(self) -> dict[str, float]:
        """See `of_record`."""
        return {"logit_adjustment": self.tau, EMPTY_WEIGHT: self.empty_weight, "linear": self.linear}


def check_adjustment(config: RetrievalConfig) -> None:
    """Refuse an adjustment of scores that cannot hold it, before anything is trained.

    Raises:
        ConfigError: the towers have no item bias, or compare directions.
    """
    dot = config.tower.similarity == "dot"
    biased = {"logit_adjustment": (config.logit_adjustment != 0, "set it to 0")}
    biased["new_item_bias"] = config.new_item_bias is not None, "leave it out"
    for key, (asked, instead) in biased.items():
        if asked and not (dot and config.tower.item_bias):
            raise ConfigError(
                f"retrieval.{key} is part of the item bias, which these towers lack; {instead}, or set "
                'tower.similarity = "dot" and tower.item_bias = true'
            )
    if config.linear != 0 and not dot:
        raise ConfigError(
            'retrieval.linear is added to products, and tower.similarity = "cosine" has directions alone; set it to 0, '
            'or tower.similarity = "dot"'
        )


def chosen_adjustment(model: TwoTower, data: TowerData, config: RetrievalConfig) -> Adjustment:
    """What a configuration asks for; for `auto` the best of `LINEAR`, then of `GRID`, then of `WEIGHTS`, by
    `fit.metric` in validation.

    No change where there is no item id, and for `auto` where no metric chooses, nobody asks anything in validation, or
    none is surely better over the users. Users with a history choose the linear part and tau, or all where
    these are too few, and those without one the weight that their answers then need.

    Args:
        model: trained towers, or several as one, not adjusted.
        data: what they see.
        config: the `[retrieval]` section.
    """
    biased = model.bias is not None
    factors = svd_factors(data, config.linear_rank) if config.linear != 0 else None
    if config.linear != 0 and factors is None:
        log.warning("there is no linear part: the towers read no item id, or too few users and items have met")
    found = Adjustment(
        tau=0.0 if config.logit_adjustment == AUTO or not biased else float(config.logit_adjustment),
        linear=0.0 if config.linear == AUTO or factors is None else float(config.linear),
        factors=factors,
    )
    choices = {"linear": config.linear == AUTO and factors is not None}
    choices |= {"tau": config.logit_adjustment == AUTO and biased}
    if not (any(choices.values()) and config.fit.metric and asks(data, Part.VALID)):
        return found
    trial = _Trial(model, data, config.fit.metric, factors)
    known, new = trial.known, ~trial.known
    asking = known if known.sum() >= FEWEST else np.ones_like(known)
    if choices["linear"]:
        found = trial.best([replace(found, linear=weight) for weight in LINEAR], asking)
    if choices["tau"]:
        found = trial.best([replace(found, tau=tau) for tau in GRID], asking)
        if new.sum() >= FEWEST and known.any():
            found = trial.best([replace(found, empty_weight=weight) for weight in WEIGHTS], new)
    return found


class _Trial:
    """Users of the validation part and all items as vectors, in which an adjustment is a matter of some columns.

    Args:
        model: trained towers, or several as one, not adjusted.
        data: what they see.
        metric: by which changes are judged.
        factors: of a linear part, if there may be one.
    """

    def __init__(self, model: TwoTower, data: TowerData, metric: str, factors: Factors | None) -> None:
        self.users, self.seen, self.truth = requests(data, Part.VALID)
        self.metric, self.device = metric, device_of(model)
        ends = data.ends(Part.VALID)[self.users]
        self.known = ends > data.history.ptr[self.users]
        _put_linear(model, factors, 1.0)
        self.queries, self.items = query_vectors(model, data, self.users, ends), item_vectors(model, data)
        self.linear, self.biases = _columns(model)
        _put_linear(model, None)
        self.shift = log_popularity(data)[_id_rows(data)].numpy().astype(np.float32) if self.biases else None

    def best(self, changes: Sequence[Adjustment], asking: Bool) -> Adjustment:
        """The change whose users have the best mean of those that are surely better than the first, or the first."""
        return changes[_surely_best([self._measured(change)[asking] for change in changes])]

    def _measured(self, change: Adjustment) -> F64:
        """The metric of each user, [B]."""
        asked, moved = self.queries.copy(), self.items.copy()
        asked[..., self.linear] *= change.linear
        asked[..., self.biases] *= change.empty_weight
        if self.shift is not None:
            moved[:, self.biases] += change.tau * self.shift[:, None]
        ranks = exact_ranks(asked, moved, self.truth, self.seen, device=self.device)
        return rank_metrics(ranks, self.truth.lengths, [10, 100], ("recall", "ndcg")).values[self.metric]


def _surely_best(found: Sequence[F64]) -> int:
    """Which change has the best mean over its users of those whose gain is not within chance; 0, which is none, if none
    has such a gain.
    """
    if len(found[0]) < FEWEST:
        return 0
    best, mean = 0, float(found[0].mean())
    for place, values in enumerate(found[1:], start=1):
        gains = values - found[0]
        if gains.mean() > SURE * gains.std(ddof=1) / len(gains) ** 0.5 and values.mean() > mean:
            best, mean = place, float(values.mean())
    return best


@cited("Menon et al. ICLR 2021 (logit adjustment after training, with the other sign)")
def adjust(model: TwoTower, data: TowerData, by: Adjustment, rank: int = 0) -> None:
    """Add tau log p to the item biases in place, set that of new items, weigh them, and give the towers their linear
    part; of an ensemble each member, whose mean moves alike.

    Args:
        model: trained towers, or several as one.
        data: whose training events are counted.
        by: what `Adjustment()` says leaves all as it is.
        rank: of the linear part, where `by` holds no factors.
    """
    if by.linear:
        _put_linear(model, by.factors or svd_factors(data, rank), by.linear)
    shift = log_popularity(data) if by.tau else None
    with torch.no_grad():
        for member in _members(model):
            if member.bias is None:
                continue
            member.empty_weight.fill_(by.empty_weight)
            rows = member.bias.rows_of(member.layout.item_id)
            if by.new_items is not None:  # set and not added: a training that goes on sets it again
                rows[UNKNOWN] = by.new_items
            if shift is not None:
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


def _put_linear(model: TwoTower, factors: Factors | None, weight: float = 0.0) -> None:
    """Give each member a linear part, or take it away."""
    for member in _members(model):
        member.linear = None if factors is None else LinearPart.of(factors, weight).to(device_of(member))


def _columns(model: TwoTower) -> tuple[list[int], list[int]]:
    """Where the numbers of the linear part and the biases stand in the vectors: at the end of each member's."""
    linear: list[int] = []
    biases: list[int] = []
    end = 0
    for member in _members(model):
        begin, end = end + member.config.dim, end + member.width
        linear += range(begin, begin + member.rank)
        biases += range(begin + member.rank, end)
    return linear, biases
