"""What is popular among people like the user: for those of whom a few traits are known and nothing else."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field

from ...base.arrays import F32, F64, I32, I64, AnyArray
from ...base.errors import ConfigError
from ...base.settings import Settings
from ...data.dataset import Dataset
from ...data.vocabulary import FIRST
from .base import Baseline, Histories

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SEGMENT_POPULARITY = "segment_popularity"


class SegmentSettings(Settings):
    """Options of popularity by segment."""

    shrinkage: float = Field(default=1000.0, gt=0)
    """Interactions of everybody that are mixed into each trait's own: with fewer than that a trait hardly speaks."""


class SegmentPopularity(Baseline):
    """Mean over the user's traits (age, gender, ...) of each item's share among those who have the trait, shrunk.

    Share of item i among those with value v: `p_iv = (n_iv + s p_i) / (n_v + s)`, p the shares of all. Traits
    are averaged rather than crossed: few people share every trait, and each cell would have next to nothing to say.
    The score is a probability over the catalogue. Without known traits it is overall popularity.
    """

    name = SEGMENT_POPULARITY
    settings_class: ClassVar[type[Settings]] = SegmentSettings
    settings: SegmentSettings
    segments: I32
    counts: csr_array
    totals: F64
    everybody: F32

    def describe_users(self, segments: I32) -> Self:
        """Say which segments the users are in; before `fit`.

        Args:
            segments: int32 [U, F] segment of each user by each trait, -1 where nothing is known (`user_segments`).
        """
        self.segments = segments
        return self

    def describe(self, dataset: Dataset, segments: tuple[str, ...] | None = None) -> Self:
        """See `Baseline.describe`."""
        return self.describe_users(user_segments(dataset, segment_traits(dataset, segments)))

    def for_users(self, people: Dataset, segments: tuple[str, ...] | None = None) -> Self:
        """See `Baseline.for_users`."""
        other = copy.copy(self)
        return other.describe(people, segments)

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        from scipy.sparse import csr_array

        if not hasattr(self, "segments"):
            self.segments = np.empty((num_users, 0), dtype=np.int32)
        size = int(self.segments.max(initial=-1)) + 1
        of_event = self.segments[users]  # [E, F]
        owner, trait = np.nonzero(of_event >= 0)
        rows = np.concatenate([np.zeros(len(items), dtype=np.int64), 1 + of_event[owner, trait].astype(np.int64)])
        columns = np.concatenate([items, items[owner]])
        ones = np.ones(len(rows), dtype=np.float32)
        # Row 0 counts everybody; csr_array adds up what falls into one place.
        self._take(csr_array((ones, (rows, columns)), shape=(size + 1, self.num_items)))

    def _take(self, counts: csr_array) -> None:
        self.counts = counts
        self.totals = np.asarray(counts.sum(axis=1), dtype=np.float64)
        self.everybody = counts[[0]].toarray()[0] / max(self.totals[0], 1.0)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`; only who asks is looked at."""
        from scipy.sparse import csr_array

        asked = self._traits(histories)
        user, trait = np.nonzero(asked >= 0)
        rows = 1 + asked[user, trait].astype(np.int64)
        # One row of weights per request over the segments' counts; what they leave is everybody's.
        weight = 1.0 / (max(asked.shape[1], 1) * (self.totals[rows] + self.settings.shrinkage))
        mix = csr_array((weight, (user, rows)), shape=(len(asked), len(self.totals)))
        own = (mix @ self.counts).toarray()
        borrowed = 1.0 - np.bincount(user, weight * self.totals[rows], minlength=len(asked))
        return np.asarray(own + borrowed[:, None] * self.everybody, dtype=np.float32)

    def _traits(self, histories: Histories) -> I32:
        """Segments of those who ask, int32 [B, F]; -1 everywhere when nobody said who asks."""
        if histories.users is None or not self.segments.shape[1]:
            return np.full((len(histories), self.segments.shape[1]), -1, dtype=np.int32)
        asked: I32 = self.segments[np.asarray(histories.users, dtype=np.int64)]
        return asked

    def _arrays(self) -> dict[str, AnyArray]:
        parts = {"data": self.counts.data, "indices": self.counts.indices, "indptr": self.counts.indptr}
        return {"segments": self.segments, **parts}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        from scipy.sparse import csr_array

        self.segments = arrays["segments"]
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        self._take(csr_array(parts, shape=(len(arrays["indptr"]) - 1, self.num_items)))


def segment_traits(dataset: Dataset, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """User columns that make segments: those named, or the categorical user features other than the id.

    Raises:
        ConfigError: a name is no such column.
    """
    known = dataset.sides["user"].categorical
    specs = {spec.name: spec for spec in dataset.config.features}
    if wanted is None:
        plain = [name for name in known if specs[name].kind == "categorical"]
        return tuple(name for name in plain if specs[name].source != dataset.config.user)
    if strange := [name for name in wanted if name not in known]:
        raise ConfigError(
            f'retrieval.segments names "{strange[0]}", which is no categorical or bucketed user feature; '
            f"there are: {', '.join(known) or 'none'}"
        )
    return wanted


def user_segments(dataset: Dataset, traits: tuple[str, ...]) -> I32:
    """Segments of every user: int32 [U, F], numbered over all traits; -1 where the value is missing or was not learned.

    Args:
        dataset: encoded data.
        traits: see `segment_traits`.
    """
    columns, start = [], 0
    for name in traits:
        codes = dataset.users.codes(dataset.sides["user"].categorical.index(name))
        absent = (codes < FIRST) | (codes == dataset.encoders.missing_row(name))
        columns.append(np.where(absent, -1, codes - FIRST + start))
        start += dataset.encoders.sizes()[name] - FIRST
    if not columns:
        return np.empty((dataset.num_users, 0), dtype=np.int32)
    return np.stack(columns, axis=1).astype(np.int32)
