"""Baselines that are one item-by-item matrix: a history's score is its rows of the matrix, added up.

They differ in the matrix only: shrunk cosine of co-occurrence (item-kNN), the closed-form regression of every item on
all others (EASE; Steck, WWW 2019), and the probability of what comes next (transitions).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array, diags_array

from ...base.arrays import F32, F64, I64, AnyArray
from ...base.errors import ConfigError
from ...base.settings import Settings
from .base import Baseline, Histories, row_sums_at
from .cooccurrence import cooccurrence_blocks, interaction_matrix, nearest_items
from .sparse import RowSum, WeightedRows, summed, summed_dense


class HistoryWeighting(Settings):
    """How much each event of the history counts when it is scored."""

    last: int | None = Field(default=None, ge=1)
    """Only the last so many events count; none: all."""
    decay: float = Field(default=1.0, gt=0, le=1)
    """Factor per event of age."""


class ItemToItem(Baseline):
    """Score = weighted history times a matrix `[N, N]`."""

    settings: HistoryWeighting
    matrix: csr_array | F32

    def adopt(self, fitted: Baseline) -> bool:
        """See `Baseline.adopt`; the weighting of a history enters scores only, so models that differ in it share."""
        weighting = set(HistoryWeighting.model_fields)
        if type(fitted) is not type(self) or fitted.settings.model_dump(exclude=weighting) != self.settings.model_dump(
            exclude=weighting
        ):
            return False
        self.num_items, self.matrix = fitted.num_items, fitted.matrix
        return True

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`."""
        weighted = self._weighted(histories)
        if isinstance(self.matrix, np.ndarray):
            return summed_dense(weighted, self.matrix)
        return summed(weighted, self.matrix, self.num_items)

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """See `Baseline.score_pairs`; only the candidates' columns are added up."""
        (scores,) = row_sums_at([self.row_sum()], histories, self.num_items, items)
        return np.asarray(scores, dtype=np.float32)

    def row_sum(self) -> RowSum:
        """See `Baseline.row_sum`."""
        return RowSum(self.matrix, self.settings.last, self.settings.decay)

    def _weighted(self, histories: Histories) -> WeightedRows:
        """The rows of the matrix that the histories are, and how much each counts."""
        return histories.weights(self.num_items, self.settings.last, self.settings.decay)

    def _arrays(self) -> dict[str, AnyArray]:
        if isinstance(self.matrix, np.ndarray):
            return {"matrix": self.matrix}
        return {"data": self.matrix.data, "indices": self.matrix.indices, "indptr": self.matrix.indptr}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        if "matrix" in arrays:
            self.matrix = arrays["matrix"]
        else:
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            self.matrix = csr_array(parts, shape=(self.num_items, self.num_items))


class ItemKNNSettings(HistoryWeighting):
    """Options of item-kNN."""

    neighbours: int = Field(default=200, ge=1)
    """Most similar items kept per item."""
    shrinkage: float = Field(default=10.0, ge=0)
    """Added to the denominator of the cosine: similarities resting on few users shrink."""
    last: int | None = Field(default=20, ge=1)
    """Only the last so many events count; none: all."""
    decay: float = Field(default=0.8, gt=0, le=1)
    """Factor per event of age."""


class ItemKNN(ItemToItem):
    """Cosine of the items' user sets, shrunk: `|A and B| / (sqrt(|A| |B|) + shrinkage) = W_AB`, the best ones only."""

    paper = "Sarwar et al. WWW 2001"
    name = "item_knn"
    settings_class: ClassVar[type[Settings]] = ItemKNNSettings
    settings: ItemKNNSettings

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        def similarity(together: F32, one: F32, other: F32) -> F32:
            found: F32 = together / np.maximum(one * other + self.settings.shrinkage, 1e-9)
            return found

        interactions = interaction_matrix(users, items, num_users, self.num_items)
        self.matrix = nearest_items(interactions, self.settings.neighbours, similarity)


class EASESettings(HistoryWeighting):
    """Options of EASE."""

    regularisation: float = Field(default=500.0, gt=0)
    """Lambda, added to the diagonal of the co-occurrence matrix."""
    max_items: int = Field(default=12_000, ge=1)
    """Refuse larger catalogues: the dense matrices grow with the square of the catalogue."""


class EASE(ItemToItem):
    """`P = (X^T X + lambda I)^-1`, weights `-P_ij / P_jj` with a zero diagonal. Dense: for small catalogues."""

    paper = "Steck WWW 2019"
    name = "ease"
    settings_class: ClassVar[type[Settings]] = EASESettings
    settings: EASESettings

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        import torch

        size = self.num_items
        if size > self.settings.max_items:
            raise ConfigError(
                f"EASE needs about {28 * size**2 / 2**30:.1f} GiB for {size:,} items and is allowed "
                f"{self.settings.max_items:,}; raise max_items or leave EASE out"
            )
        interactions = interaction_matrix(users, items, num_users, size)
        gram = np.empty((size, size))
        for start, together in cooccurrence_blocks(interactions):
            gram[start : start + len(together)] = together
        gram[np.diag_indices(size)] += self.settings.regularisation
        factor = torch.from_numpy(gram)
        torch.linalg.cholesky(factor, out=factor)
        inverse = torch.cholesky_inverse(factor)
        matrix = inverse.div_(-inverse.diagonal().clone()).to(torch.float32).contiguous()
        matrix.fill_diagonal_(0.0)
        self.matrix = matrix.numpy()


class TransitionSettings(HistoryWeighting):
    """Options of the transition model."""

    orders: int = Field(default=5, ge=1)
    """A transition of order o is from an event to the o-th after it."""
    order_decay: float = Field(default=0.7, gt=0, le=1)
    """Weight of order o is `order_decay ** (o - 1)`."""
    shrinkage: float = Field(default=10.0, ge=0)
    """Added to the number of transitions that left an item."""
    last: int | None = Field(default=10, ge=1)
    """Only the last so many events count; none: all."""
    decay: float = Field(default=0.8, gt=0, le=1)
    """Factor per event of age."""


class Transition(ItemToItem):
    """What tends to come next: smoothed probability of item j a few events after item i.

    `W_ij = sum_o order_decay^(o-1) n_ij(o) / (sum_j sum_o order_decay^(o-1) n_ij(o) + shrinkage)`,
    n_ij(o) how often j is the o-th event after i; a history's score is the sum of its events' rows, newer ones counting
    more.
    """

    name = "transition"
    settings_class: ClassVar[type[Settings]] = TransitionSettings
    settings: TransitionSettings

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        shape = (self.num_items, self.num_items)
        total = csr_array(shape, dtype=np.float32)
        for order in range(1, self.settings.orders + 1):
            same = users[order:] == users[:-order]
            source, target = items[:-order][same], items[order:][same]
            weight = np.full(len(source), self.settings.order_decay ** (order - 1), dtype=np.float32)
            total = total + csr_array((weight, (source, target)), shape=shape)
        left = np.asarray(total.sum(axis=1)).ravel() + self.settings.shrinkage
        self.matrix = csr_array(diags_array(1.0 / np.maximum(left, 1e-9)) @ total).astype(np.float32)
