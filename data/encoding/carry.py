"""What an earlier data set hands on to the next day's: its vocabularies, its edges, and everything that happened in it.

The new tables are taken to be the whole truth from their first moment on. Earlier events of the source become history:
those it trained on are `PRIOR` rows (in histories and counts, never in a loss), those it held out for validation or
test become training rows. Values keep the table rows they had, numbers their buckets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...base.arrays import F64, I64, AnyArray, Ints
from ...base.counting import counting_order
from ...base.errors import DataError, RunError
from ..dataset import Dataset
from ..log import EventLog
from ..reading.keys import RawEvents
from ..schema import DataConfig
from ..shelf import Shelf
from ..split import Part
from ..split_spec import ORDERED_SPLITS
from ..texts import Texts
from .settled import Settled

Ids: TypeAlias = pa.Array | Texts


@dataclass(frozen=True)
class Past:
    """The part of an earlier data set that lies before the new rows.

    Attributes:
        source: the earlier data set.
        rows: int64 [P] its event rows that are carried on.
        parts: int8 [P] their parts in the new data set, `PRIOR` or `TRAIN`.
        settled: the rows it learned from, where they need not be encoded again; `rows` are then the other ones.
        shelf: keeps columns of event rows.
    """

    source: Dataset
    rows: I64
    parts: NDArray[np.int8]
    settled: Settled | None = None
    shelf: Shelf = field(default_factory=Shelf)

    @classmethod
    def of(cls, source: Dataset, config: DataConfig, raw: RawEvents, shelf: Shelf, recount: bool = False) -> Past:
        """What of `source` lies before the new rows.

        Without `data.time` nobody knows what came first: no events are carried, only vocabularies and edges.

        Args:
            source: the earlier data set.
            config: the new one's `[data]` section.
            raw: the new rows.
            shelf: of the new data set.
            recount: whether all earlier rows are encoded again, settled or not.

        Raises:
            RunError: the new data set is described otherwise than the earlier one.
            DataError: the new tables hold only a part of what happened since their first row.
        """
        _same_description(source.config, config)
        events = source.events
        if not config.time or not len(raw):
            return cls(source, np.empty(0, np.int64), np.empty(0, np.int8), shelf=shelf)
        first = float(raw.times.min())
        settled = None if recount else Settled.of(source, config, first, shelf)
        if settled is not None:
            rows = settled.held_out
            return cls(source, rows, np.full(len(rows), Part.TRAIN, dtype=np.int8), settled, shelf)
        replaced = int((events.times >= first).sum())
        again = int((raw.times <= events.times.max()).sum())
        if replaced > again:
            raise DataError(
                f"the new rows begin at {first:.0f}, from where on the source run knows {replaced:,} rows and the new "
                f"tables only {again:,} up to its last; hand over all rows of that time, or only later ones"
            )
        rows = np.flatnonzero(events.times < first)
        held_out = events.parts[rows] > Part.TRAIN
        learn = held_out & (source.config.split.kind in ORDERED_SPLITS)
        return cls(source, rows, np.where(learn, Part.TRAIN, Part.PRIOR).astype(np.int8), shelf=shelf)

    def fingerprint(self, tables: str) -> str:
        """Of the new tables, and behind a `+` of what was there before."""
        sizes = [(name, len(vocabulary)) for name, vocabulary in self.source.encoders.vocabularies.items()]
        told = f"{self.source.fingerprint} {sizes} {len(self.source.events)} {self.source.config.split!r}"
        return f"{tables}+{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    @cached_property
    def users(self) -> pa.Array:
        """Raw user ids, in the order of the source's rows."""
        return pa.array(self.source.user_ids, pa.string())

    @cached_property
    def items(self) -> pa.Array:
        """Raw item ids that may be recommended: the source's catalogue, then what only its held-out rows name."""
        count = self.source.num_catalogue
        seen = self.source.events.items[self.rows]
        late = np.unique(seen[seen >= count])
        ids = pa.array(self.source.item_ids, pa.string())
        return pa.concat_arrays([ids.slice(0, count), ids.take(pa.array(late))])

    def merged(self, new: EventLog, user_ids: pa.Array, item_ids: pa.Array) -> tuple[EventLog, I64, I64]:
        """Carried and new events as one log.

        Args:
            new: the new events.
            user_ids: raw ids of the new data set.
            item_ids: raw ids of the new data set.

        Returns:
            The log (`source_rows` -1 at carried events), where carried rows stand in it, int64 [P], and which of the
            source's rows each is, int64 [P].
        """
        old, shelf = self.source.events, self.shelf
        users = shelf.keep(np.concatenate([_moved(old.users[self.rows], self.users_now), new.users]))
        # Both halves are in order, and all of the first is earlier: of one user, its rows come first.
        order = shelf.keep(counting_order(users, len(user_ids)) if len(user_ids) else np.arange(len(users)))
        columns: dict[str, Any] = {"users": shelf.take(users, order)}
        del users
        for name in (spec.name for spec in fields(EventLog) if spec.name != "users"):
            after, before = getattr(new, name), getattr(old, name)
            if after is None:
                columns[name] = None
                continue
            taken: AnyArray
            if name == "parts":
                taken = self.parts
            elif name == "source_rows":
                taken = np.full(len(self.rows), -1, dtype=np.int64)
            elif before is None:
                taken = np.full(len(self.rows), np.nan, dtype=after.dtype)
            else:
                taken = before.take(self.rows, axis=0)
                shelf.rest(before)
            taken = _moved(taken, self.items_now(item_ids)) if name == "items" else taken
            columns[name] = shelf.take(np.concatenate([taken, after]), order)
        carried = np.flatnonzero(order < len(self.rows))
        return EventLog(**columns), carried, self.rows[order[carried]]

    @property
    def users_now(self) -> I64:
        """Row of each of the source's users in the new data set: they come first."""
        return np.arange(self.source.num_users)

    def items_now(self, item_ids: pa.Array) -> I64:
        """Row of each of the source's items in the new data set, -1 where no event that is carried names it."""
        known = len(self.source.item_ids)
        return np.arange(known) if len(self.items) == known else places(self.source.item_ids, item_ids)

    def prior(self, name: str, item_ids: pa.Array) -> tuple[I64, I64]:
        """(user rows, item rows) of a sequence that the source's users had before its log began."""
        history = self.source.sequences[name]
        early = history.rows < 0
        owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))[early]
        return owner, self.items_now(item_ids)[history.items[early]]


def refuse_known_answers(source: Dataset, new: EventLog, config: DataConfig, user_ids: Ids, item_ids: Ids) -> None:
    """Stop where the source's weights have seen what the new run is to be judged by.

    Args:
        source: data set that the weights were learned from.
        new: events of the new run.
        config: the new run's `[data]` section.
        user_ids: raw ids of the new run's users.
        item_ids: raw ids of its items.

    Raises:
        DataError: a row the source learned from is held out here, or is later than the cut of a `time` split.
    """
    old = source.events
    if not config.time:
        return
    for learned, judged in ((Part.TRAIN, Part.VALID), (Part.VALID, Part.TEST)):
        known, asked = old.parts <= learned, new.parts >= judged
        if not known.any() or not asked.any():
            continue
        last, first = old.times[known].max(), new.times[asked].min()
        if config.split.kind == "time" and last >= first:
            raise DataError(
                f"the source run learned from rows up to {last:.0f}, and the {judged.name.lower()} part begins at "
                f"{first:.0f}: it knows answers; move data.split, or train without --from"
            )
        if not (config.user and config.item) or last < first:
            continue
        users, items = places(source.user_ids, user_ids), places(source.item_ids, item_ids)
        theirs = _keys(_moved(old.users[known], users), _moved(old.items[known], items), old.times[known])
        count = int(np.isin(_keys(new.users[asked], new.items[asked], new.times[asked]), theirs).sum())
        if count:
            raise DataError(
                f"the source run learned from {count:,} rows of the {judged.name.lower()} part: it knows answers; "
                "split as it did, or train without --from"
            )


def places(ids: Ids, among: Ids) -> I64:
    """Position of each raw id among others, -1 where it is not among them."""
    wanted, known = (pa.array(one, pa.string()) for one in (ids, among))
    found = pc.fill_null(pc.index_in(wanted, value_set=known), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _moved(rows: Ints, to: I64) -> Ints:
    """Entity rows under new numbers; -1, no entity, stays -1."""
    return np.where(rows >= 0, to[np.maximum(rows, 0)], -1) if len(to) else rows


def _keys(users: Ints, items: Ints, times: F64) -> NDArray[np.void]:
    """Events as comparable records of user, item and time."""
    keys = np.empty(len(users), dtype=[("user", np.int64), ("item", np.int64), ("time", np.float64)])
    keys["user"], keys["item"], keys["time"] = users, items, times
    return keys


def _same_description(old: DataConfig, new: DataConfig) -> None:
    """Refuse a source whose columns mean something else; the paths of the files are not compared."""
    old, new = (config.relocated(lambda _: "file") for config in (old, new))
    mend = "train without --from, or set [data] back"
    for key in ("user", "item", "time"):
        if getattr(old, key) != getattr(new, key):
            raise RunError(
                f'the source run has data.{key} = "{getattr(old, key)}", the new one "{getattr(new, key)}"; {mend}'
            )
    for key in ("features", "tasks", "counts", "derived"):
        there, here = ({spec.name: spec for spec in getattr(config, key)} for config in (old, new))
        for name in [*here, *there]:
            if name not in there or name not in here:
                raise RunError(f'data.{key}: "{name}" is only in the {_where(name in here)}; {mend}')
            if there[name] != here[name]:
                changed = [
                    f for f in type(here[name]).model_fields if getattr(there[name], f) != getattr(here[name], f)
                ]
                field = changed[0]
                raise RunError(
                    f'data.{key}: "{name}" has {field} = {getattr(here[name], field)!r}, in the source run '
                    f"{getattr(there[name], field)!r}; {mend}"
                )
        if list(there) != list(here):
            raise RunError(f"data.{key} stand in another order than in the source run; {mend}")


def _where(here: bool) -> str:
    return "new configuration, not in the source run" if here else "source run, not in the new configuration"
