"""Items of like attributes: cosine of the values two items have, rare values counting more (tf-idf)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..base.arrays import F32, F64, I64
from ..data.batch import Block
from ..data.dataset import Dataset
from ..data.vocabulary import FIRST

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ATTRIBUTES = "attributes"
"""Source label of items that are named for their attributes."""


class AttributeLikeness:
    """Cosine of the items' attribute values, each weighed by `log(1 + N / items that have it)`.

    Values are those of categorical and multi-valued item features and the buckets of numbers; the id is no attribute,
    and two items that both lack a value have nothing in common.

    Args:
        dataset: for its catalogue of N items.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        layout, config = dataset.sides["item"], dataset.config
        ids = {spec.name for spec in config.inputs("item") if spec.source == config.item}
        self.columns = [column for column, name in enumerate(layout.categorical) if name not in ids]
        self.missing = [dataset.encoders.missing_row(layout.categorical[column]) for column in self.columns]
        sizes = dataset.encoders.sizes()
        self.bags = [place for place, name in enumerate(layout.bags) if name not in ids]
        names = [*(layout.categorical[column] for column in self.columns), *(layout.bags[place] for place in self.bags)]
        self.offsets = np.concatenate([[0], np.cumsum([sizes[name] for name in names])]).astype(np.int64)
        whole = self._values(dataset.items.whole())[: dataset.num_catalogue]
        holders: F64 = np.asarray(whole.sum(0), dtype=np.float64).reshape(-1)
        self.rarity = np.log1p(dataset.known_items / np.maximum(holders, 1.0)).astype(np.float32)
        self.catalogue = self._unit(whole)

    @property
    def knows_nothing(self) -> bool:
        """Whether no item of the catalogue has an attribute."""
        return not self.catalogue.nnz

    def score(self, items: Block) -> F32:
        """Likeness of any items to those of the catalogue, float32 [n, N]; 0 where they share no value.

        Args:
            items: n of them, in the layout of `Dataset.items`.
        """
        return np.asarray((self._unit(self._values(items)) @ self.catalogue.T).toarray(), dtype=np.float32)

    def _values(self, items: Block) -> csr_array:
        """Which values each item has, 0 or 1 [n, V]."""
        from scipy.sparse import csr_array

        owners: list[I64] = [np.empty(0, dtype=np.int64)]
        values: list[I64] = [np.empty(0, dtype=np.int64)]
        codes = [items.categorical[:, [column]].numpy() for column in self.columns]
        codes += [items.bags[place].numpy() for place in self.bags]
        for place, block in enumerate(codes):
            known = block >= FIRST
            if place < len(self.missing):
                known &= block != self.missing[place]
            owner, column = np.nonzero(known)
            owners.append(owner)
            values.append(block[owner, column] + self.offsets[place])
        width = int(self.offsets[-1])
        pairs = np.unique(np.concatenate(owners) * max(width, 1) + np.concatenate(values))
        ones = np.ones(len(pairs), dtype=np.float32)
        return csr_array((ones, divmod(pairs, max(width, 1))), shape=(items.rows, width))

    def _unit(self, values: csr_array) -> csr_array:
        """Values times their rarity, each item of length 1."""
        from scipy.sparse import diags_array

        weighed = values @ diags_array(self.rarity)
        lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1)).reshape(-1))
        unit: csr_array = (diags_array(1.0 / np.maximum(lengths, 1e-12)) @ weighed).astype(np.float32).tocsr()
        return unit
