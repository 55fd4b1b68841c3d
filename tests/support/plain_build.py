"""What a data set must hold, worked out row by row: loops, dictionaries and whole sorts, and nothing of the library's.

Slow and plain on purpose, for small logs. `build_dataset` must give the same numbers bit for bit, however it orders,
cuts or packs its columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys.data.dataset import Dataset
from recsys.data.feature_spec import FeatureSpec
from recsys.data.schema import CountSpec, DataConfig

PAD, UNKNOWN, FIRST = 0, 1, 2
TRAIN, VALID, TEST = 0, 1, 2
Row = dict[str, Any]
Values = list[Any]


def text(value: Any) -> str:
    """A raw value as text; nothing is the empty text, and whole floats are whole numbers."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def number(value: Any) -> np.float32:
    return np.float32(np.nan if value is None or value == "" else value)


class Numbers:
    """Bucket edges and scale of one column, by whole sorts in float64."""

    def __init__(self, values: Sequence[np.float32], bins: int, scale: str, chosen: Sequence[float] = ()) -> None:
        column = np.array(values, dtype=np.float32)
        seen = column[~np.isnan(column)].astype(np.float64)
        self.quantiles = np.empty(0) if scale == "equal_frequency" else None
        self.mode, self.edges, self.log, self.mean, self.deviation = 0.0, np.empty(0), False, 0.0, 1.0
        if len(seen):
            distinct, counts = np.unique(seen, return_counts=True)
            self.mode = float(distinct[counts.argmax()])
            rest = np.sort(seen[seen != self.mode])
            if len(rest) and bins > 1:
                self.edges = np.unique(rest[(np.arange(1, bins) * len(rest)) // bins])
            if scale == "equal_frequency":
                self.quantiles = np.sort(seen)[(np.arange(1, 100) * len(seen)) // 100]
            self.log = bool(distinct[0] >= 0) and scale != "standard"
            scaled = np.log1p(seen) if self.log else seen
            self.mean, deviation = float(scaled.mean()), float(scaled.std())
            self.deviation = deviation if deviation > 1e-12 else 1.0
        if chosen:
            self.mode, self.edges = float("nan"), np.array(chosen)

    def bucket(self, value: np.float32) -> int:
        if np.isnan(value):
            return UNKNOWN
        return FIRST if value == self.mode else FIRST + 1 + int((self.edges <= np.float64(value)).sum())

    def scaled(self, value: np.float32) -> np.float32:
        if np.isnan(value):
            return np.float32(np.nan)
        if self.quantiles is not None:
            return np.float32((self.quantiles <= np.float64(value)).sum() / (len(self.quantiles) + 1))
        x = np.full(8, value, dtype=np.float64)  # as long as a vector: one value alone may round otherwise
        x = np.log1p(np.maximum(x, 0.0)) if self.log else x
        return np.float32(np.clip((x - self.mean) / self.deviation, -8.0, 8.0)[0])


def learned(values: Sequence[str], weights: Sequence[int], min_count: int = 1) -> dict[str, int]:
    """Vocabulary rows: the most frequent value first, of equally frequent ones the first seen."""
    counts: Counter[str] = Counter()
    for value, weight in zip(values, weights, strict=True):
        if weight:
            counts[value] += weight
    kept = [value for value, count in counts.most_common() if count >= min_count]  # a stable sort
    return {value: FIRST + place for place, value in enumerate(kept)}


class PlainBuild:
    """The arrays of a data set by name, see `arrays`.

    Args:
        events: the event table.
        users: the user table, or None.
        items: the item table, or None.
        config: the `[data]` section; without derived features, vectors, hashed or pretrained ones.
        seed: of random splits.
    """

    def __init__(
        self,
        events: pd.DataFrame,
        users: pd.DataFrame | None,
        items: pd.DataFrame | None,
        config: DataConfig,
        seed: int,
    ) -> None:
        self.config, self.raw = config, events.to_dict("records")
        self.tables = {"user": users, "item": items}
        times = [float(row[config.time]) for row in self.raw] if config.time else list(map(float, range(len(events))))
        in_time = sorted(range(len(self.raw)), key=lambda r: times[r])
        self.users = self._entities("user", in_time)
        user_of = [self.users[text(row[config.user])] for row in self.raw]
        self.order = sorted(range(len(self.raw)), key=lambda r: (user_of[r], times[r], r))
        self.rows: list[Row] = [self.raw[r] for r in self.order]
        self.user = [user_of[r] for r in self.order]
        self.time = [times[r] for r in self.order]
        self.part = self._parts(seed)
        self.train = [r for r, part in enumerate(self.part) if part == TRAIN]
        self.items = self._entities("item", sorted(self.order[r] for r in self.train))
        self.catalogue = len(self.items)
        for row in self.raw:
            self.items.setdefault(text(row[config.item]), len(self.items))
        self.item = [self.items[text(row[config.item])] for row in self.rows]
        self.label, self.mask = self._labels()
        self.weight = {
            "user": [sum(self.user[r] == u for r in self.train) for u in range(len(self.users))],
            "item": [sum(self.item[r] == i for r in self.train) for i in range(len(self.items))],
            "context": [int(part == TRAIN) for part in self.part],
        }
        self.of_row = {"user": self.user, "item": self.item, "context": list(range(len(self.rows)))}
        self.columns = {spec.name: self._column(spec) for spec in config.features if spec.kind != "sequence"}
        self.found: dict[str, Any] = {}

    def _entities(self, side: str, rows: Sequence[int]) -> dict[str, int]:
        """Raw id -> row: those of the table, then those that only events name, in their order."""
        column = self.config.user if side == "user" else self.config.item
        table = self.tables[side]
        listed = [] if table is None else [text(value) for value in table[column]]
        named = [text(self.raw[r][column]) for r in rows]
        return {raw: place for place, raw in enumerate(dict.fromkeys([*listed, *named]))}

    def _parts(self, seed: int) -> list[int]:
        spec, rows = self.config.split, len(self.rows)
        if spec.kind == "column":
            return [{"train": TRAIN, "valid": VALID, "test": TEST}[row[spec.column]] for row in self.rows]
        if spec.kind == "time":
            shares = (1.0 - spec.valid - spec.test, 1.0 - spec.test)
            cuts = [
                float(given) if given else float(np.quantile(self.time, share))
                for given, share in zip((spec.valid_from, spec.test_from), shares, strict=True)
            ]
            return [int(time >= cuts[0]) + int(time >= cuts[1]) for time in self.time]
        parts = [TRAIN] * rows
        if spec.kind == "leave_last":
            for user in range(len(self.users)):
                own = [r for r in range(rows) if self.user[r] == user]
                if len(own) >= 3:
                    parts[own[-2]], parts[own[-1]] = VALID, TEST
            return parts
        key = np.random.default_rng(seed).random(rows)
        for place, r in enumerate(sorted(range(rows), key=lambda r: key[r])):
            share = place / rows
            parts[r] = TEST if share >= 1.0 - spec.test else VALID if share >= 1.0 - spec.test - spec.valid else TRAIN
        return parts

    def _labels(self) -> tuple[list[Values], list[Values]]:
        labels, masks = [], []
        for row in self.rows:
            value: dict[str, float] = {}
            known: dict[str, bool] = {}
            for task in self.config.tasks:
                found = float(number(row[task.source]))
                known[task.name] = not np.isnan(found) and (
                    not task.where or (known[task.where] and value[task.where] > 0)
                )
                found = float(found >= task.at_least) if task.at_least is not None else found
                value[task.name] = found if known[task.name] else 0.0
            labels.append(list(value.values()))
            masks.append(list(known.values()))
        return labels, masks

    def _column(self, spec: FeatureSpec) -> Values:
        """One value per user, item or event row: text, a list of texts, or float32."""
        read: Callable[[Any], Any] = number if spec.kind == "numeric" else text
        missing: Any = np.float32(np.nan) if spec.kind == "numeric" else ""
        id_column = {"user": self.config.user, "item": self.config.item, "context": ""}[spec.side]
        if spec.side == "context":
            values = [read(row[spec.source]) for row in self.rows]
        else:
            ids, table = (self.users, self.tables["user"]) if spec.side == "user" else (self.items, self.tables["item"])
            if spec.source == id_column:
                return list(ids)
            if table is not None:
                at = {text(row[id_column]): row for row in table.to_dict("records")}
            else:  # the earliest training row that names the entity describes it
                early = sorted(self.train, key=lambda r: (self.time[r], self.order[r]), reverse=True)
                at = {text(self.rows[r][id_column]): self.rows[r] for r in early}
            values = [read(at[raw][spec.source]) if raw in at else missing for raw in ids]
        if spec.kind == "multi":
            values = [[one.strip() for one in value.split(spec.separator) if one.strip()] for value in values]
        if spec.fill is not None and spec.kind != "multi":
            values = [spec.fill if value == "" or pd.isna(value) else value for value in values]
        return values

    def _numeric(self, name: str, values: Values, fitted: Values, bins: int, scale: str, edges: Any = ()) -> None:
        encoder = Numbers(fitted, bins, scale, edges)
        self.found[f"numerics/{name}"] = [
            encoder.mode,
            *encoder.edges,
            float(encoder.log),
            encoder.mean,
            encoder.deviation,
        ]
        if bins:
            self.found[f"codes/{name}"] = [encoder.bucket(value) for value in values]
        if scale != "none":
            self.found[f"numbers/{name}"] = [encoder.scaled(value) for value in values]

    def arrays(self) -> dict[str, Any]:
        """Everything, named as `arrays_of` names it."""
        config = self.config
        self.found = {
            "user_ids": list(self.users),
            "item_ids": list(self.items),
            "num_catalogue": self.catalogue,
            "users": self.user,
            "items": self.item,
            "times": self.time,
            "parts": self.part,
            "labels": self.label,
            "mask": self.mask,
            "source_rows": self.order,
        }
        for spec in config.features:
            if spec.kind == "sequence":
                self._sequence(spec)
                continue
            values, weights = self.columns[spec.name], self.weight[spec.side]
            if spec.kind == "numeric":
                fitted = [value for value, weight in zip(values, weights, strict=True) if weight]
                self._numeric(spec.name, values, fitted, spec.bins, spec.scale, spec.edges)
            elif spec.kind == "multi":
                flat = [(one, weight) for value, weight in zip(values, weights, strict=True) for one in value]
                rows = learned([one for one, _ in flat], [weight for _, weight in flat], spec.min_count)
                codes = [[rows.get(one, UNKNOWN) for one in value][: spec.max_length] for value in values]
                self.found[f"vocabularies/{spec.name}"] = list(rows)
                self.found[f"bags/{spec.name}"] = [row + [PAD] * (spec.max_length - len(row)) for row in codes]
            else:
                rows = learned(values, weights, spec.min_count)
                self.found[f"vocabularies/{spec.name}"] = list(rows)
                self.found[f"codes/{spec.name}"] = [rows.get(value, UNKNOWN) for value in values]
        for count in config.counts:
            self._count(count)
        return self.found

    def _count(self, count: CountSpec) -> None:
        key_rows = {}
        for name in count.keys:
            spec = self.config.feature(name)
            key_rows[name] = learned(self.columns[name], self.weight[spec.side])
            own = [key_rows[name].get(value, UNKNOWN) for value in self.columns[name]]
            self.found[f"key_codes/{name}"] = own
        sides = [self.config.feature(name).side for name in count.keys]
        keys: list[tuple[int, ...] | None] = []
        for r in range(len(self.rows)):
            codes = tuple(
                self.found[f"key_codes/{name}"][self.of_row[side][r]]
                for name, side in zip(count.keys, sides, strict=True)
            )
            keys.append(None if UNKNOWN in codes else codes)
        tasks = [[task.name for task in self.config.tasks].index(name) for name in count.tasks]
        prior = []
        for t in tasks:
            of_task = [self.label[r][t] for r in self.train if self.mask[r][t]]
            prior.append(np.float32(sum(of_task) / max(len(of_task), 1)))
        values: list[list[np.float32]] = []
        for r in range(len(self.rows)):
            key = keys[r]
            seen = [
                s
                for s in self.train
                if key is not None and keys[s] == key and (self.part[r] != TRAIN or self.time[s] < self.time[r])
            ]
            statistics = [np.float32(len(seen))]
            for t, rate in zip(tasks, prior, strict=True):
                observed = np.float32(sum(self.mask[s][t] for s in seen))
                positives = np.float32(sum(self.label[s][t] for s in seen))
                weight = np.float32(count.smoothing)
                statistics.append((positives + weight * rate) / (observed + weight))
            values.append(statistics)
        for place, what in enumerate(("n", *count.tasks)):
            column = [row[place] for row in values]
            self._numeric(f"{count.name}.{what}", column, [column[r] for r in self.train], count.bins, count.scale)
        known = sorted({found for r in self.train if (found := keys[r]) is not None})
        self.found[f"counts/{count.name}.seen"] = [sum(keys[r] == found for r in self.train) for found in known]

    def _sequence(self, spec: FeatureSpec) -> None:
        names = [task.name for task in self.config.tasks]
        ordered = self.config.split.kind in ("time", "leave_last")
        chosen = [
            r
            for r in range(len(self.rows))
            if self.item[r] < self.catalogue
            and (
                not spec.where or (self.label[r][names.index(spec.where)] > 0 and self.mask[r][names.index(spec.where)])
            )
            and (ordered or self.part[r] == TRAIN)
        ]
        chosen.sort(key=lambda r: (self.user[r], self.part[r], r))
        ends = []
        for r in range(len(self.rows)):
            first = sum(self.user[h] < self.user[r] for h in chosen)
            own = [h for h in chosen if self.user[h] == self.user[r]]
            limit = sum(self.part[h] < self.part[r] for h in own) if ordered and self.part[r] != TRAIN else len(own)
            ends.append(first + min(limit, sum(self.time[h] < self.time[r] for h in own)))
        self.found[f"sequences/{spec.name}.rows"] = chosen
        self.found[f"sequences/{spec.name}.items"] = [self.item[r] for r in chosen]
        self.found[f"sequences/{spec.name}.ends"] = ends


def arrays_of(dataset: Dataset) -> dict[str, Any]:
    """The arrays of a data set by the names that `PlainBuild.arrays` gives them; types of columns left aside."""
    events, sides = dataset.events, dataset.sides
    found: dict[str, Any] = {
        "user_ids": list(dataset.user_ids),
        "item_ids": list(dataset.item_ids),
        "num_catalogue": dataset.num_catalogue,
        **{name: getattr(events, name) for name in ("users", "items", "times", "parts", "labels", "mask")},
        "source_rows": events.source_rows,
        **{f"vocabularies/{name}": list(one.values) for name, one in dataset.encoders.vocabularies.items()},
        **{f"key_codes/{name}": codes for name, codes in dataset.key_codes.items()},
        **{f"counts/{table.spec.name}.seen": table.seen for table in dataset.counts},
        **{f"codes/{name}": codes for name, codes in dataset.event_codes.items()},
    }
    for name, encoder in dataset.encoders.numerics.items():
        scale = [float(encoder.log), encoder.mean, encoder.deviation]
        found[f"numerics/{name}"] = [encoder.mode, *encoder.edges, *scale]
    for block, names in (
        (dataset.users.whole(), ("user",)),
        (dataset.items.whole(), ("item",)),
        (dataset.row_query.whole(), ("context", "query_counts")),
        (dataset.row_item.whole(), ("item_counts",)),
    ):
        for kind, prefix, tensor in (
            ("categorical", "codes", block.categorical),
            ("numeric", "numbers", block.numeric),
        ):
            columns = [column for name in names for column in getattr(sides[name], kind)]
            assert tensor.shape[1] == len(columns)
            found |= {f"{prefix}/{name}": tensor[:, place].numpy() for place, name in enumerate(columns)}
        bags = [name for side in names for name in sides[side].bags]
        found |= {f"bags/{name}": bag.numpy() for name, bag in zip(bags, block.bags, strict=True)}
    for name, history in dataset.sequences.items():
        found[f"sequences/{name}.rows"] = history.rows
        found[f"sequences/{name}.items"] = history.items
        found[f"sequences/{name}.ends"] = dataset.sequence_ends[name]
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of the arrays that are not the same to the last bit, and of those that only one side has."""

    def same(name: str) -> bool:
        if name not in expected or name not in found:
            return False
        ours, theirs = (
            torch.as_tensor(v).numpy() if isinstance(v, torch.Tensor) else v for v in (expected[name], found[name])
        )
        if len(np.shape(ours)) and len(ours) and isinstance(ours[0], str):
            return list(ours) == list(theirs)
        one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        return one.size == other.size and np.array_equal(one.ravel(), other.ravel(), equal_nan=True)

    return sorted(name for name in {*expected, *found} if not same(name))
