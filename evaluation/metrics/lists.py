"""Ranked-list metrics: recall, hit, NDCG, MRR, precision and MAP at K, per user.

All of them are functions of the ranks at which a user's relevant items stand, so a ranked list is first turned into
those ranks, and ranks computed over the whole catalogue go through the same code. Definitions are those of trec_eval
with binary gains (NDCG: Jarvelin and Kekalainen 2002, ideal over min(K, number of relevant items); MAP is divided by
the number of relevant items). How good predicted probabilities are is `row_metrics`; what the lists look like,
whoever likes them, is `catalogue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...base.arrays import F64, Bool, Floats, Ints
from ...base.errors import ConfigError, DataError
from ...base.ragged import Ragged, contains, locate, offsets

LIST_METRICS = ("recall", "hit", "ndcg", "mrr", "precision", "map")


@dataclass(frozen=True, slots=True)
class UserMetrics:
    """Per-user values of several metrics.

    Attributes:
        users: int [V], row of each evaluated user in the arrays the metrics were computed from.
        values: metric name -> float64 [V].
        skipped: users left out because they have no relevant item.
    """

    users: Ints
    values: dict[str, F64]
    skipped: int

    def means(self) -> dict[str, float | None]:
        """Mean of each metric over the evaluated users; None when there are none."""
        return {name: float(value.mean()) if len(value) else None for name, value in self.values.items()}

    def matrix(self) -> F64:
        """The values as one float64 [V, M], columns in the order of `values`."""
        return np.stack(list(self.values.values()), axis=1)


def hit_matrix(ranked: Ints, truth: Ragged) -> Bool:
    """Where a ranked list holds a relevant item.

    Args:
        ranked: int [U, k], item rows best first; -1 pads a short list.
        truth: relevant items of each of the U users.

    Returns:
        bool [U, k].

    Raises:
        DataError: another number of users, or a list that holds an item twice.
    """
    _check_lists(ranked, truth)
    users = np.repeat(np.arange(len(ranked)), ranked.shape[1])
    return contains(truth, users, ranked.reshape(-1)).reshape(ranked.shape)


def truth_ranks(ranked: Ints, truth: Ragged) -> Ragged:
    """The ranks (1 = first) at which each user's relevant items stand in the user's list; missing items have none."""
    users, positions = np.nonzero(hit_matrix(ranked, truth))
    return Ragged(positions + 1, offsets(np.bincount(users, minlength=len(ranked))))


def list_metrics(ranked: Ints, truth: Ragged, ks: Sequence[int], metrics: Sequence[str] = LIST_METRICS) -> UserMetrics:
    """Metrics of ranked lists at several cut-offs.

    Args:
        ranked: int [U, k], item rows best first; -1 pads a short list.
        truth: relevant items of each of the U users; an item named twice counts once.
        ks: cut-offs. None may exceed k, for a list that was cut earlier cannot tell.
        metrics: some of `LIST_METRICS`.

    Returns:
        Values named like `ndcg@10` of the users who have a relevant item.

    Raises:
        ConfigError: an unknown metric or an impossible cut-off.
        DataError: another number of users, or a list that holds an item twice.
    """
    if ks and max(ks) > ranked.shape[1]:
        raise ConfigError(
            f"metrics at {max(ks)} asked of lists of {ranked.shape[1]} items; retrieve more or lower the cut-off"
        )
    unique = truth.unique()
    return rank_metrics(truth_ranks(ranked, unique), unique.lengths, ks, metrics)


def rank_metrics(
    ranks: Ragged, num_relevant: Ints, ks: Sequence[int], metrics: Sequence[str] = LIST_METRICS
) -> UserMetrics:
    """Metrics from the ranks of relevant items, such as those of `topk.exact_ranks`.

    Args:
        ranks: per user the ranks (1 = first) of the relevant items; 0, or no entry, means never recommended.
        num_relevant: int [U], number of relevant items of each user, recommended or not.
        ks: cut-offs.
        metrics: some of `LIST_METRICS`.

    Returns:
        Values named like `ndcg@10` of the users who have a relevant item.
    """
    unknown = [name for name in metrics if name not in LIST_METRICS]
    if unknown or not ks or min(ks) < 1:
        raise ConfigError(
            f"metrics {list(metrics)} at {list(ks)} cannot be computed; "
            f"choose among {', '.join(LIST_METRICS)} at cut-offs of 1 or more"
        )
    if len(ranks) != len(num_relevant):
        raise DataError(f"ranks of {len(ranks)} users but relevant counts of {len(num_relevant)}; pass the same users")
    users, relevant = np.flatnonzero(num_relevant > 0), num_relevant[num_relevant > 0]
    owner, rank = _sorted_ranks(ranks)
    # Position among the user's own hits: 1 for the best placed relevant item, 2 for the next.
    nth = np.arange(len(rank)) - np.searchsorted(owner, owner) + 1
    gain = 1.0 / np.log2(rank + 1.0)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2.0, max(ks) + 2.0)))])
    values: dict[str, F64] = {}
    for k in ks:
        inside = rank <= k

        def total(weights: F64, inside: Bool = inside) -> F64:
            sums = np.bincount(owner[inside], weights[inside], minlength=len(ranks)).astype(np.float64)
            return sums[users]

        hits = total(np.ones(len(rank)))
        for name in metrics:
            if name == "recall":
                value = hits / relevant
            elif name == "hit":
                value = (hits > 0).astype(np.float64)
            elif name == "ndcg":
                value = total(gain) / ideal[np.minimum(relevant, k)]
            elif name == "mrr":
                value = total((nth == 1) / rank)
            elif name == "precision":
                value = hits / k
            else:
                value = total(nth / rank) / relevant
            values[f"{name}@{k}"] = value
    return UserMetrics(users, values, int(len(ranks) - len(users)))


def graded_ndcg(ranked: Ints, truth: Ragged, gains: Floats, ks: Sequence[int]) -> UserMetrics:
    """NDCG at several cut-offs when relevance has grades: linear gains, ideal over the user's k best grades.

    Args:
        ranked: int [U, k], item rows best first; -1 pads a short list.
        truth: judged items of each user, each named once.
        gains: float [E], the grade of each entry of `truth`, 0 or more.
        ks: cut-offs.

    Returns:
        Values named like `ndcg@10` of the users who have an item of a grade above 0.
    """
    _check_lists(ranked, truth)
    width = ranked.shape[1]
    at = locate(truth, np.repeat(np.arange(len(ranked)), width), ranked.reshape(-1))
    gain = np.where(at >= 0, np.append(gains, 0.0)[at], 0.0).reshape(ranked.shape)
    dcg = np.cumsum(gain / np.log2(np.arange(2.0, width + 2.0)), axis=1)
    owner = truth.users
    best = gains[np.lexsort((-gains, owner))]
    place = np.arange(len(owner)) - truth.ptr[:-1][owner]
    total = np.bincount(owner, gains, minlength=len(truth))
    users = np.flatnonzero(total > 0)
    values: dict[str, F64] = {}
    for k in ks:
        counted = np.where(place < k, best / np.log2(place + 2.0), 0.0)
        ideal = np.bincount(owner, counted, minlength=len(truth))
        values[f"ndcg@{k}"] = dcg[users, min(k, width) - 1] / ideal[users]
    return UserMetrics(users, values, int(len(truth) - len(users)))


def ideal_ndcg(num_retrieved: Ints, num_relevant: Ints, k: int) -> F64:
    """NDCG@k of a perfect order when only some relevant items are among the candidates, float64 [U].

    Args:
        num_retrieved: int [U], relevant items among the user's candidates.
        num_relevant: int [U], relevant items of the user; every entry above 0.
        k: cut-off.
    """
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2.0, k + 2.0)))])
    share: F64 = ideal[np.minimum(num_retrieved, k)] / ideal[np.minimum(num_relevant, k)]
    return share


def _sorted_ranks(ranks: Ragged) -> tuple[Ints, F64]:
    """User and rank of each recommended relevant item, by user and then by rank."""
    owner, rank = ranks.users, ranks.items
    hit = rank > 0
    owner, rank = owner[hit], rank[hit]
    order = np.lexsort((rank, owner))
    return owner[order], rank[order].astype(np.float64)


def _check_lists(ranked: Ints, truth: Ragged) -> None:
    if ranked.ndim != 2 or len(ranked) != len(truth):
        raise DataError(
            f"ranked lists of shape {list(ranked.shape)} and the truth of {len(truth)} users; "
            "pass one list [k] per user, in the order of the truth"
        )
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        user, at = np.argwhere(twice)[0]
        raise DataError(
            f"the list of user row {user} holds item row {ordered[user, at]} twice; a ranked list names an item once"
        )
