"""The same metrics on parts of the traffic: new users, tail items, one tab, one hour; and which parts to look at first.

A slice is any column of users, items or rows, or a bucket made from one. The worst slices are ordered by size x gap: a
small slice that is terrible and a large one that is slightly bad cost the same. All slices share the draws of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import F64, AnyArray, Floats, Ints
from ..base.errors import ConfigError, DataError
from ..base.ragged import Ragged, locate
from .config import EvaluationConfig
from .metrics.lists import UserMetrics
from .summary import bootstrap_of
from .uncertainty.bootstrap import UserBootstrap, ratio
from .uncertainty.row_samples import PIVOTAL, row_metric_samples

LOWER_IS_BETTER = frozenset({"logloss", "ece"})
OTHER = "(other)"


@dataclass(frozen=True, slots=True)
class Slice:
    """One metric on one part of the traffic.

    Attributes:
        column: what was sliced by.
        value: which part.
        metric: name of the metric.
        estimate: its value on this part; None when undefined.
        low: lower end of its interval.
        high: upper end of its interval.
        size: users, rows or relevant items in this part, whatever the metric averages over.
        share: size over the whole.
        gap: by how much this part is worse than the whole; negative is better.
    """

    column: str
    value: str
    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    size: int
    share: float
    gap: float | None

    @property
    def cost(self) -> float:
        """Share x gap: what the whole would gain if this part were as good as the whole."""
        return self.share * self.gap if self.gap is not None else 0.0

    def to_json(self) -> dict[str, Any]:
        """The slice as a flat object."""
        return asdict(self) | {"cost": self.cost}


def user_slices(
    metrics: UserMetrics, columns: Mapping[str, AnyArray], config: EvaluationConfig | None = None
) -> list[Slice]:
    """Per-user metrics averaged within each value of each column.

    Args:
        metrics: per-user values.
        columns: column name -> [U], one value per user of the arrays the metrics were computed from.
        config: draws, level, and how many values get a slice of their own.
    """
    config = config or EvaluationConfig()
    if len(metrics.users) == 0:
        return []
    boot, row = bootstrap_of(len(metrics.users), config), np.arange(len(metrics.users))
    overall = metrics.means()
    slices: list[Slice] = []
    for column, values in columns.items():
        if len(values) <= metrics.users.max():
            raise DataError(f"column '{column}' has {len(values)} values, user row {metrics.users.max()} has none")
        names, group = _groups(values[metrics.users], config.max_slices)
        size = np.bincount(group, minlength=len(names))
        count = boot.grouped_sums(group, row, np.ones(len(row)), len(names))
        for metric, value in metrics.values.items():
            samples = ratio(boot.grouped_sums(group, row, value, len(names)), count)
            slices += _slices(boot, column, names, metric=metric, samples=samples, size=size, overall=overall[metric])
    return slices


def item_slices(
    ranked: Ints,
    truth: Ragged,
    columns: Mapping[str, AnyArray],
    k: int,
    config: EvaluationConfig | None = None,
) -> list[Slice]:
    """Which relevant items are found: the share of them in the first k places, by a column of items.

    Args:
        ranked: int [U, >= k], item rows best first; -1 pads a short list.
        truth: relevant items of each user, each named once.
        columns: column name -> [N], one value per item, such as `popularity_buckets`.
        k: cut-off.
        config: draws, level, and how many values get a slice of their own.
    """
    config = config or EvaluationConfig()
    if len(truth.items) == 0:
        return []
    lists = ranked[:, :k]
    at = locate(truth, np.repeat(np.arange(len(lists)), lists.shape[1]), lists.reshape(-1))
    hit = np.zeros(len(truth.items))
    hit[at[at >= 0]] = 1.0
    boot, owner = bootstrap_of(len(truth), config), truth.users
    slices: list[Slice] = []
    for column, values in columns.items():
        names, group = _groups(values[truth.items], config.max_slices)
        count = boot.grouped_sums(group, owner, np.ones(len(owner)), len(names))
        samples = ratio(boot.grouped_sums(group, owner, hit, len(names)), count)
        size = np.bincount(group, minlength=len(names))
        slices += _slices(
            boot, column, names, metric=f"item_recall@{k}", samples=samples, size=size, overall=float(hit.mean())
        )
    return slices


def row_slices(
    labels: Floats,
    probabilities: Floats,
    users: Ints,
    columns: Mapping[str, AnyArray],
    config: EvaluationConfig | None = None,
    *,
    task: str = "",
) -> list[Slice]:
    """AUC, GAUC, log-loss, ECE and predicted over observed of one task, within each value of each column.

    Args:
        labels: [R], 0 or 1.
        probabilities: [R], in [0, 1].
        users: [R], user of each row, in any numbering.
        columns: column name -> [R], one value per row.
        config: draws, level, bins, and how many values get a slice of their own.
        task: set before the name of each metric, when several tasks are sliced.
    """
    config = config or EvaluationConfig()
    if len(labels) == 0:
        return []
    labels, probabilities = labels.astype(np.float64), probabilities.astype(np.float64)
    _, user = np.unique(users, return_inverse=True)
    boot = bootstrap_of(int(user.max()) + 1, config)
    single = UserBootstrap(boot.num_users, draws=0)
    whole = row_metric_samples(single, labels, probabilities, user, num_bins=config.num_bins)
    slices: list[Slice] = []
    for column, values in columns.items():
        if len(values) != len(labels):
            raise DataError(f"column '{column}' has {len(values)} values for {len(labels)} rows; pass one per row")
        names, group = _groups(values, config.max_slices)
        samples = row_metric_samples(
            boot, labels, probabilities, user, groups=group, num_groups=len(names), num_bins=config.num_bins
        )
        size = np.bincount(group, minlength=len(names))
        for metric, draws in samples.items():
            overall = float(whole[metric][0, 0])
            of_column = _slices(boot, column, names, metric=metric, samples=draws, size=size, overall=overall)
            slices += [replace(part, metric=f"{task} {metric}") for part in of_column] if task else of_column
    return slices


def worst_slices(slices: list[Slice], metric: str, limit: int = 10) -> list[Slice]:
    """The slices that cost most of a metric, by size x gap; only those worse than the whole."""
    costly = [part for part in slices if part.metric == metric and part.cost > 0]
    return sorted(costly, key=lambda part: -part.cost)[:limit]


def buckets(values: AnyArray, edges: tuple[float, ...]) -> NDArray[np.str_]:
    """Numbers as labelled ranges: edges (1, 5) give "< 1", "1 to < 5" and ">= 5"; NaN is "missing"."""
    if not edges or list(edges) != sorted(set(edges)):
        raise ConfigError(f"bucket edges {list(edges)} must rise; pass for example (1, 5, 20)")
    text = [f"{edge:g}" for edge in edges]
    middle = [f"{low} to < {high}" for low, high in pairwise(text)]
    names = np.array([f"< {text[0]}", *middle, f">= {text[-1]}", "missing"])
    number = np.asarray(values, dtype=np.float64)
    return names[np.where(np.isnan(number), len(names) - 1, np.searchsorted(edges, number, side="right"))]


def history_buckets(lengths: Ints) -> NDArray[np.str_]:
    """Users by the length of their history: from "0 events (new)" to "200 or more"."""
    edges = np.array([1, 5, 20, 50, 200])
    names = np.array(["0 events (new)", "1 to 4", "5 to 19", "20 to 49", "50 to 199", "200 or more"])
    return names[np.searchsorted(edges, lengths, side="right")]


def popularity_buckets(counts: Ints, head: float = 0.5, torso: float = 0.4) -> NDArray[np.str_]:
    """Items as "head", "torso", "tail" or "never seen" by their share of the events.

    Args:
        counts: int [N], training events of each item.
        head: the most popular items that together take this share of the events.
        torso: the next ones that take this share.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of the more popular items
    share = before / max(int(counts.sum()), 1)
    names = np.array(["head", "torso", "tail", "never seen"])
    kind = np.searchsorted(np.array([head, head + torso]), share, side="right")
    out = np.empty(len(counts), dtype=names.dtype)
    out[order] = names[np.where(counts[order] == 0, 3, kind)]
    return out


def _groups(values: AnyArray, limit: int) -> tuple[list[str], Ints]:
    """Names of the distinct values and the group of each entry; the rarest beyond `limit` share one group."""
    distinct, group, count = np.unique(_comparable(values), return_inverse=True, return_counts=True)
    names = [str(value) for value in distinct]
    if len(names) <= limit:
        return names, group
    largest = np.sort(np.argsort(-count, kind="stable")[: limit - 1])
    place = np.full(len(names), len(largest))
    place[largest] = np.arange(len(largest))
    return [*(names[index] for index in largest), OTHER], place[group]


def _comparable(values: AnyArray) -> AnyArray:
    return values.astype(str) if values.dtype == object else values


def _slices(
    boot: UserBootstrap,
    column: str,
    names: list[str],
    *,
    metric: str,
    samples: F64,
    size: Ints,
    overall: float | None,
) -> list[Slice]:
    slices: list[Slice] = []
    for group, interval in enumerate(boot.interval(samples, pivotal=metric in PIVOTAL)):
        value = float(samples[0, group]) if np.isfinite(samples[0, group]) else None
        low, high = interval or (None, None)
        gap = None if value is None or overall is None or not np.isfinite(overall) else _gap(metric, value, overall)
        share = float(size[group] / size.sum())
        slices.append(Slice(column, names[group], metric, value, low, high, int(size[group]), share, gap))
    return slices


def _gap(metric: str, value: float, overall: float) -> float:
    if metric == "predicted_to_observed":
        return abs(value - 1.0) - abs(overall - 1.0)
    return value - overall if metric in LOWER_IS_BETTER else overall - value
