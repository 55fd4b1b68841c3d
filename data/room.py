"""A run's data set with room for items that come later: spare rows behind its items, written when an item comes.

A row number is an item's for good. A spare row that nobody has taken, and a row of an item that appears in later events
only, is no item of the catalogue until it is `named`. What is fitted stays as it is: encoders, counts, events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.arrays import F64, I64, AnyArray, Bool, Ints
from .batch import Block
from .dataset import Dataset
from .encoding.attributes import Attribute, TextColumn, identities
from .encoding.derived import Derived
from .encoding.told_items import ToldItems
from .log_rows import Known, LogRows
from .packed import Packed
from .texts import Texts

KEPT = ("counts_now", "common_codes", "default_context", "user_rows", "_latest")
"""What a data set has worked out that its items have no say in."""


class RoomyTexts(Texts):
    """A column of texts with spare rows behind it, which are empty texts until they are written.

    Args:
        base: the column, which stays as it is.
        spare: rows behind it.
    """

    def __init__(self, base: Texts, spare: int) -> None:
        self.base, self.spare = base, spare
        self.written: dict[int, str] = {}
        self._rows: dict[str, int] = {}

    def write(self, row: int, text: str) -> None:
        """Give a row its text."""
        self.written[row] = text
        if row >= len(self.base):
            self._rows[text] = row

    @property
    def array(self) -> pa.Array:
        """The whole column, put together when it is asked for."""
        behind = [self.written.get(row, "") for row in range(len(self.base), len(self))]
        whole = pa.concat_arrays([self.base.array, pa.array(behind, self.base.array.type)])
        changed = [row for row in self.written if row < len(self.base)]
        if not changed:
            return whole
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[changed] = True
        texts = pa.array([self.written[row] for row in sorted(changed)], whole.type)
        return pc.replace_with_mask(whole, pa.array(mask), texts)

    def __len__(self) -> int:
        return len(self.base) + self.spare

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Texts(self.array)[place]
        row = int(place)
        row = row + len(self) if row < 0 else row
        if row in self.written:
            return self.written[row]
        return self.base[row] if row < len(self.base) else ("" if row < len(self) else self.base[row])

    def find(self, text: str) -> int:
        """See `Texts.find`."""
        row = self._rows.get(text, -1)
        return row if row >= 0 else self.base.find(text)

    def rows(self, texts: pa.Array) -> I64:
        """See `Texts.rows`."""
        found = self.base.rows(texts)
        if self._rows:
            for place in np.flatnonzero(found < 0).tolist():
                found[place] = self._rows.get(texts[place].as_py(), -1)
        return found


class RoomyAttributes(Mapping[str, Attribute]):
    """Raw values of items with spare rows: numbers are written in place, texts put together when asked for.

    Args:
        base: columns of N items.
        spare: rows behind them.
    """

    def __init__(self, base: Mapping[str, Attribute], spare: int) -> None:
        self._columns: dict[str, Attribute] = {name: _with_spare(column, spare) for name, column in base.items()}
        self._changed: dict[str, dict[int, tuple[str, ...]]] = {name: {} for name in base}

    def write(self, rows: Sequence[int], told: Mapping[str, Attribute]) -> None:
        """Give items their values."""
        for name, column in told.items():
            own = self._columns[name]
            if isinstance(own, TextColumn):
                assert isinstance(column, TextColumn)
                entries = [tuple(column.values[code] for code in codes) for codes in _each(column)]
                self._changed[name].update(zip(rows, entries, strict=True))
            else:
                assert not isinstance(column, TextColumn)
                own[list(rows)] = column

    def __getitem__(self, name: str) -> Attribute:
        column, changed = self._columns[name], self._changed[name]
        if changed and isinstance(column, TextColumn):
            rows = np.array(sorted(changed), dtype=np.int64)
            column = column.replaced(rows, [changed[row] for row in rows.tolist()])
            self._columns[name], self._changed[name] = column, {}
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class _Columns(Mapping[str, Attribute]):
    """What a filter may ask about, see `Dataset.item_columns`: each column is made when it is asked for."""

    def __init__(self, data: Dataset) -> None:
        own = {data.config.item: data.item_ids} | ({data.config.title: data.titles} if data.config.title else {})
        self._texts, self._data = own, data

    def __getitem__(self, name: str) -> Attribute:
        if name in self._data.attributes:
            return self._data.attributes[name]
        return identities(self._texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._texts, *self._data.attributes)))

    def __len__(self) -> int:
        return len({*self._texts, *self._data.attributes})


class _Named(Mapping[str, int]):
    """Raw id -> row of the items of the catalogue, and of those only."""

    def __init__(self, ids: RoomyTexts, named: Bool) -> None:
        self._ids, self._named = ids, named

    def __getitem__(self, item: str) -> int:
        row = self._ids.find(item) if isinstance(item, str) else -1
        if row < 0 or not self._named[row]:
            raise KeyError(item)
        return row

    def __iter__(self) -> Iterator[str]:
        return (self._ids[int(row)] for row in np.flatnonzero(self._named))

    def __len__(self) -> int:
        return int(self._named.sum())


@dataclass(frozen=True, kw_only=True)
class RoomyDataset(Dataset):
    """A data set whose items may change and become more; made by `with_room`.

    Attributes:
        run: the data set as it was made.
        named: bool [N], rows of the catalogue.
    """

    run: Dataset
    named: Bool

    @property
    def item_rows(self) -> Mapping[str, int]:
        """See `Dataset.item_rows`: of the catalogue."""
        assert isinstance(self.item_ids, RoomyTexts)
        return _Named(self.item_ids, self.named)

    @property
    def item_columns(self) -> Mapping[str, Attribute]:  # type: ignore[override]
        """See `Dataset.item_columns`."""
        return _Columns(self)

    @property
    def known_items(self) -> int:
        """See `Dataset.known_items`."""
        return int(self.named.sum())

    def listed(self, rows: Ints) -> Ints:
        """See `Dataset.listed`."""
        return np.where((rows >= 0) & self.named[np.maximum(rows, 0)], rows, -1)

    def known(self, user: str | None, *, events: bool = True) -> Known:
        """See `Dataset.known`; events of items that are none of the catalogue name no item."""
        found = super().known(user, events=events)
        if not len(found.events):
            return found
        items = self.listed(found.events["items"]).astype(found.events["items"].dtype)
        return replace(found, events=LogRows({**found.events.columns, "items": items}, found.events.narrow))

    def write(self, rows: Sequence[int], ids: Sequence[str], block: Block, told: ToldItems) -> None:
        """Give rows their items.

        Args:
            rows: n of them.
            ids: raw ids.
            block: encoded columns of the items, as they are to stand.
            told: what else is known of them.
        """
        assert isinstance(self.item_ids, RoomyTexts)
        assert isinstance(self.titles, RoomyTexts)
        assert isinstance(self.attributes, RoomyAttributes)
        at = np.array(rows, dtype=np.int64)
        self.items.write(at, block)
        for row, name, title in zip(rows, ids, told.titles, strict=True):
            self.item_ids.write(row, name)
            self.titles.write(row, title)
        for name, codes in told.keys.items():
            learned = at < self.run.num_catalogue
            is_id = self.config.feature(name).source == self.config.item
            # A new item has no row of its own among the keys that are ids; of row 0 nothing is ever counted.
            self.key_codes[name][at] = np.where(learned, self.run.key_codes[name][at * learned], 0) if is_id else codes
        self.attributes.write(rows, told.attributes)
        for one, inputs in zip(self.derived, told.inputs, strict=True):
            for (side, _), own, values in zip(one.spec.sources, one.inputs, inputs, strict=True):
                if side == "item":
                    own[at] = values
        self.named[at] = True
        for prepared in self._candidate_blocks.values():
            prepared.rewrite(at, block)


def with_room(run: Dataset, spare: int, ids: Sequence[str]) -> RoomyDataset:
    """A run's data set with spare rows behind its items.

    Args:
        run: it stays as it is.
        spare: rows.
        ids: features whose vocabulary gets as many rows too.
    """
    layout, size = run.sides["item"], run.items.rows + spare
    sizes = run.encoders.sizes()
    sizes |= {name: sizes[name] + size - run.num_catalogue for name in ids}
    sides = {key: run.config.feature(key).side for key in run.key_codes}
    changed: dict[str, Any] = {
        "items": Packed.of(run.items.whole().padded(size), [sizes[name] for name in layout.categorical]),
        "item_ids": RoomyTexts(run.item_ids, spare),
        "titles": RoomyTexts(run.titles, spare),
        "num_catalogue": size,
        "key_codes": {
            key: _longer(codes, spare, 0) if sides[key] == "item" else codes for key, codes in run.key_codes.items()
        },
        "attributes": RoomyAttributes(run.attributes, spare),
        "derived": tuple(
            Derived(
                one.spec,
                tuple(
                    _longer(values, spare, 0 if values.dtype == np.uint64 else np.nan) if side == "item" else values
                    for (side, _), values in zip(one.spec.sources, one.inputs, strict=True)
                ),
            )
            for one in run.derived
        ),
    }
    kept = {spec.name: getattr(run, spec.name) for spec in fields(Dataset) if spec.name not in changed}
    found = RoomyDataset(run=run, named=np.arange(size) < run.num_catalogue, **kept, **changed)
    found.__dict__.update({name: run.__dict__[name] for name in KEPT if name in run.__dict__})
    return found


def _longer(values: AnyArray, spare: int, fill: float) -> AnyArray:
    return np.concatenate([values, np.full((spare, *values.shape[1:]), fill, dtype=values.dtype)])


def _with_spare(column: Attribute, spare: int) -> Attribute:
    if isinstance(column, TextColumn):
        return TextColumn(column.values, column.codes, np.append(column.ptr, np.repeat(column.ptr[-1:], spare)))
    found: F64 = _longer(column, spare, np.nan)
    return found


def _each(column: TextColumn) -> list[list[int]]:
    return [column.codes[a:b].tolist() for a, b in zip(column.ptr[:-1], column.ptr[1:], strict=True)]
