"""Items like an item: by tower vectors, by who took both, or by both lists merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..base.arrays import F32, F64, I64
from ..base.errors import ConfigError
from ..base.ragged import Ragged
from ..base.topk import exact_topk, topk_of_scores
from ..data.dataset import Dataset
from ..data.ids import TEXT, id_text, ids_as_given
from ..retrieval.baselines.base import Histories
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.merge import RECIPROCAL_OFFSET, merge
from ..retrieval.retriever import TOWER, Retriever

if TYPE_CHECKING:
    import pandas as pd

By = Literal["mixed", "vector", "together"]
TOGETHER = "item_knn"
"""The companion whose matrix says how often two items are taken by the same users."""
POOL = 100
"""Length of the lists that are merged, at least."""


@dataclass(frozen=True, kw_only=True)
class SimilarItems:
    """What is like B given items, k items each.

    Attributes:
        dataset: for ids and titles.
        sources: S names of who may name an item: `two_tower` (vectors), `item_knn` (taken together).
        seeds: raw ids, as they were asked about.
        rows: int64 [B, k] item rows, most similar first; -1 pads.
        scores: float64 [B, k], NaN at pads: cosine of the vectors, shrunk cosine of the user sets, or for both the sum
            of 1 / (60 + rank) over the lists that name the item.
        named: bool [B, k, S], who named the item.
    """

    dataset: Dataset
    sources: tuple[str, ...]
    seeds: tuple[Any, ...]
    rows: I64
    scores: F64
    named: Any

    def __len__(self) -> int:
        return len(self.seeds)

    def _sources(self, seed: int, column: int) -> list[str]:
        return [name for name, yes in zip(self.sources, self.named[seed, column], strict=True) if yes]

    def to_json(self) -> list[dict[str, Any]]:
        """One object per item asked about, in the shape of `recsys similar --json`."""
        data = self.dataset
        return [
            {
                "item": str(seed),
                "title": data.titles[data.item_rows[id_text(seed)]],
                "items": [
                    {
                        "item": data.item_ids[row],
                        "title": data.titles[row],
                        "score": float(self.scores[place, column]),
                        "sources": self._sources(place, column),
                    }
                    for column, row in enumerate(self.rows[place])
                    if row >= 0
                ],
            }
            for place, seed in enumerate(self.seeds)
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per similar item: `item, rank, similar, score, source`; ids in the type of the tables."""
        import pandas as pd

        seed, column = np.nonzero(self.rows >= 0)
        ids = [self.dataset.item_ids[row] for row in self.rows[seed, column]]
        return pd.DataFrame(
            {
                "item": pd.Series([self.seeds[place] for place in seed], dtype=object).infer_objects(),
                "rank": column + 1,
                "similar": ids_as_given(ids, self.dataset.id_types.get("item", TEXT)),
                "score": self.scores[seed, column],
                "source": ["+".join(self._sources(s, c)) for s, c in zip(seed.tolist(), column.tolist(), strict=True)],
            }
        )


def similar_items(
    dataset: Dataset,
    retriever: Retriever,
    seeds: Sequence[Any],
    k: int = 10,
    by: By = "mixed",
    allowed: Bitmap | None = None,
) -> SimilarItems:
    """The items most like each given one, which is itself never named.

    Args:
        dataset: of the run.
        retriever: its first stage.
        seeds: raw item ids.
        k: items per seed.
        by: `vector` (cosine in tower space), `together` (taken by the same users), or `mixed`.
        allowed: items that may be named; all of the catalogue when None.

    Raises:
        ConfigError: no item was named, one is not of the catalogue, k is not below its size, or the run knows nothing
            of what is taken together.
    """
    size = dataset.num_catalogue
    if not len(seeds):
        raise ConfigError("no item was named; give at least one item id")
    if not 1 <= k < size:
        raise ConfigError(f"k={k} items besides the given one do not exist among {size}; give 1 to {size - 1}")
    rows = np.array([dataset.item_rows.get(id_text(seed), size) for seed in seeds], dtype=np.int64)
    if (rows >= size).any():
        raise ConfigError(f"the run's catalogue has no item {seeds[int(np.argmax(rows >= size))]!r}; give one of it")
    if by not in ("mixed", "vector", "together"):
        raise ConfigError(f'by = "{by}" is no similarity; expected mixed, vector or together')
    if by == "together" and TOGETHER not in retriever.companions:
        raise ConfigError(f'the run has no "{TOGETHER}", which knows what is taken together; add it to its baselines')
    itself = Ragged.from_padded(rows[:, None])
    width = min(max(k, POOL), size - 1)
    lists: dict[str, tuple[I64, F32]] = {}
    if by != "together":
        lists[TOWER] = _by_vector(retriever, rows, width, allowed, itself)
    if by != "vector" and TOGETHER in retriever.companions:
        lists[TOGETHER] = _together(retriever, rows, width, allowed, itself)
    merged = merge([named for named, _ in lists.values()], k, size)
    if len(lists) > 1:
        gains = np.where(merged.ranks > 0, 1.0 / (RECIPROCAL_OFFSET + merged.ranks), 0.0).sum(2)
        scores = np.where(merged.rows >= 0, gains, np.nan)
    else:
        ((named, values),) = lists.values()
        scores = np.where(named[:, :k] >= 0, values[:, :k], np.nan).astype(np.float64)
    return SimilarItems(
        dataset=dataset,
        sources=tuple(lists),
        seeds=tuple(seeds),
        rows=merged.rows,
        scores=scores,
        named=merged.ranks > 0,
    )


def _by_vector(retriever: Retriever, seeds: I64, k: int, allowed: Bitmap | None, itself: Ragged) -> tuple[I64, F32]:
    """Nearest items by the cosine of the vectors, popularity's bias apart: rows and cosines [B, k]."""
    vectors = retriever.item_vectors[:, : retriever.model.config.dim]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rows = None if allowed is None else allowed.rows
    return exact_topk(unit[seeds], unit if rows is None else unit[rows], k, itself, rows=rows)


def _together(retriever: Retriever, seeds: I64, k: int, allowed: Bitmap | None, itself: Ragged) -> tuple[I64, F32]:
    """Items that the same users took, as for a history of the one item: rows and similarities [B, k]."""
    companion, asked = retriever.companions[TOGETHER], Histories(Ragged.from_padded(seeds[:, None]))
    forbidden = None if allowed is None else ~allowed.mask()

    def scores_of(requests: slice) -> F32:
        scores = companion.score(asked.block(requests.start, requests.stop))
        unknown = scores == 0 if forbidden is None else (scores == 0) | forbidden
        return np.where(unknown, -np.inf, scores).astype(np.float32)

    return topk_of_scores(scores_of, len(seeds), retriever.data.num_items, k, itself)
