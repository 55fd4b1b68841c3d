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
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import Block
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
    if feature not in id_features(dataset):
        return torch.empty(0, dtype=torch.int64), rows[:0]
    items = dataset.items.whole()
    own = items.categorical[:, dataset.sides["item"].categorical.index(feature)]
    begun = new[own]
    old = ((own >= FIRST) & ~begun).nonzero().squeeze(1)
    at = begun.nonzero().squeeze(1)
    known = KnownItems.of(dataset, items.select(old))
    present, means = known.means(rows[own[old]]).near(dataset, items.select(at))
    return own[at][present], means.to(rows.dtype)


def id_features(dataset: Dataset) -> list[str]:
    """Features that are the item's id."""
    return [s.name for s in dataset.config.features if s.side == "item" and s.source == dataset.config.item]


def content_of(dataset: Dataset, items: Block) -> tuple[Tensor, ...]:
    """Codes of an item's content, int64 [n, L] for each feature with a vocabulary but the id."""
    layout, ids = dataset.sides["item"], id_features(dataset)
    single = [
        items.categorical[:, [column]]
        for column, name in enumerate(layout.categorical)
        if name in dataset.encoders.vocabularies and name not in ids
    ]
    return (*single, *items.bags)


@dataclass(frozen=True)
class KnownItems:
    """n items by what they share with others.

    Attributes:
        content: of each feature, int64 [n, L] codes.
        vectors: of each vector feature, float [n, d].
    """

    content: tuple[Tensor, ...]
    vectors: tuple[Tensor, ...]

    @classmethod
    def of(cls, dataset: Dataset, items: Block) -> KnownItems:
        """The known items of a data set, in the layout of `Dataset.items`."""
        return cls(content_of(dataset, items), items.vectors)

    def means(self, learned: Tensor) -> NeighbourMeans:
        """What each value's items have learned, on the average.

        Args:
            learned: float [n, K] row of each known item.
        """
        learned = learned.detach().double()
        sharers = tuple(_Sharers.of(codes, learned) for codes in self.content)
        return NeighbourMeans(learned.shape[1], sharers, tuple(_Nearest.of(v, learned) for v in self.vectors))


@dataclass(frozen=True)
class NeighbourMeans:
    """Mean rows of known items by what they have; see `KnownItems.means`.

    Attributes:
        width: K.
        sharers: of each feature with a vocabulary.
        nearest: of each vector feature; None where nearness says nothing.
    """

    width: int
    sharers: tuple[_Sharers, ...]
    nearest: tuple[_Nearest | None, ...]

    def near(self, dataset: Dataset, items: Block) -> tuple[Tensor, Tensor]:
        """Where items like the known ones begin.

        Args:
            dataset: of the known items.
            items: n items in the layout of `Dataset.items`.

        Returns:
            bool [n], which of them share content with known ones; and the means of those, float64 [m, K].
        """
        total = torch.zeros(items.rows, self.width, dtype=torch.float64)
        weight = total.new_zeros(items.rows)
        for sharers, codes in zip(self.sharers, content_of(dataset, items), strict=True):
            sharers.add(total, weight, codes)
        for nearest, vectors in zip(self.nearest, items.vectors, strict=True):
            if nearest is not None:
                nearest.add(total, weight, vectors)
        present = weight > 0
        return present, total[present] / weight[present].unsqueeze(1)


@dataclass(frozen=True)
class _Sharers:
    """Of each value of a feature: how rare it is, [V], and the mean of the known items that have it, [V, K]."""

    says: Tensor
    means: Tensor

    @classmethod
    def of(cls, codes: Tensor, learned: Tensor) -> _Sharers:
        size = (int(codes.max()) if codes.numel() else 0) + 1
        count, sums = learned.new_zeros(size), learned.new_zeros(size, learned.shape[1])
        for column in codes.unbind(1):
            count.index_add_(0, column, torch.ones_like(column, dtype=count.dtype))
            sums.index_add_(0, column, learned)
        count[:FIRST] = 0.0  # padding and unknown are nothing in common
        says = torch.where(count > 0, (len(codes) / count.clamp(min=1.0)).log(), 0.0)
        return cls(says, sums / count.clamp(min=1.0).unsqueeze(1))

    def add(self, total: Tensor, weight: Tensor, codes: Tensor) -> None:
        """For each value of new items the mean of those that have it, weighted by how rare it is."""
        for column in codes.unbind(1):
            known = torch.where(column < len(self.says), column, 0)  # nobody has a value beyond
            total += self.says[known].unsqueeze(1) * self.means[known]
            weight += self.says[known]


@dataclass(frozen=True)
class _Nearest:
    """Known items by the direction of their vectors, those without one (zero) left out."""

    says: float
    count: int
    directions: Tensor
    learned: Tensor

    @classmethod
    def of(cls, vectors: Tensor, learned: Tensor) -> _Nearest | None:
        there = vectors.any(1).nonzero().squeeze(1)
        count = min(NEAREST, len(there))
        if not count or count == len(vectors):
            return None
        says = math.log(len(vectors) / count)
        return cls(says, count, F.normalize(vectors[there], dim=1), learned[there])

    def add(self, total: Tensor, weight: Tensor, vectors: Tensor) -> None:
        """The mean of the known items nearest by cosine; new items without a vector have no neighbours."""
        for start in range(0, len(vectors), BLOCK):
            block = slice(start, start + BLOCK)
            present = vectors[block].any(1)
            nearest = (F.normalize(vectors[block], dim=1) @ self.directions.T).topk(self.count, dim=1).indices
            total[block] += self.says * present.unsqueeze(1) * self.learned[nearest].mean(1)
            weight[block] += self.says * present
