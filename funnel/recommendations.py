"""What the funnel says of one user, in the shape of the command line's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import F32, I64
from ..data.dataset import Dataset
from ..retrieval.retriever import Retriever
from .ladder import Rung

REASONS = 3
"""History items named as the reason for a recommendation."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One user's request.

    Attributes:
        user: raw id.
        row: user row, -1 for nobody known.
        rung: what the answer rests on.
        eligible: items that are allowed and that the user has not had.
    """

    user: str
    row: int
    rung: Rung
    eligible: int


@dataclass(frozen=True)
class Timings:
    """Seconds spent on one answer; those of a block are shared out evenly among its users."""

    retrieve: float
    rank: float

    def milliseconds(self) -> dict[str, float]:
        """As answers carry them."""
        retrieve, rank = round(1000 * self.retrieve, 3), round(1000 * self.rank, 3)
        return {"retrieve": retrieve, "rank": rank, "total": round(retrieve + rank, 3)}


def answer(asked: Asked, k: int, items: list[Json], candidates: int, timings: Timings) -> Json:
    """The whole answer.

    `eligible` counts the items that pass the filter and are new to the user; `short` how many of the k asked for do not
    exist, 0 as long as k are eligible.
    """
    return {
        "user": asked.user,
        "known": asked.row >= 0,
        "rung": str(asked.rung),
        "items": items,
        "candidates": candidates,
        "eligible": asked.eligible,
        "short": k - len(items),
        "timings_ms": timings.milliseconds(),
    }


def item(dataset: Dataset, row: int, score: float, tasks: Mapping[str, float], sources: Sequence[str]) -> Json:
    """One recommended item."""
    return {
        "item": dataset.item_ids[row],
        "title": dataset.titles[row],
        "score": score,
        "tasks": dict(tasks),
        "sources": list(sources),
    }


class Explainer:
    """Names the items of a user's history that are nearest to a recommended one in tower space.

    Args:
        dataset: for ids and titles.
        retriever: for histories and item vectors.
    """

    def __init__(self, dataset: Dataset, retriever: Retriever) -> None:
        self.dataset = dataset
        self.history = retriever.data.history
        self.vectors = retriever.item_vectors[:, : retriever.model.config.dim]

    def _unit(self, rows: I64) -> F32:
        vectors = self.vectors[rows]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)

    def why(self, asked: Asked, row: int, said: Json) -> Json:
        """Sources, per-task scores, what the answer rests on, and the nearest items of the history.

        Args:
            asked: whose answer it is.
            row: item row.
            said: the item as answered.
        """
        past = np.empty(0, dtype=np.int64)
        if asked.row >= 0:
            items = self.history.items[self.history.ptr[asked.row] : self.history.ptr[asked.row + 1]]
            past = np.unique(items).astype(np.int64)
        near = self._unit(past) @ self._unit(np.array([row]))[0]
        best = np.argsort(-near, kind="stable")[:REASONS]
        because = [
            {
                "item": self.dataset.item_ids[past[i]],
                "title": self.dataset.titles[past[i]],
                "similarity": float(near[i]),
            }
            for i in best
        ]
        return {"sources": said["sources"], "tasks": said["tasks"], "rung": str(asked.rung), "because_of": because}
