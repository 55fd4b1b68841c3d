"""What recommended lists look like, whoever likes them: coverage, novelty, popularity bias, diversity.

Accuracy alone rewards showing everybody the same few items; these numbers say when that happens. They need the lists
and the catalogue, not the truth.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from ...base.arrays import F64, Floats, Ints
from ...base.errors import DataError


def item_exposure(ranked: Ints, num_items: int, k: int) -> Ints:
    """How often each item stands in the first k places, int [N].

    Args:
        ranked: int [U, >= k], item rows; -1 pads a short list.
        num_items: N, size of the catalogue.
        k: cut-off.
    """
    items = ranked[:, :k].reshape(-1)
    items = items[items >= 0]
    if len(items) and items.max() >= num_items:
        raise DataError(f"recommended item row {items.max()} but the catalogue has {num_items} items; pass its size")
    return np.bincount(items, minlength=num_items)


def coverage(ranked: Ints, num_items: int, k: int) -> float:
    """Share of the catalogue that somebody is shown in the first k places."""
    return float(np.count_nonzero(item_exposure(ranked, num_items, k)) / num_items)


def coverage_interval(ranked: Ints, num_items: int, k: int, level: float = 0.95) -> tuple[float, float]:
    """Jackknife interval of `coverage` over users.

    A bootstrap would not do: a resample holds some 63 % of the users and so covers fewer items. Leaving one user out
    loses the items that only this user is shown, so all the jackknife's values come from one count.
    """
    exposure = item_exposure(ranked, num_items, k)
    covered = float(np.count_nonzero(exposure) / num_items)
    lists = ranked[:, :k]
    users = len(lists)
    if users < 2:
        return covered, covered
    alone = ((lists >= 0) & (exposure[lists] == 1)).sum(1) / num_items
    error = float(np.sqrt((users - 1) / users * np.square(alone - alone.mean()).sum()))
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return max(covered - half, 0.0), min(covered + half, 1.0)


def gini(exposure: Floats | Ints) -> float | None:
    """Gini coefficient of exposure [N]: 0 when all items are shown equally often, near 1 when few take all."""
    ordered = np.sort(exposure).astype(np.float64)
    total, count = ordered.sum(), len(ordered)
    if total == 0:
        return None
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


def novelty(ranked: Ints, popularity: Floats | Ints, k: int) -> F64:
    """Mean self-information, in bits, of the items each user is shown, float64 [U]; NaN for an empty list.

    An item's probability is its share of the training events, every item counted once more so that unseen ones have
    a finite surprise (Zhou et al. 2010).

    Args:
        ranked: int [U, >= k], item rows; -1 pads a short list.
        popularity: [N], training events of each item.
        k: cut-off.
    """
    share = (popularity + 1.0) / (popularity.sum() + len(popularity))
    return _mean_over_list(-np.log2(share), ranked[:, :k])


def average_popularity(ranked: Ints, popularity: Floats | Ints, k: int) -> F64:
    """Mean percentile of popularity (0 rarest, 1 most popular) of the items each user is shown, float64 [U]."""
    counts = np.sort(popularity)
    below = np.searchsorted(counts, popularity, side="left")
    through = np.searchsorted(counts, popularity, side="right")
    return _mean_over_list((below + through - 1) / (2 * max(len(counts) - 1, 1)), ranked[:, :k])


def diversity(ranked: Ints, vectors: Floats, k: int) -> F64:
    """Intra-list diversity: mean of 1 - cosine over the pairs of each list, float64 [U]; NaN below two items.

    Args:
        ranked: int [U, >= k], item rows; -1 pads a short list.
        vectors: float [N, D], what items are compared by: item vectors, or multi-hot categories.
        k: cut-off.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.vstack([vectors / np.maximum(norms, 1e-12), np.zeros((1, vectors.shape[1]))])  # row -1: the pad
    lists = ranked[:, :k]
    total = np.zeros((len(lists), vectors.shape[1]))
    own = np.zeros(len(lists))
    squares = np.einsum("nd,nd->n", unit, unit)
    for place in range(lists.shape[1]):
        total += unit[lists[:, place]]
        own += squares[lists[:, place]]
    length = (lists >= 0).sum(1).astype(np.float64)
    # The squared norm of the sum holds each pair twice and each item with itself once.
    pairs = length * (length - 1)
    similarity = np.einsum("ud,ud->u", total, total) - own
    return _ratio(pairs - similarity, pairs)


def category_diversity(ranked: Ints, categories: Ints, k: int) -> F64:
    """Share of the pairs of each list that are of different categories, float64 [U]; NaN below two items.

    Args:
        ranked: int [U, >= k], item rows; -1 pads a short list.
        categories: int [N], one category per item.
        k: cut-off.
    """
    lists = ranked[:, :k]
    labels = np.where(lists >= 0, categories[lists], -1)
    users = np.repeat(np.arange(len(lists)), lists.shape[1])[labels.reshape(-1) >= 0]
    width = int(categories.max(initial=0)) + 1
    keys, counts = np.unique(users * width + labels[labels >= 0], return_counts=True)
    same = np.bincount(keys // width, counts * (counts - 1), minlength=len(lists)).astype(np.float64)
    length = (labels >= 0).sum(1).astype(np.float64)
    pairs = length * (length - 1)
    return _ratio(pairs - same, pairs)


def value_entropy(ranked: Ints, codes: Ints, num_values: int, k: int) -> F64:
    """Entropy in bits of a column's values over each list, float64 [U]; an item's values share its weight.

    Args:
        ranked: int [U, >= k], item rows; -1 pads a short list.
        codes: int [N, m], codes of each item's values; `num_values` pads.
        num_values: V.
        k: cut-off.
    """
    lists = ranked[:, :k]
    own = codes[lists]
    valid = (own < num_values) & (lists >= 0)[:, :, None]
    weight = valid / np.maximum(valid.sum(2, keepdims=True), 1)
    user = np.broadcast_to(np.arange(len(lists))[:, None, None], own.shape)
    shares = np.zeros((len(lists), num_values))
    np.add.at(shares, (user[valid], own[valid]), weight[valid])
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-12)
    return np.asarray(-(shares * np.log2(np.maximum(shares, 1e-300))).sum(1))


def _mean_over_list(values: Floats, lists: Ints) -> F64:
    valid = lists >= 0
    return _ratio(np.where(valid, values[lists], 0.0).sum(1), valid.sum(1).astype(np.float64))


def _ratio(above: F64, below: F64) -> F64:
    out = np.full(len(below), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
