"""A run's items as they come, change and go: what is told of them stands behind the run's own rows.

Nothing is trained. An item's columns are encoded by the run's encoders, the item tower makes its vector, and the row of
an id that the run never learned begins at the mean of its content neighbours, as a training that goes on from the run
begins it. What the run learned of an id stays. Rows are given in the order of the log, so that every process that reads
the log has the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ..base.arrays import F32, I64
from ..base.device import device_of
from ..base.errors import RecsysError
from ..data.batch import Block
from ..data.dataset import Dataset
from ..data.encoding.told_items import ToldItems, encode_items
from ..data.room import RoomyDataset, with_room
from ..data.vocabulary import FIRST, UNKNOWN
from ..funnel.funnel import Funnel
from ..funnel.neighbours import KnownItems, NeighbourMeans, id_features
from ..funnel.run import Stage, TrainedRun, assemble_retriever
from ..nn.embedding import EmbeddingTable, copy_beside_tables, tables_of
from ..ranking.ensemble import build_members
from ..retrieval.index.segments import SegmentedIndex
from ..retrieval.towers.ensemble import build_tower_members
from ..retrieval.towers.two_tower import take_linear
from ..retrieval.towers.windows import choose
from .log.base import LogRow

logger = logging.getLogger(__name__)

LEAST = 256
"""Spare rows at least; a sixteenth of many items, and twice as many as are taken when they are full."""
MANY, DEAD = 20_000, 0.2
"""Changed rows, and share of rows that are dead, from which on a new run should be published."""

Columns = Mapping[str, str | None]
Codes = tuple[int, ...]
Model = TypeVar("Model", bound=nn.Module)


class LiveCatalogue:
    """A run with room for items, and what was told of them.

    Args:
        run: the run's funnel; it stays as it is.
    """

    def __init__(self, run: Funnel) -> None:
        self.run = run
        self.funnel: Funnel = run
        self.living = np.ones(run.dataset.num_catalogue, dtype=np.bool_)
        self.told: dict[str, Columns] = {}
        self.hidden: set[int] = set()
        self._new: set[int] = set()
        self._updated: set[int] = set()
        self.refused = 0
        self.written = np.empty(0, dtype=np.int64)
        self._rows: dict[str, int] = {}
        self._warned = False
        self._means: dict[str, NeighbourMeans] = {}

    @property
    def dataset(self) -> Dataset:
        """With all items that were told; the run's own until the first one."""
        return self.funnel.dataset

    @property
    def changed(self) -> int:
        """Items that are new, changed, hidden or deleted: what the run's own index knows nothing of."""
        return len(self._new) + len(self._updated) + len(self.hidden - self._new - self._updated)

    @property
    def counts(self) -> dict[str, int]:
        """Items that may be named, that are new, that changed, and that are hidden or deleted."""
        return {
            "living": self._size + len(self._new) - len(self.hidden),
            "new": len(self._new),
            "changed": len(self._updated),
            "hidden": len(self.hidden),
        }

    @property
    def crowded(self) -> bool:
        """Whether so much has changed that a new run should be published."""
        return self.changed > MANY or len(self.hidden) > DEAD * max(self.dataset.known_items, 1)

    def _row_of(self, item: str) -> int:
        """Row of an item, also of one in later events only; -1 where none has been given."""
        row = self._rows.get(item, -1)
        return row if row >= 0 else self.run.dataset.item_ids.find(item)

    def apply(self, rows: Sequence[LogRow]) -> bool:
        """Take in puts and deletes, in order; whether the funnel is another object than before.

        The ids of new items begin where those of the run's items stand that are like them now, so new items and changed
        ones are taken in by turns.
        """
        self.written = self.written[:0]
        turns: list[dict[str, Columns]] = []
        met, of_run = set[str](), False
        lives: dict[str, bool] = {}
        for row in rows:
            if row.kind == "item_delete":
                lives[row.item] = False
                continue
            body = json.loads(row.body)
            columns = body["columns"]
            own = 0 <= self._row_of(row.item) < self._size
            if columns or not (own or row.item in met or row.item in self.told):
                if not turns or own != of_run:
                    turns.append({})
                    of_run = own
                turns[-1][row.item] = columns
                met.add(row.item)
            lives[row.item] = body.get("available", True)
        grown = False
        for turn in turns:
            told, values = self._encoded(turn)
            grown |= self._make_room(told)
            self._write(told, values)
        for item, alive in lives.items():
            at = self._row_of(item)
            if 0 <= at < len(self.living) and (at < self._size or item in self.told):
                self.living[at] = alive
                (self.hidden.discard if alive else self.hidden.add)(at)
        if self.crowded and not self._warned:
            self._warned = True
            logger.warning("%d items changed since the run was trained: publish a new run", self.changed)
        return grown

    def decisive(self, rows: Sequence[LogRow]) -> list[bool]:
        """Of each put and delete, in order, whether later events of its item are read otherwise than earlier ones.

        They are where it becomes an item by it, or gets another code of a count key; else nobody can tell which came
        first.
        """
        names = self._count_keys
        told = [json.loads(row.body)["columns"] if row.kind == "item_put" else {} for row in rows]
        places = [place for place, columns in enumerate(told) if columns]
        after: dict[int, Codes] = {}
        if names and places:
            try:
                found = encode_items(self.run.dataset, [self._named(rows[at].item, told[at]) for at in places]).keys
            except RecsysError:  # one by one it may be clear; that they are told in turn is always right
                return [row.kind == "item_put" for row in rows]
            after = dict(zip(places, zip(*(found[name].tolist() for name in names), strict=True), strict=True))
        now: dict[str, Codes | None] = {}
        decides = []
        for place, row in enumerate(rows):
            if row.kind != "item_put":
                decides.append(False)
                continue
            before = now[row.item] if row.item in now else self._codes(row.item)
            now[row.item] = after.get(place, before or ())
            decides.append(before is None or now[row.item] != before)
        return decides

    @cached_property
    def _count_keys(self) -> list[str]:
        """Count keys that are columns of items."""
        config = self.run.dataset.config
        keys = {name: config.feature(name) for name in self.run.dataset.encoders.keys}
        return [name for name, spec in keys.items() if spec.side == "item" and spec.source != config.item]

    def _codes(self, item: str) -> Codes | None:
        """An item's codes of these keys; None where it is none of the catalogue."""
        row, data = self._row_of(item), self.dataset
        if row < 0 or data.listed(np.array([row]))[0] < 0:
            return None
        return tuple(int(data.key_codes[name][row]) for name in self._count_keys)

    @property
    def _size(self) -> int:
        """Items of the run's own catalogue."""
        return self.run.dataset.num_catalogue

    def _encoded(self, told: Mapping[str, Columns]) -> tuple[dict[str, Columns], ToldItems | None]:
        """Those that the run can read, and their values; of another schema's columns it knows nothing."""
        try:
            return dict(told), self._values(told)
        except RecsysError:
            found = {item: columns for item, columns in told.items() if self._readable(item, columns)}
            self.refused += len(told) - len(found)
            return found, self._values(found)

    def _values(self, told: Mapping[str, Columns]) -> ToldItems | None:
        if not told:
            return None
        return encode_items(self.run.dataset, [self._named(item, columns) for item, columns in told.items()])

    def _readable(self, item: str, columns: Columns) -> bool:
        try:
            self._values({item: columns})
        except RecsysError:
            logger.warning("an item that was told does not fit the run's columns and is left out")
            return False
        return True

    def _named(self, item: str, columns: Columns) -> dict[str, Any]:
        return {self.run.dataset.config.item: item, **columns}

    # Room.

    def _make_room(self, told: Mapping[str, Columns]) -> bool:
        """Rows for items that have none; whether arrays had to be made anew."""
        fresh = [item for item in told if self._row_of(item) < 0]
        end, taken = self.run.dataset.items.rows, len(self._rows)
        spare = self.dataset.items.rows - end
        grown = bool(told) and (self.funnel is self.run or taken + len(fresh) > spare)
        for place, item in enumerate(fresh, start=end + taken):
            self._rows[item] = place
        if grown:
            least = max(LEAST, end // 16)
            self._grow(max(least, 2 * (taken + len(fresh))))
        return grown

    def _grow(self, spare: int) -> None:
        living, before = self.living, len(self.living)
        trained = _with_room(self.run.trained, spare, self._learned_ids)
        dataset, retriever = trained.dataset, trained.retriever
        assert isinstance(dataset, RoomyDataset)
        assert retriever is not None
        self.living = dataset.named.copy()
        self.living[:before] = living
        if retriever.index is not None:
            retriever.index = SegmentedIndex(retriever.index, retriever.item_vectors, self.living)
        self.funnel = Funnel(trained)
        self._means = {}
        self._write(self.told, self._values(self.told))

    @property
    def _learned_ids(self) -> list[str]:
        """Id features that have a vocabulary, and so a row for each item."""
        data = self.run.dataset
        return [name for name in id_features(data) if name in data.encoders.vocabularies and name in _categorical(data)]

    # Items.

    def _write(self, told: Mapping[str, Columns], found: ToldItems | None) -> None:
        """Give rows their items: columns, rows of ids, vectors."""
        if found is None:
            return
        self.told.update(told)
        data, retriever = self.funnel.dataset, self.funnel.retriever
        assert isinstance(data, RoomyDataset)
        rows = np.array([self._row_of(item) for item in told], dtype=np.int64)
        self.written = np.concatenate([self.written, rows])
        block = self._with_ids(found, rows, list(told))
        data.write(rows.tolist(), list(told), block, found)
        for row in rows.tolist():
            (self._new if row >= self._size else self._updated).add(row)
        if (rows < self._size).any():
            self._means = {}
        self._begin_ids(block, rows)
        retriever.rewrite(rows, block, data.sides["item"])
        if self.run.retriever.index is not None:
            assert isinstance(self.index, SegmentedIndex)
            self.index.changed[rows] = True
        fresh = ~np.isin(rows, sorted(self.hidden))
        self.living[rows[fresh]] = True

    @property
    def index(self) -> object:
        """What the first stage searches; None where it compares with every item."""
        return self.funnel.retriever.index

    def _with_ids(self, found: ToldItems, rows: I64, items: Sequence[str]) -> Block:
        """Encoded columns with the code of each item's id: of a learned id its own, else one behind the vocabulary."""
        data, block = self.run.dataset, found.block
        layout = data.sides["item"].categorical
        for name in set(id_features(data)) & set(layout):
            column = layout.index(name)
            if name in data.encoders.vocabularies:
                own = data.items.codes(column, np.minimum(rows, data.items.rows - 1))
                new = len(data.encoders.vocabularies[name]) + self._places(rows)
                codes = np.where(rows < self._size, own, new)
            else:
                codes = np.asarray(data.encoders.codes(name, pa.array(items, pa.string())), dtype=np.int64)
            block.categorical[:, column] = torch.from_numpy(codes)
        return block

    def _places(self, rows: I64) -> I64:
        """Of each row that no vocabulary knows its place among those: late items first, then spare rows."""
        return np.maximum(rows - self._size, 0)

    def _begin_ids(self, block: Block, rows: I64) -> None:
        """Rows of ids that were never learned: the mean of the content neighbours."""
        data = self.run.dataset
        at = torch.from_numpy(np.flatnonzero(rows >= self._size))
        if not len(at):
            return
        items, layout = block.select(at), data.sides["item"].categorical
        for stage, model in self._models.items():
            for name, table in tables_of(model).items():
                for feature in self._learned_ids:
                    if feature in table.sizes:
                        codes = items.categorical[:, layout.index(feature)]
                        start = self._start(stage, name, table, feature)
                        begun = start.expand(len(at), -1).clone()
                        present, means = self._near(f"{stage}/{name}/{feature}", table, feature).near(data, items)
                        begun[present] = means.to(begun.dtype)
                        table.write(feature, codes, begun)

    @property
    def _models(self) -> dict[Stage, nn.Module]:
        trained = self.funnel.trained
        found: dict[Stage, nn.Module] = {"retrieval": self.funnel.retriever.model}
        return found if trained.model is None else {**found, "ranking": trained.model}

    @property
    def _known(self) -> I64:
        """Rows of the items whose ids were learned, by the first id feature."""
        data = self.run.dataset
        column = data.sides["item"].categorical.index(self._learned_ids[0])
        return np.flatnonzero(data.items.codes(column) >= FIRST)

    def _near(self, key: str, table: EmbeddingTable, feature: str) -> NeighbourMeans:
        """What items of each value learned, kept until an item with a learned id changes."""
        if key not in self._means:
            data, known = self.funnel.dataset, self._known
            items = data.items.select(known)
            codes = items.categorical[:, data.sides["item"].categorical.index(feature)]
            self._means[key] = KnownItems.of(data, items).means(table.rows_of(feature)[codes])
        return self._means[key]

    def _start(self, stage: Stage, name: str, table: EmbeddingTable, feature: str) -> Tensor:
        """Where an id without neighbours begins, [K]: at the unknown row, or the mean of the learned."""
        data = self.run.dataset
        rows = table.rows_of(feature)[: len(data.encoders.vocabularies[feature])].detach()
        state = self.run.trained.optimizers.get(stage, {})
        moved = [value for key, value in state.items() if key.endswith(f"{name}/{feature}/square")]
        column = data.sides["item"].categorical.index(feature)
        if moved:
            trained = bool(moved[0][UNKNOWN].any())
        else:  # every item of the catalogue is learned from
            trained = bool((data.items.codes(column, np.arange(self._size)) == UNKNOWN).any())
        return rows[UNKNOWN] if trained else rows[FIRST:].mean(0)


def _categorical(data: Dataset) -> tuple[str, ...]:
    return data.sides["item"].categorical


def _with_room(run: TrainedRun, spare: int, ids: Sequence[str]) -> TrainedRun:
    """A run with spare rows behind its items and behind the rows of their ids; what it learned is as it was."""
    config, old = run.config, run.retriever
    assert old is not None
    dataset = with_room(run.dataset, spare, ids)
    later = dataset.items.rows - run.dataset.num_catalogue
    longer = {name: size + later for name, size in run.dataset.encoders.sizes().items() if name in ids}
    tower = config.retrieval.tower
    layout = replace(old.data.layout, sizes={**old.data.layout.sizes, **_of(longer, old.data.layout.sizes)})
    items = choose(dataset.sides["item"], dataset.items.whole(), tower.item_features)[1]
    data = replace(old.data, layout=layout, items=items)
    seeds = config.seed, config.ensemble.seeds
    towers = _as_learned(build_tower_members(data, tower, *seeds), old.model)
    take_linear(towers, old.model)
    empty = np.zeros((later, old.item_vectors.shape[1]), dtype=np.float32)
    vectors: F32 = np.concatenate([old.item_vectors, empty])
    retriever = assemble_retriever(config, towers, data, old.companions, old.index, vectors)
    model, ranker = run.model, run.ranker
    if model is not None:
        wide = replace(run.dataset.layout, sizes={**run.dataset.layout.sizes, **_of(longer, run.dataset.layout.sizes)})
        features = len(old.feature_names) if config.ranking.select.enabled else 0
        built, ranker = build_members(config.ranking, wide, run.dataset.config.tasks, features, *seeds)
        model = _as_learned(built, model)
    return replace(run, dataset=dataset, retriever=retriever, model=model, ranker=ranker)


def _of(longer: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in longer.items() if name in sizes}


def _as_learned(model: Model, source: nn.Module) -> Model:
    """A fresh model with what another of the same shape learned, its tables longer, on the other's device."""
    copy_beside_tables(model, source)
    there = tables_of(source)
    for name, table in tables_of(model).items():
        table.begin_with(there[name])
    model.to(device_of(source))
    return model.eval()
