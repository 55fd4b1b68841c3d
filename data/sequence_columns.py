"""Sequence features as columns of a batch: the latest events of a history, their number, their matches with an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..base.arrays import F32, I32, I64, Ints, Labels
from .batch import Block, SideLayout
from .feature_spec import FeatureSpec
from .history import History
from .packed import Packed
from .vocabulary import FIRST, UNKNOWN

GAP_BUCKETS = 40


@dataclass(frozen=True)
class SequenceColumns:
    """What the sequence features of a data set add to a batch.

    Attributes:
        specs: the sequence features, in order.
        histories: the events of each.
        described: vocabulary rows of what describes each event of a history, int32 [E, of + properties].
        item_layout: columns of the item block, with which elements are matched.
    """

    specs: tuple[FeatureSpec, ...]
    histories: Mapping[str, History]
    described: Mapping[str, I32]
    item_layout: SideLayout

    @classmethod
    def of(
        cls,
        specs: Sequence[FeatureSpec],
        histories: Mapping[str, History],
        items: Packed,
        item_layout: SideLayout,
        labels: Mapping[str, Labels],
    ) -> SequenceColumns:
        """Describe every event of every history.

        Args:
            specs: the sequence features.
            histories: the events of each.
            items: encoded item columns.
            item_layout: names of these columns.
            labels: task -> label of each row of the log, 0 where masked.
        """
        described = {}
        for spec in specs:
            history = histories[spec.name]
            columns = [items.codes(item_layout.categorical.index(name), history.items) for name in spec.of]
            columns += [_property(history, name, labels) for name in spec.properties]
            described[spec.name] = np.stack(columns, axis=1).astype(np.int32)
        return cls(tuple(specs), histories, described, item_layout)

    def rewrite(self, items: Packed, rows: I64) -> None:
        """Take in that items, int64 [n] rows, are described by other values from here on."""
        for spec in self.specs:
            at = np.flatnonzero(np.isin(self.histories[spec.name].items, rows))
            for place, name in enumerate(spec.of):
                column = self.item_layout.categorical.index(name)
                self.described[spec.name][at, place] = items.codes(column, self.histories[spec.name].items[at])

    def added(self, query: Block, item: Block, users: Ints, ends: Mapping[str, I64]) -> tuple[Block, Block]:
        """Both sides of a batch with the sequences up to given pointers, their lengths, and their matches with items.

        Args:
            query: Q rows.
            item: R rows, as many for each query row, those of a query row one behind the other.
            users: int [Q] user row of each query row.
            ends: of each sequence, int64 [Q] pointer behind the last event that is known.
        """
        sequences: list[Tensor] = []
        lengths = np.empty((query.rows, len(self.specs)), dtype=np.float32)
        matches: list[Tensor] = []
        each = item.rows // max(query.rows, 1)
        for place, spec in enumerate(self.specs):
            end = ends[spec.name]
            elements = self._latest(spec, users, end)
            sequences.append(elements)
            lengths[:, place] = np.log1p(end - self.histories[spec.name].ptr[users])
            for name in spec.matches:
                own = item.categorical[:, self.item_layout.categorical.index(name)].reshape(query.rows, each)
                matches.append(_matched(elements[:, :, spec.of.index(name)], own))
        known = torch.cat([query.numeric, torch.from_numpy(lengths)], 1)
        query = Block(query.categorical, known, query.bags, tuple(sequences), query.vectors)
        if matches:
            numbers = torch.cat([item.numeric, torch.stack(matches, dim=1)], dim=1)
            item = Block(item.categorical, numbers, item.bags, item.sequences, item.vectors)
        return query, item

    def _latest(self, spec: FeatureSpec, users: Ints, ends: I64) -> Tensor:
        """The last elements before each pointer, described: int64 [B, L, of + properties]."""
        if len(users) == 1:  # its elements stand one behind the other
            end = int(ends[0])
            start = max(int(self.histories[spec.name].ptr[users[0]]), end - spec.length)
            alone = np.zeros((1, spec.length, self.described[spec.name].shape[1]), dtype=np.int64)
            alone[0, : end - start] = self.described[spec.name][start:end]
            return torch.from_numpy(alone)
        positions, present = self.histories[spec.name].window(users, ends, spec.length)
        described = self.described[spec.name]
        if not len(described):
            return torch.zeros(len(users), spec.length, described.shape[1], dtype=torch.int64)
        elements = torch.from_numpy(described.take(positions.flatten().numpy(), axis=0)).long()
        return (elements * present.flatten().unsqueeze(1)).view(len(users), spec.length, -1)


def _matched(shown: Tensor, own: Tensor) -> Tensor:
    """log(1 + how many elements of a query have an item's value): int64 [Q, L] and [Q, C] -> float32 [Q * C].

    What is padded or unknown matches nothing.
    """
    if own.shape[1] == 1:  # logged rows
        return torch.log1p((shown.masked_fill(shown < FIRST, -1) == own).sum(1).float())
    values, length = shown.numpy(), shown.shape[1]
    same = np.where(values < FIRST, -1, values)[:, :, None] == own.numpy()[:, None, :]
    small = np.uint8 if length < 2**8 else np.uint16 if length < 2**16 else np.uint64
    counts = np.add.reduce(same.view(np.uint8), axis=1, dtype=small)  # row upon row, of bytes: many at a time
    return torch.from_numpy(_log_counts(length).take(counts.reshape(-1)))


@cache
def _log_counts(longest: int) -> F32:
    """log(1 + n) of n from 0 to `longest`, as it is computed of single counts."""
    logs: F32 = torch.log1p(torch.arange(longest + 1).float()).numpy()
    return logs


def _property(history: History, name: str, labels: Mapping[str, Labels]) -> I64:
    """One property of every event of a history as vocabulary rows, int64 [E]."""
    if name == "gap":
        return history.gap_buckets(GAP_BUCKETS) + UNKNOWN
    label = labels[name][np.maximum(history.rows, 0)].astype(np.int64)
    return np.where(history.rows < 0, UNKNOWN, label + FIRST)
