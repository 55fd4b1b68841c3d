"""Items like an item: by tower vectors, by who took both, by attributes, or by several lists merged.

An item of the catalogue is asked about by its id. One that the run has never seen is given by its features: its vector
is what the item tower makes of them, and its attributes stand for the users that it does not have yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..base.arrays import F32, F64, I64
from ..base.errors import ConfigError
from ..base.ragged import Ragged
from ..base.topk import exact_topk, topk_of_scores
from ..data.batch import Block
from ..data.dataset import Dataset
from ..data.encoding.told_items import encode_items
from ..data.ids import TEXT, id_text, ids_as_given
from ..retrieval.attributes import ATTRIBUTES, AttributeLikeness
from ..retrieval.baselines.base import Histories
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.merge import RECIPROCAL_OFFSET, merge
from ..retrieval.retriever import TOWER, Retriever

if TYPE_CHECKING:
    import pandas as pd

By = Literal["mixed", "vector", "together", "attributes"]
TOGETHER = "item_knn"
"""The companion whose matrix says how often two items are taken by the same users."""
POOL = 100
"""Length of the lists that are merged, at least."""
Lists = dict[str, tuple[I64, F32]]
"""Who names items -> their rows and scores [B, n], most similar first; -1 pads."""


@dataclass(frozen=True, kw_only=True)
class SimilarItems:
    """What is like B given items, k items each.

    Attributes:
        dataset: for ids and titles.
        sources: S names of who may name an item: `two_tower` (vectors), `item_knn` (taken together), `attributes`.
        seeds: what was asked about: raw ids; None for an item without one.
        titles: what people call each of them.
        rows: int64 [B, k] item rows, most similar first; -1 pads.
        scores: float64 [B, k], NaN at pads: cosine of the vectors, shrunk cosine of the user sets, cosine of the
            attributes, or for several lists the sum of 1 / (60 + rank) over those that name the item.
        named: bool [B, k, S], who named the item.
        unknown: of each item given by its features, what no vocabulary holds, as `column=value`.
    """

    dataset: Dataset
    sources: tuple[str, ...]
    seeds: tuple[Any, ...]
    titles: tuple[str, ...]
    rows: I64
    scores: F64
    named: Any
    unknown: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.seeds)

    def _sources(self, seed: int, column: int) -> list[str]:
        return [name for name, yes in zip(self.sources, self.named[seed, column], strict=True) if yes]

    def to_json(self) -> list[dict[str, Any]]:
        """One object per item asked about, in the shape of `recsys similar --json`."""
        data = self.dataset
        return [
            {
                "item": None if seed is None else str(seed),
                "title": self.titles[place],
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
                **({"unknown": list(self.unknown[place])} if self.unknown and self.unknown[place] else {}),
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
        by: `vector` (cosine in tower space), `together` (taken by the same users), `attributes` (values in common), or
            `mixed`: the first two.
        allowed: items that may be named; all of the catalogue when None.

    Raises:
        ConfigError: no item was named, one is not of the catalogue, k is not below its size, or the run knows nothing
            of what is taken together.
    """
    size = dataset.num_catalogue
    if not len(seeds):
        raise ConfigError("no item was named; give at least one item id")
    _check_k(k, dataset.known_items)
    rows = np.array([dataset.item_rows.get(id_text(seed), size) for seed in seeds], dtype=np.int64)
    if (rows >= size).any():
        raise ConfigError(
            f"the run's catalogue has no item {seeds[int(np.argmax(rows >= size))]!r}; give one of it, or give the "
            "item by its features"
        )
    lists = similar_lists(dataset, retriever, rows, max(k, POOL), by, allowed)
    titles = [dataset.titles[row] for row in rows]
    return _answer(dataset, lists, seeds, titles, k)


def similar_to_features(
    dataset: Dataset,
    retriever: Retriever,
    features: Sequence[Mapping[str, Any]],
    k: int = 10,
    by: By = "mixed",
    allowed: Bitmap | None = None,
) -> SimilarItems:
    """The items of the catalogue most like each item that is given by its features alone.

    Args:
        dataset: of the run.
        retriever: its first stage.
        features: columns of the items table; with an id of the catalogue, that item is not named.
        k: items per given one.
        by: `vector` (the item tower's, of an unknown id), `attributes`, or `mixed`: both.
        allowed: items that may be named; all of the catalogue when None.

    Raises:
        ConfigError: a column that the run does not keep, k is not below the catalogue's size, or `by` asks for what
            nothing is known of.
        DataError: a value is not what the schema says.
    """
    size = dataset.num_catalogue
    _check_k(k, dataset.known_items)
    if by not in ("mixed", "vector", "attributes", "together"):
        raise _no_similarity(by)
    if by == "together":
        raise ConfigError('nobody took an item that is given by its features; ask by "attributes", "vector" or "mixed"')
    told = encode_items(dataset, features)
    width = min(max(k, POOL), size - 1)
    known = [dataset.item_rows.get(name, size) if name is not None else size for name in told.ids]
    itself = Ragged.from_lists([[row] if row < size else [] for row in known])
    lists: Lists = {}
    content = _tower_reads_content(retriever)
    if by == "vector" and not content:
        raise ConfigError(
            "the item tower reads the id alone, so a new item has no vector of its own; ask by attributes"
        )
    if by != "attributes" and content:
        vectors = retriever.vectors_of(told.block, dataset.sides["item"])
        lists[TOWER] = _by_vector(retriever, vectors, width, allowed, itself)
    if by != "vector":
        found = _by_attributes(dataset, told.block, width, allowed, itself)
        lists |= {} if found is None else {ATTRIBUTES: found}
    if not lists:
        raise ConfigError("the run has no features of items besides the id, so nothing is known of a new item")
    return _answer(dataset, lists, told.ids, told.titles, k, told.unknown)


def similar_lists(
    dataset: Dataset, retriever: Retriever, rows: I64, width: int, by: By = "mixed", allowed: Bitmap | None = None
) -> Lists:
    """What each source names for items of the catalogue, themselves left out; see `similar_items`.

    Args:
        dataset: of the run.
        retriever: its first stage.
        rows: int64 [B] item rows.
        width: length of the lists, cut to the size of the catalogue.
        by: whose lists.
        allowed: items that may be named.

    Raises:
        ConfigError: the run knows nothing of what is taken together, or of attributes.
    """
    if by not in ("mixed", "vector", "together", "attributes"):
        raise _no_similarity(by)
    if by == "together" and TOGETHER not in retriever.companions:
        raise ConfigError(f'the run has no "{TOGETHER}", which knows what is taken together; add it to its baselines')
    itself, width = Ragged.from_padded(rows[:, None]), min(width, dataset.num_catalogue - 1)
    lists: Lists = {}
    if by in ("mixed", "vector"):
        lists[TOWER] = _by_vector(retriever, retriever.item_vectors[rows], width, allowed, itself)
    if by in ("mixed", "together") and TOGETHER in retriever.companions:
        lists[TOGETHER] = _together(retriever, rows, width, allowed, itself)
    if by == "attributes":
        found = _by_attributes(dataset, dataset.items.select(rows), width, allowed, itself)
        if found is None:
            raise ConfigError("the run has no attributes of items besides the id; ask by vector or together")
        lists[ATTRIBUTES] = found
    return lists


def _check_k(k: int, size: int) -> None:
    if not 1 <= k < size:
        raise ConfigError(f"k={k} items besides the given one do not exist among {size}; give 1 to {size - 1}")


def _no_similarity(by: str) -> ConfigError:
    return ConfigError(f'by = "{by}" is no similarity; expected mixed, vector, together or attributes')


def _answer(
    dataset: Dataset,
    lists: Lists,
    seeds: Sequence[Any],
    titles: Sequence[str],
    k: int,
    unknown: tuple[tuple[str, ...], ...] = (),
) -> SimilarItems:
    """One list as it is, or several merged by reciprocal rank."""
    merged = merge([named for named, _ in lists.values()], k, dataset.num_catalogue)
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
        titles=tuple(titles),
        rows=merged.rows,
        scores=scores,
        named=merged.ranks > 0,
        unknown=unknown,
    )


def _tower_reads_content(retriever: Retriever) -> bool:
    """Whether the item tower reads anything but the id."""
    layout = retriever.data.layout
    names = {*layout.item.categorical, *layout.item.bags, *(name for name, _ in layout.item.vectors)}
    return bool(names - {layout.item_id, layout.neighbours})


def _by_vector(retriever: Retriever, asked: F32, k: int, allowed: Bitmap | None, itself: Ragged) -> tuple[I64, F32]:
    """Nearest items by the cosine of the vectors, popularity's bias apart: rows and cosines [B, k]."""
    rows = None if allowed is None else allowed.rows
    directions = retriever.model.directions
    unit = directions(retriever.item_vectors)
    return exact_topk(directions(asked), unit if rows is None else unit[rows], k, itself, rows=rows)


def _together(retriever: Retriever, seeds: I64, k: int, allowed: Bitmap | None, itself: Ragged) -> tuple[I64, F32]:
    """Items that the same users took, as for a history of the one item: rows and similarities [B, k]."""
    asked = Histories(Ragged.from_padded(seeds[:, None]))

    def scores_of(requests: slice) -> F32:
        return retriever.judged(TOGETHER, asked.block(requests.start, requests.stop))

    return _known(scores_of, len(seeds), retriever.data.num_items, k, allowed, itself)


def _by_attributes(
    dataset: Dataset, items: Block, k: int, allowed: Bitmap | None, itself: Ragged
) -> tuple[I64, F32] | None:
    """Items with the same attribute values: rows and cosines [B, k]; None where the run keeps no attributes."""
    likeness = AttributeLikeness(dataset)
    if likeness.knows_nothing:
        return None

    def scores_of(requests: slice) -> F32:
        return likeness.score(items.select(torch.arange(requests.start, min(requests.stop, items.rows))))

    return _known(scores_of, items.rows, dataset.num_catalogue, k, allowed, itself)


def _known(
    score: Callable[[slice], F32], asked: int, size: int, k: int, allowed: Bitmap | None, itself: Ragged
) -> tuple[I64, F32]:
    """The best of a scorer whose 0 means that it knows nothing of the two items: rows and scores [B, k]."""
    forbidden = None if allowed is None else ~allowed.mask()

    def scores_of(requests: slice) -> F32:
        scores = score(requests)
        unknown = scores == 0 if forbidden is None else (scores == 0) | forbidden
        return np.where(unknown, -np.inf, scores).astype(np.float32)

    return topk_of_scores(scores_of, asked, size, k, itself)
