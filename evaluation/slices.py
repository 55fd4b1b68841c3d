"""The same metrics on parts of the traffic: new users, tail items, one tab, one hour; and which parts to look at first.

A slice is any column of users, items or rows, or a bucket made from one. The worst slices are ordered by size x gap: a
small slice that is terrible and a large one that is slightly bad cost the same. All slices share the draws of users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import F64, AnyArray, Bool, Floats, Ints
from ..base.errors import ConfigError, DataError
from ..base.ragged import Ragged, locate
from .config import EvaluationConfig
from .metrics.lists import UserMetrics
from .summary import bootstrap_of
from .uncertainty.bootstrap import UserBootstrap, ratio
from .uncertainty.row_samples import PIVOTAL, row_metric_samples
from .uncertainty.value_samples import grouped_value_samples

LOWER_IS_BETTER = frozenset({"logloss", "ece", "rmse", "mae"})
OTHER = "(other)"
NONE = "(none)"


@dataclass(frozen=True, slots=True)
class Several:
    """A column whose entries have any number of values, such as the genres of films; each puts it into one slice.

    Attributes:
        names: the distinct values, V of them.
        codes: places in `names`, one list for each of n entries; an entry with an empty list is in the slice "(none)".
    """

    names: Sequence[str]
    codes: Ragged

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.codes)


Column = AnyArray | Several
"""One value per entry, or several."""


def taken(column: Column, entries: Ints | Bool) -> Column:
    """The column of chosen entries: row numbers, or a mask."""
    if not isinstance(column, Several):
        return column[entries]
    rows: Ints = np.flatnonzero(entries) if entries.dtype == bool else entries.astype(np.int64)
    return Several(column.names, column.codes.take(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
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
    metrics: UserMetrics, columns: Mapping[str, Column], config: EvaluationConfig | None = None
) -> list[Slice]:
    """Per-user metrics averaged within each value of each column.

    Args:
        metrics: per-user values.
        columns: column name -> [U], per user of the arrays the metrics were computed from; one value, or `Several`.
        config: draws, level, and how many values get a slice of their own.
    """
    config = config or EvaluationConfig()
    if len(metrics.users) == 0:
        return []
    boot = bootstrap_of(len(metrics.users), config)
    overall = metrics.means()
    slices: list[Slice] = []
    for column, values in columns.items():
        if len(values) <= metrics.users.max():
            raise DataError(f"column '{column}' has {len(values)} values, user row {metrics.users.max()} has none")
        parts = _parts(column, taken(values, metrics.users), config.max_slices)
        user, num = parts.entry, len(parts.names)
        count = boot.grouped_sums(parts.group, user, np.ones(len(user)), num)
        for metric, value in metrics.values.items():
            samples = ratio(boot.grouped_sums(parts.group, user, value[user], num), count)
            slices += _slices(boot, parts, metric=metric, samples=samples, overall=overall[metric])
    return slices


def target_slices(
    ranked: Ints,
    truth: Ragged,
    columns: Mapping[str, Column],
    k: int,
    config: EvaluationConfig | None = None,
) -> list[Slice]:
    """Which relevant items are found: the share of them in the first k places, by a column of these items.

    Args:
        ranked: int [U, >= k], item rows best first; -1 pads a short list.
        truth: relevant items of each user, each named once; E in all.
        columns: column name -> [E], one value per entry of the truth, such as `pause_buckets`, or what its
            item has, such as `popularity_buckets` (`taken`).
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
        if len(values) != len(truth.items):
            raise DataError(f"column '{column}' has {len(values)} values for {len(truth.items)} relevant items")
        parts = _parts(column, values, config.max_slices)
        user, group, num = owner[parts.entry], parts.group, len(parts.names)
        count = boot.grouped_sums(group, user, np.ones(len(user)), num)
        samples = ratio(boot.grouped_sums(group, user, hit[parts.entry], num), count)
        slices += _slices(boot, parts, metric=f"item_recall@{k}", samples=samples, overall=float(hit.mean()))
    return slices


def row_slices(
    labels: Floats,
    probabilities: Floats,
    users: Ints,
    columns: Mapping[str, Column],
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
    samples_of = partial(row_metric_samples, num_bins=config.num_bins)
    return _task_slices(labels, probabilities, users, columns, config, task, samples_of)


def value_slices(
    labels: Floats,
    values: Floats,
    users: Ints,
    columns: Mapping[str, Column],
    config: EvaluationConfig | None = None,
    *,
    task: str = "",
) -> list[Slice]:
    """RMSE, MAE, R2 and predicted over observed of one regression task, within each value of each column.

    Args:
        labels: [R], in the label's unit.
        values: [R], predictions in the same unit.
        users: [R], user of each row, in any numbering.
        columns: as of `row_slices`.
        config: as of `row_slices`.
        task: as of `row_slices`.
    """
    return _task_slices(labels, values, users, columns, config or EvaluationConfig(), task, grouped_value_samples)


def _task_slices(
    labels: Floats,
    predicted: Floats,
    users: Ints,
    columns: Mapping[str, Column],
    config: EvaluationConfig,
    task: str,
    samples_of: Callable[..., dict[str, F64]],
) -> list[Slice]:
    """Every metric of a task within each value of each column; `samples_of` gives the metrics of groups of rows."""
    if len(labels) == 0:
        return []
    labels, predicted = labels.astype(np.float64), predicted.astype(np.float64)
    _, user = np.unique(users, return_inverse=True)
    boot = bootstrap_of(int(user.max()) + 1, config)
    whole = samples_of(UserBootstrap(boot.num_users, draws=0), labels, predicted, user)
    slices: list[Slice] = []
    for column, values in columns.items():
        if len(values) != len(labels):
            raise DataError(f"column '{column}' has {len(values)} values for {len(labels)} rows; pass one per row")
        parts = _parts(column, values, config.max_slices)
        at, num = parts.entry, len(parts.names)
        samples = samples_of(boot, labels[at], predicted[at], user[at], groups=parts.group, num_groups=num)
        for metric, drawn in samples.items():
            sliced = _slices(boot, parts, metric=metric, samples=drawn, overall=float(whole[metric][0, 0]))
            slices += [replace(part, metric=f"{task} {metric}") for part in sliced] if task else sliced
    return slices


def worst_slices(slices: list[Slice], metric: str, limit: int = 10) -> list[Slice]:
    """The slices that cost most of a metric, by size x gap; only those worse than the whole."""
    costly = [part for part in slices if part.metric == metric and part.cost > 0]
    return sorted(costly, key=lambda part: -part.cost)[:limit]


def quarters(values: Floats, distinct: int = 10) -> NDArray[np.str_]:
    """Numbers as their own values where there are few different ones, else as ranges of a quarter of them each.

    Args:
        values: float [n]; NaN is "missing".
        distinct: most different numbers that are shown as they are.
    """
    known = values[~np.isnan(values)]
    different = np.unique(known)
    if len(different) <= distinct:
        names = np.array([*(f"{one:g}" for one in different), "missing"])
        return names[np.where(np.isnan(values), len(different), np.searchsorted(different, values))]
    return buckets(values, tuple(np.unique(np.quantile(known, (0.25, 0.5, 0.75), method="higher")).tolist()))


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


def activity_buckets(lengths: Ints) -> NDArray[np.str_]:
    """Users as "new", "light" and "heavy": without a history, with at most the median one, and with a longer one."""
    old = lengths[lengths > 0]
    middle = int(np.median(old)) if len(old) else 0
    names = np.array(["new (no history)", f"light (1 to {middle})", f"heavy (more than {middle})"])
    return names[np.where(lengths == 0, 0, np.where(lengths <= middle, 1, 2))]


def pause_buckets(seconds: Floats) -> NDArray[np.str_]:
    """Events by the time since the one before: most hits of a log come in the same sitting, and are worth least.

    Args:
        seconds: float [n]; NaN or infinite where nothing is known to come before.
    """
    names = np.array(["same second", "within an hour", "later than an hour", "no event before"])
    bounds = np.array([1.0, 3600.0])
    return names[np.where(np.isfinite(seconds), np.searchsorted(bounds, seconds, side="left"), len(names) - 1)]


def popularity_buckets(counts: Ints, head: float = 0.5, middle: float = 0.4) -> NDArray[np.str_]:
    """Items as "head", "middle", "tail" or "never seen" by their share of the events.

    Args:
        counts: int [N], training events of each item.
        head: the most popular items that together take this share of the events.
        middle: the next ones that take this share.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of the more popular items
    share = before / max(int(counts.sum()), 1)
    names = np.array(["head", "middle", "tail", "never seen"])
    kind = np.searchsorted(np.array([head, head + middle]), share, side="right")
    out = np.empty(len(counts), dtype=names.dtype)
    out[order] = names[np.where(counts[order] == 0, 3, kind)]
    return out


@dataclass(frozen=True, slots=True)
class _Parts:
    """A column's slices: `names`, and pairs of an entry and the slice `group` that it belongs to, both int [M].

    `whole` is the number of entries, whatever number of slices each is in.
    """

    column: str
    names: list[str]
    entry: Ints
    group: Ints
    whole: int


def _parts(column: str, values: Column, limit: int) -> _Parts:
    """Slices of a column; the rarest beyond `limit` share one."""
    if not isinstance(values, Several):
        names, group = _groups(values, limit)
        return _Parts(column, names, np.arange(len(group)), group, len(values))
    without = np.flatnonzero(values.codes.lengths == 0)
    entry = np.concatenate([values.codes.users, without])
    value = np.concatenate([values.codes.items, np.full(len(without), len(values.names))]).astype(np.int64)
    names, group = _groups(np.array([*values.names, NONE])[value], limit)
    pairs = np.unique(np.stack([entry, group]), axis=1)  # two rare values of one entry are one membership of "(other)"
    return _Parts(column, names, pairs[0], pairs[1], len(values))


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


def _slices(boot: UserBootstrap, parts: _Parts, *, metric: str, samples: F64, overall: float | None) -> list[Slice]:
    size = np.bincount(parts.group, minlength=len(parts.names))
    found: list[Slice] = []
    for one, interval in enumerate(boot.interval(samples, pivotal=metric in PIVOTAL)):
        value = float(samples[0, one]) if np.isfinite(samples[0, one]) else None
        low, high = interval or (None, None)
        gap = None if value is None or overall is None or not np.isfinite(overall) else _gap(metric, value, overall)
        share = float(size[one] / parts.whole)
        found.append(
            Slice(
                column=parts.column,
                value=parts.names[one],
                metric=metric,
                estimate=value,
                low=low,
                high=high,
                size=int(size[one]),
                share=share,
                gap=gap,
            )
        )
    return found


def _gap(metric: str, value: float, overall: float) -> float:
    if metric == "predicted_to_observed":
        return abs(value - 1.0) - abs(overall - 1.0)
    return value - overall if metric in LOWER_IS_BETTER else overall - value
