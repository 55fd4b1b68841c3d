"""Events as a service is told them: typed as the rows of an events table are, and encoded as rows of a run's log."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...base.arrays import F32, F64, I64, AnyArray, Bool, Labels
from ...base.errors import ConfigError
from ..dataset import Dataset
from ..feature_spec import FeatureSpec, Side
from ..log_rows import EVENT, INPUT, KEY, LogRows, context_columns
from ..packed import Packed
from ..reading.columns import as_float32, as_time
from ..reading.keys import check_inputs, event_weights, label_matrix, raw_label, scenes_of
from ..reading.tables import BadRows, Tables, quote
from ..schema import DataConfig
from ..split import Part
from ..split_spec import ORDERED_SPLITS
from ..subject import raw_text
from .encoders import Column, encode_side, fill_missing
from .raw_columns import RawColumns, gather
from .request_columns import origin_of, table_of_texts, vectors_as_known

AHEAD = 300.0
"""Seconds that the clock of whoever tells an event may be ahead."""


def own_columns(config: DataConfig) -> dict[str, str]:
    """Columns that stand in the events table alone, ids and time apart: column -> separator of a list."""
    found = {spec.source: spec.separator for spec in config.features if spec.side == "context"}
    read = [
        *(task.source for task in config.tasks),
        *(task.scene.partition("=")[0] for task in config.tasks),
        *(task.weight_column for task in config.tasks),
        *(rule.column for rule in config.weights),
        *(column for one in config.derived for side, column in one.sources if side == "context"),
        *(config.weight, config.propensity, config.split.column, config.split.stratify),
    ]
    return _beside_keys(config, found | {column: "|" for column in read if column not in found})


def event_columns(config: DataConfig) -> dict[str, str]:
    """Columns that an event may say, see `own_columns`; those of users and items may stand in the events table too."""
    found = {s.source: s.separator for s in config.features if s.side != "context" and s.kind != "sequence"}
    read = (column for one in config.derived for side, column in one.sources if side != "context")
    return own_columns(config) | _beside_keys(config, found | {column: "|" for column in read if column not in found})


def _beside_keys(config: DataConfig, columns: Mapping[str, str]) -> dict[str, str]:
    keys = ("", config.user, config.item, config.time)
    return {name: separator for name, separator in columns.items() if name not in keys}


@dataclass(frozen=True)
class ToldEvent:
    """An event taken apart.

    Attributes:
        user: raw id.
        item: raw id.
        time: as it was told; None where it was not.
        columns: text of every other column that was told.
    """

    user: str
    item: str
    time: str | None
    columns: Mapping[str, str]


class EventReader:
    """Takes events apart and checks them, in the words of the tables' readers.

    Args:
        config: the `[data]` section.
        where: what messages call the events.
    """

    def __init__(self, config: DataConfig, where: str = "the events") -> None:
        self.config, self.where = config, where
        self.separators = event_columns(config)
        self.labels = {task.source: task.source for task in config.tasks}
        self.labels |= {t.name: t.source for t in config.tasks if t.at_least is None and not t.equals}

    def taken_apart(self, given: Mapping[str, Any], place: int) -> ToldEvent:
        """An event by its columns, or with `user`, `item`, `time` and `labels` (label column or task -> value).

        Raises:
            ConfigError: a column that the run's data has not, or no user or item.
        """
        rest = {str(name): value for name, value in given.items()}
        about = f"{self.where}, row {place + 1}"

        def own(name: str, column: str) -> str | None:
            value = rest.pop(name, None)
            other = rest.pop(column, None) if column and column != name else None
            return raw_text(other if value is None else value)

        user, item, moment = own("user", self.config.user), own("item", self.config.item), own("time", self.config.time)
        for what, said, column in (("user", user, self.config.user), ("item", item, self.config.item)):
            if said is None and column:
                raise ConfigError(f"{about}: the event names no {what}; give every event one")
        if moment is not None and not self.config.time:
            raise ConfigError(f"{about}: the run's data has no times; leave time out")
        columns = dict(self._labels(rest.pop("labels", None) or {}, about))
        for name, value in rest.items():
            if name not in self.separators:
                close = difflib.get_close_matches(name, self.separators, n=1, cutoff=0.5)
                known = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(sorted(self.separators))}"
                raise ConfigError(f'{about}: the run\'s data has no column "{name}" of events; {known}')
            if (text := raw_text(value, self.separators[name])) is not None:
                columns[name] = text
        if self.config.weight:
            columns.setdefault(self.config.weight, "1")
        return ToldEvent(user or "", item or "", moment, columns)

    def _labels(self, labels: Mapping[str, Any], about: str) -> Iterable[tuple[str, str]]:
        for name, value in labels.items():
            if name not in self.labels:
                raise ConfigError(f'{about}: no label is called "{name}"; there are: {", ".join(sorted(self.labels))}')
            if (text := raw_text(value)) is not None:
                yield self.labels[name], text

    def tables(self, columns: Sequence[Mapping[str, str | None]], moments: Sequence[str | None]) -> Tables:
        """Events as the events table that would hold them, without ids."""
        table = table_of_texts(list(self.separators), columns)
        if self.config.time:
            table = table.append_column(self.config.time, pa.array(moments, pa.string()))
        origin = {"events": origin_of(self.where, len(columns))}
        found = Tables(events=table, users=None, items=None, origin=origin, fingerprint="")
        return found.written(self.config.notation)

    def check(self, events: Sequence[ToldEvent], bad: BadRows, now: float | None = None) -> F64:
        """Read every column as a training would; seconds of each event, now where it says none.

        Raises:
            DataError: a value is not what the schema says (unless `bad` collects), or a time lies ahead.
        """
        now = time.time() if now is None else now
        tables = self.tables([event.columns for event in events], [event.time for event in events])
        for task in self.config.tasks:
            raw_label(tables, task, bad)
        event_weights(tables, self.config, bad)
        check_inputs(tables, self.config, bad)
        if self.config.propensity:
            as_float32(tables, "events", self.config.propensity, bad)
        return self._times(events, bad, now)

    def _times(self, events: Sequence[ToldEvent], bad: BadRows, now: float) -> F64:
        times = np.full(len(events), now)
        # No event is read by what stands in another: numbers of as many digits together, texts together.
        alike: dict[int, list[int]] = {}
        for row, event in enumerate(events):
            if event.time is not None:
                alike.setdefault(len(event.time) if event.time.isdecimal() else 0, []).append(row)
        for rows in alike.values():
            moments = [events[row].time for row in rows]
            kept = np.zeros(len(events), dtype=np.bool_)
            kept[rows] = True
            origin = origin_of(self.where, len(events)).take(kept)  # rows keep their numbers
            tables = replace(self.tables([{}] * len(rows), moments), origin={"events": origin})
            times[rows] = as_time(tables, "events", self.config.time, bad) / 1000.0
        late = np.flatnonzero(times > now + AHEAD)
        if len(late):
            found = [quote(events[row].time) for row in late.tolist()]
            expected = f"a time at most {AHEAD / 60:.0f} minutes ahead of the clock"
            bad.add(
                "events",
                tables.origin["events"],
                rows=late.tolist(),
                column=self.config.time,
                found=found,
                expected=expected,
            )
        return times


class _Rows(RawColumns):
    """A table of events in which every row describes itself."""

    def home_rows(self, side: Side) -> I64:
        """See `RawColumns.home_rows`."""
        return np.arange(self.tables.events.num_rows)

    def _texts(self, home: str, spec: FeatureSpec) -> Column:
        return gather(self.tables.events.column(spec.source).combine_chunks(), self.home_rows(spec.side))


@dataclass(frozen=True)
class EncodedEvents:
    """E events, encoded.

    Attributes:
        rows: as rows of a log; `items` -1 where the catalogue lacks one.
        items: int64 [E] item row, also of those that are not of the catalogue; -1 of those without a row.
        raw: float32 [E, T] labels as told, NaN where nothing was.
        scenes: bool [E, T] whether each row lies in the scene of each task.
    """

    rows: LogRows
    items: I64
    raw: F32
    scenes: Bool


class EventEncoder:
    """Encodes events as a run's log is encoded.

    Args:
        dataset: of the run.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.reader = EventReader(dataset.config)
        self.part = Part.TEST if dataset.config.split.kind in ORDERED_SPLITS else Part.TRAIN

    def encode(self, items: Sequence[str], times: F64, columns: Sequence[Mapping[str, str | None]]) -> EncodedEvents:
        """Encode events.

        Args:
            items: raw id of each.
            times: seconds of each.
            columns: text of each column that was told, see `ToldEvent`.
        """
        data = self.dataset
        config, layout = data.config, data.sides["context"]
        bad, size = BadRows("error", may_drop=False), len(items)
        tables = self.reader.tables(columns, [f"{moment:.3f}".rstrip("0").rstrip(".") for moment in times.tolist()])
        raw = _Rows(
            tables=tables,
            config=config,
            events=data.events,
            user_ids=pa.nulls(size, pa.string()),
            item_ids=pa.nulls(size, pa.string()),
            bad=bad,
        )
        at = data.item_ids.rows(pa.array(items, pa.string()))
        specs = config.inputs("context")
        widths = dict(layout.vectors)
        read = {
            s.name: vectors_as_known(tables, s, "events", widths[s.name], bad) if s.kind == "vector" else raw.column(s)
            for s in specs
        }
        told = np.stack([raw_label(tables, task, bad) for task in config.tasks], axis=1) if config.tasks else None
        found: dict[str, AnyArray] = {
            "items": data.listed(at).astype(np.int32),
            "times": times,
            "parts": np.full(size, self.part, dtype=np.int8),
        }
        found["labels"], found["mask"] = label_matrix(config.tasks, _by_name(config, told), tables)
        table = Packed.of(
            encode_side(specs, read, data.encoders, size), [data.encoders.sizes()[n] for n in layout.categorical]
        )
        found |= context_columns(table, len(layout.categorical), len(layout.numeric))
        for name, vocabulary in data.encoders.keys.items():
            if config.feature(name).side == "context":
                found[KEY + name] = vocabulary.rows(raw.column(config.feature(name))).astype(np.int32)
        for name in data.event_codes:
            found[EVENT + name] = np.asarray(data.encoders.codes(name, raw.column(config.feature(name)))).astype(
                np.int32
            )
        for place, one in enumerate(data.derived):
            for i, (side, column) in enumerate(one.spec.sources):
                if side == "context":
                    found[f"{INPUT}{place}/{i}"] = self._input(raw, column, one.spec.reads, times)
        narrow = data.log_rows.narrow
        empty = np.empty((size, 0), dtype=np.float32)
        return EncodedEvents(
            LogRows(found, narrow), at, empty if told is None else told, scenes_of(config.tasks, tables)
        )

    def joined(self, raw: F32, scenes: Bool) -> tuple[Labels, Bool]:
        """Labels [R, T] (0 where masked) and masks [R, T] of labels as told, see `EncodedEvents`."""
        config = self.dataset.config
        tables = self.reader.tables([{}] * len(raw), [None] * len(raw))
        return label_matrix(config.tasks, _by_name(config, raw), tables, scenes=scenes)

    def _input(self, raw: RawColumns, column: str, reads: str, times: F64) -> AnyArray:
        """An input of a derived feature; the time column is the time of the event, told or not."""
        if column == self.dataset.config.time and reads == "time":
            return times
        return raw.input("context", column, reads)

    def absent_code(self, name: str, item: bool) -> int:
        """Row of a count key of the user or item side, of a user or item that no table describes."""
        spec = self.dataset.config.feature(name)
        column = pa.array([None], pa.string())
        own = self.dataset.config.item if item else self.dataset.config.user
        if spec.source == own:
            return 1
        return int(self.dataset.encoders.keys[name].rows(fill_missing(spec, column))[0])


def _by_name(config: DataConfig, told: F32 | None) -> dict[str, F32]:
    return {} if told is None else {task.name: told[:, place] for place, task in enumerate(config.tasks)}
