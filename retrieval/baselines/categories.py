"""What is popular within the categories that a user's recent history is made of: genres, topics, shelves."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field

from ...base.arrays import F32, F64, I32, I64, AnyArray, Ints
from ...base.errors import ConfigError, DataError
from ...data.dataset import Dataset
from ...data.vocabulary import FIRST
from .base import Baseline, Histories
from .items import HistoryWeighting
from .popularity import Popularity, PopularitySettings
from .sparse import WeightedRows, summed

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST_VALUES = 1000
"""Most values of a categorical feature that is taken for categories without being named; with more it is an id."""


class CategorySettings(HistoryWeighting, PopularitySettings):
    """Options of popularity within categories."""

    features: tuple[str, ...] = ()
    """Item features whose values are the categories; empty: the first multi-valued one, else the first categorical one
    other than the id with few values."""
    damping: float = Field(default=0.5, ge=0, le=1)
    """How much the size of a category is taken out: at 1 an item counts its share of the category's events, at 0 its
    events."""
    last: int | None = Field(default=20, ge=1)
    """Only the last so many events count; none: all."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """Factor per event of age."""
    half_life_days: float | None = Field(default=30.0, gt=0)
    """An interaction so many days before the newest counts half; none: all count one."""


class SameCategory(Baseline):
    """Popular items of the categories that the recent history is made of.

    `score(i) = sum_c history_c (events of i in c) / (events of c)^damping`.

    An item of c categories is 1 / c in each. The history's part in a category is the sum of its items' parts, newer
    ones counting more; an item's events in one are its events times its part.
    """

    name = "same_category"
    settings_class: ClassVar[type[CategorySettings]] = CategorySettings
    settings: CategorySettings
    categories: I32
    weights: F32
    shares: csr_array
    by_category: csr_array

    def describe_items(self, categories: I32) -> Self:
        """Say which categories the items are in; before `fit`.

        Args:
            categories: int32 [N, L] categories of each item, in any order, none twice; -1 pads (`item_categories`).
        """
        self.categories = categories
        return self

    def describe(self, dataset: Dataset, segments: tuple[str, ...] | None = None) -> Self:
        """See `Baseline.describe`."""
        return self.describe_items(item_categories(dataset, self.settings.features))

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        if not hasattr(self, "categories") or len(self.categories) != self.num_items:
            known = f"of {len(self.categories)} items" if hasattr(self, "categories") else "of no item"
            raise DataError(
                f"same_category knows the categories {known} and there are {self.num_items}; "
                "hand those of every item to describe_items before fit"
            )
        counting = PopularitySettings(
            window_days=self.settings.window_days, half_life_days=self.settings.half_life_days
        )
        counts = Popularity(counting).fit(users, items, times, num_users, self.num_items).counts
        kept = self.categories >= 0
        events = self._shares() * counts[:, None]  # [N, L]
        size = np.bincount(self.categories[kept], events[kept], minlength=1)
        damped = np.maximum(size, 1e-12) ** self.settings.damping
        self._take(self.categories, (events / damped[self.categories]).astype(np.float32))

    def _shares(self) -> F32:
        """How much of each item lies in each of its categories, float32 [N, L]: 1 / their number, 0 at pads."""
        kept = self.categories >= 0
        return np.asarray(kept / np.maximum(kept.sum(1, keepdims=True), 1), dtype=np.float32)

    def _take(self, categories: I32, weights: F32) -> None:
        from scipy.sparse import csr_array

        self.categories, self.weights = categories, weights
        item, place = np.nonzero(categories >= 0)
        at = item, categories[item, place]
        shape = (len(categories), int(categories.max(initial=-1)) + 1)
        self.shares = csr_array((self._shares()[item, place], at), shape=shape)
        self.by_category = csr_array(csr_array((weights[item, place], at), shape=shape).T)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`; 0 for items of other categories."""
        taste = self._taste(histories)
        owner, category = np.nonzero(taste)
        return summed(
            WeightedRows(len(taste), owner, category, taste[owner, category]), self.by_category, self.num_items
        )

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """See `Baseline.score_pairs`; only the candidates' categories are looked at."""
        rows = np.asarray(items, dtype=np.int64)
        taste = np.pad(self._taste(histories), ((0, 0), (0, 1)))  # the last column is that of the pads
        query = np.arange(len(rows))[:, None]
        scores = np.zeros(rows.shape, dtype=np.float32)
        for place in range(self.categories.shape[1]):
            scores += taste[query, self.categories[rows, place]] * self.weights[rows, place]
        return scores

    def _taste(self, histories: Histories) -> F32:
        """What the histories are made of, float32 [B, G]."""
        weighted = histories.weights(self.num_items, self.settings.last, self.settings.decay)
        return summed(weighted, self.shares, int(self.shares.shape[1]))

    def _arrays(self) -> dict[str, AnyArray]:
        return {"categories": self.categories, "weights": self.weights}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        self._take(arrays["categories"], arrays["weights"])


def item_categories(dataset: Dataset, features: tuple[str, ...] = ()) -> I32:
    """Categories of every item of the catalogue: int32 [N, L], numbered over all features; -1 pads.

    A missing value, or one that no training row had, is no category.

    Args:
        dataset: encoded data.
        features: multi-valued or categorical item features; empty chooses one, see `CategorySettings.features`.

    Raises:
        ConfigError: a name is no such feature, or there is none to choose.
    """
    side, encoders = dataset.sides["item"], dataset.encoders
    columns, start = [], 0
    for name in features or (_chosen(dataset),):
        if name in side.bags:
            codes: Ints = dataset.items.bags[side.bags.index(name)]
        elif name in side.categorical:
            codes = dataset.items.codes(side.categorical.index(name))[:, None]
        else:
            known = ", ".join((*side.bags, *side.categorical)) or "none"
            raise ConfigError(
                f'same_category reads the item feature "{name}", which is neither multi-valued nor categorical; '
                f"there are: {known}"
            )
        codes = codes[: dataset.num_catalogue]
        absent = (codes < FIRST) | (codes == encoders.missing_row(name))
        columns.append(np.where(absent, -1, codes - FIRST + start))
        start += encoders.sizes()[name] - FIRST
    found = np.sort(np.concatenate(columns, axis=1), axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = -1  # a value listed twice is one category
    return found.astype(np.int32)


def _chosen(dataset: Dataset) -> str:
    """The item feature that is taken for categories when none is named."""
    side, sizes = dataset.sides["item"], dataset.encoders.sizes()
    specs = {spec.name: spec for spec in dataset.config.features}
    plain = [
        name
        for name in side.categorical
        if specs[name].kind == "categorical"
        and specs[name].source != dataset.config.item
        and sizes[name] - FIRST <= MOST_VALUES
    ]
    several = [name for name in side.bags if specs[name].kind == "multi"]
    if not (*several, *plain):
        raise ConfigError(
            f"same_category finds no multi-valued item feature and no categorical one of {MOST_VALUES:,} values or "
            "fewer; name one in retrieval.baseline_options.same_category.features, or leave same_category out"
        )
    return (*several, *plain)[0]
