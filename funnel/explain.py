"""Why an item is recommended: the items of the user's history that are nearest to it in tower space."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import F32, I64
from ..data.dataset import Dataset
from ..retrieval.retriever import Retriever

REASONS = 3
"""History items named as the reason for a recommendation."""
Json = dict[str, Any]


class Explainer:
    """Names the items of a user's history that are nearest to a recommended one in tower space.

    Args:
        dataset: for ids and titles.
        retriever: for histories and item vectors.
    """

    def __init__(self, dataset: Dataset, retriever: Retriever) -> None:
        self.dataset = dataset
        self.history = retriever.data.history
        self.retriever = retriever

    def _directions(self, rows: I64) -> F32:
        return self.retriever.model.directions(self.retriever.item_vectors[rows])

    def because_of(self, user: int, row: int) -> list[Json]:
        """The nearest items of a user's history, nearest first: id, title and cosine.

        Args:
            user: user row; -1 for nobody known, who has no history.
            row: item row.
        """
        past = np.empty(0, dtype=np.int64)
        if user >= 0:
            items = self.history.items[self.history.ptr[user] : self.history.ptr[user + 1]]
            past = np.unique(items).astype(np.int64)
        near = self._directions(past) @ self._directions(np.array([row]))[0]
        best = np.argsort(-near, kind="stable")[:REASONS]
        return [
            {
                "item": self.dataset.item_ids[past[i]],
                "title": self.dataset.titles[past[i]],
                "similarity": float(near[i]),
            }
            for i in best
        ]
