"""Where the rows of values nobody has met begin: items near items like them, everything else where unknown values were.

A new item starts from the mean of the known items that share its content, each weighted by what they share: a value
counts for the share of known items it sets apart, log(N / n), spread evenly over the n items that have it. Sharing an
author thus says much and sharing a status says nothing. Other new values start where yesterday's model saw them, at the
unknown row; where no rare value ever trained that row, at the mean of the known ones.

Values whose rows start from vectors computed elsewhere (`data.pretrained`) start from theirs: by the affine map that
leads from the known values' vectors to their rows, so that they stand in the same space, whatever was learned since.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.dataset import Dataset
from ..data.pretrained import TableStart
from ..data.vocabulary import FIRST, UNKNOWN
from ..nn.embedding import EmbeddingTable

NEAREST = 10
"""Known items nearest to a new one by a pre-computed vector; together they count as one shared value."""
BLOCK = 1024
"""New items compared at once."""


def start_new_rows(table: EmbeddingTable, feature: str, known: int, dataset: Dataset, unknown_trained: bool) -> int:
    """Set the rows of new values of a vocabulary: those behind the known ones, and those that others left to them.

    Args:
        table: whose rows below `known` hold what was learned.
        feature: vocabulary.
        known: its rows that were there before, padding and unknown included.
        dataset: with the grown vocabulary, and the rows that were freed (`Dataset.freed`).
        unknown_trained: whether the unknown row has ever been moved by a gradient.

    Returns:
        How many rows begin at their neighbours.
    """
    rows = table.rows_of(feature)
    new = new_rows(dataset, feature, known, len(rows))
    if not new.any():
        return 0
    with torch.no_grad():
        learned = ~new
        learned[:FIRST] = False
        if unknown_trained:
            rows[new] = rows[UNKNOWN].clone()
        elif learned.any():
            rows[new] = rows[learned].mean(0)
        at, means = neighbour_means(dataset, feature, rows.detach(), new)
        rows[at] = means
        if feature in dataset.table_starts:
            mapped, places = from_vectors(dataset.table_starts[feature], rows.detach(), new)
            rows[mapped] = places
    return len(at)


def new_rows(dataset: Dataset, feature: str, known: int, size: int) -> Tensor:
    """Which of the `size` rows of a vocabulary are of new values, bool [size]; arguments as of `start_new_rows`."""
    new = torch.arange(size) >= known
    if feature in dataset.freed:
        new[torch.from_numpy(dataset.freed[feature])] = True
    return new


def from_vectors(start: TableStart, rows: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of new values by the least-squares affine map from known values' vectors to their rows.

    Args:
        start: the vectors.
        rows: float [V, K] all rows of the vocabulary.
        new: bool [V] which of them are of new values.

    Returns:
        Vocabulary rows int64 [n] of new values that have a vector, and where they start [n, K].
    """
    at, table = start.source.rows_of(start.vocabulary)
    places = torch.from_numpy(at)
    vectors = F.pad(torch.from_numpy(table).double(), (0, 1), value=1.0)
    old = ~new[places]
    if old.all() or not old.any():
        return torch.empty(0, dtype=torch.int64), rows[:0]
    target = rows[places[old]].double()
    lead = torch.linalg.lstsq(vectors[old], target, driver="gelsd").solution  # least norm where vectors are few
    return places[~old], (vectors[~old] @ lead).to(rows.dtype)


def neighbour_means(dataset: Dataset, feature: str, rows: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Mean row of each new item's neighbours.

    Args:
        dataset: encoded data.
        feature: a vocabulary; nothing is found unless it is that of the item ids.
        rows: float [V, K] all rows of the vocabulary.
        new: bool [V] which of them are of new values.

    Returns:
        Vocabulary rows int64 [n] of new items that share content with known ones, and the means [n, K].
    """
    specs = {spec.name: spec for spec in dataset.config.features}
    ids = [n for n, spec in specs.items() if spec.side == "item" and spec.source == dataset.config.item]
    if feature not in ids:
        return torch.empty(0, dtype=torch.int64), rows[:0]
    layout, items = dataset.sides["item"], dataset.items.whole()
    own = items.categorical[:, layout.categorical.index(feature)]
    begun = new[own]
    old = (own >= FIRST) & ~begun
    learned = rows[own[old]].double()
    total = learned.new_zeros(int(begun.sum()), rows.shape[1])
    weight = learned.new_zeros(len(total))
    content = [
        items.categorical[:, [column]]
        for column, name in enumerate(layout.categorical)
        if name in dataset.encoders.vocabularies and name not in ids
    ]
    for codes in (*content, *items.bags):
        _add_sharers(total, weight, codes[old], codes[begun], learned)
    for vectors in items.vectors:
        _add_nearest(total, weight, vectors[old], vectors[begun], learned)
    present = weight > 0
    means = total[present] / weight[present].unsqueeze(1)
    return own[begun][present], means.to(rows.dtype)


def _add_sharers(total: Tensor, weight: Tensor, of_old: Tensor, of_new: Tensor, learned: Tensor) -> None:
    """For each of a new item's values: the mean of the known items that have it, weighted by how rare it is."""
    size = max(_highest(of_old), _highest(of_new)) + 1
    count, sums = learned.new_zeros(size), learned.new_zeros(size, learned.shape[1])
    for column in of_old.unbind(1):
        count.index_add_(0, column, torch.ones_like(column, dtype=count.dtype))
        sums.index_add_(0, column, learned)
    count[:FIRST] = 0.0  # padding and unknown are nothing in common
    says = torch.where(count > 0, (len(of_old) / count.clamp(min=1.0)).log(), 0.0)
    means = sums / count.clamp(min=1.0).unsqueeze(1)
    for column in of_new.unbind(1):
        total += says[column].unsqueeze(1) * means[column]
        weight += says[column]


def _highest(codes: Tensor) -> int:
    return int(codes.max()) if codes.numel() else 0


def _add_nearest(total: Tensor, weight: Tensor, of_old: Tensor, of_new: Tensor, learned: Tensor) -> None:
    """The mean of the known items nearest by cosine; items without a vector (zero) have no neighbours and are none."""
    there = of_old.any(1).nonzero().squeeze(1)
    count = min(NEAREST, len(there))
    if not count or count == len(of_old):
        return
    says = math.log(len(of_old) / count)
    known = F.normalize(of_old[there], dim=1)
    for start in range(0, len(of_new), BLOCK):
        block = slice(start, start + BLOCK)
        present = of_new[block].any(1)
        nearest = (F.normalize(of_new[block], dim=1) @ known.T).topk(count, dim=1).indices
        means = learned[there[nearest]].mean(1)
        total[block] += says * present.unsqueeze(1) * means
        weight[block] += says * present
