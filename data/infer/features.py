"""How a column enters the models: as a category, a number, several values, a vector, or not at all, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...base.column_auc import SUSPICIOUS, column_auc
from ..check.profile import comes_only_with, profile
from ..feature_spec import FeatureSpec, Kind, Side
from .names import AFTER_WORDS, BEFORE_WORDS, TITLE_WORDS, TOTAL_WORDS, WEIGHT_NAMES, plain, says, stem, words_of
from .roles import is_visit
from .summary import ColumnSummary, Summaries

FEW = 24
"""Most different whole numbers that are taken for categories."""
MANY = 0.5
"""Share of rows with a text of their own above which a text is no category."""
MOST = 0.95
"""The same for what is called an id: authors and brands of a few items each still tell items apart."""
_RARE_FROM = 1_000
"""Categories from which the rare ones share a row."""
_LEAK_ROWS = 200
_AUC_ROWS = 50_000
_FREE_TEXT = 40.0
_SAME_VALUE = 0.995


@dataclass
class Features:
    """Features, why each is one, and what was left out.

    Attributes:
        specs: in order of side and name.
        reasons: feature -> what its column holds.
        title: item column shown to people.
        notes: a sentence about each column that is no feature.
    """

    specs: list[FeatureSpec] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    title: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, spec: FeatureSpec, reason: str) -> None:
        """One more feature, under another name where its own is taken."""
        if spec.name in self.reasons:
            spec = spec.model_copy(update={"name": f"{spec.side}_{spec.name}", "column": spec.source})
        self.specs.append(spec)
        self.reasons[spec.name] = reason

    def leave(self, column: str, why: str) -> None:
        """One column that is no feature."""
        self.notes.append(f'"{column}" is left out: {why}')


def describe_entities(side: Side, table: Summaries, id_column: str, features: Features) -> None:
    """Features of a user or item table, and the title of an item table.

    Args:
        side: `user` or `item`.
        table: its columns.
        id_column: the column of ids, which is a feature elsewhere.
        features: where they go.
    """
    if side == "item":
        features.title = _title(table, id_column)
        if features.title:
            features.notes.append(f'"{features.title}" is the title of an item, shown to people and no feature')
    for name in sorted(set(table) - {id_column, features.title if side == "item" else ""}):
        column = table[name]
        if says(name, TOTAL_WORDS) and column.kind == "number" and column.distinct > 2:
            features.leave(name, f"it looks like a total over the log ({side} table), which would know the future")
            continue
        add_column(side, column, features)


def add_column(side: Side, column: ColumnSummary, features: Features) -> None:
    """One column as a feature of its side, or left out with the reason."""
    kind, detail = kind_of(column)
    if kind is None:
        features.leave(column.name, detail)
        return
    features.add(_spec(side, column, kind), detail)


def kind_of(column: ColumnSummary) -> tuple[Kind | None, str]:
    """What a column is as a feature (None: nothing), and why."""
    count = f"{column.distinct:,} different values"
    gaps = f", {column.missing / column.rows:.1%} missing" if column.missing else ""
    if column.constant:
        return None, "it holds one value only" if column.distinct else "it holds nothing"
    if column.kind == "other":
        return None, f"it holds {column.values.type}, which no feature reads"
    if column.kind == "list":
        return _list_kind(column)
    if column.kind == "moment" or column.time_kind in ("iso", "written", "day"):
        return None, "it is a date; a number made of it, such as the year, would be a feature"
    if column.kind == "flag" or column.flagged:
        return "categorical", f"two values{gaps}"
    if column.kind == "number":
        return _number_kind(column, count, gaps)
    if column.separator:
        return "multi", f'several values parted by "{column.separator}"{gaps}'
    if _is_key(column):
        return None, f"a text of its own in nearly every row ({count} in {column.rows:,} rows)"
    return "categorical", f"text, {count}{gaps}"


def _number_kind(column: ColumnSummary, count: str, gaps: str) -> tuple[Kind | None, str]:
    low, high = float(column.known.min()), float(column.known.max())
    span = f"numbers from {low:g} to {high:g}, {count}{gaps}"
    coded = _is_coded(column.name)
    if column.whole and (coded or column.distinct <= FEW):
        if coded and _is_key(column):
            return None, f"a number of its own in nearly every row ({count} in {column.rows:,} rows)"
        return "categorical", f"{count} between {low:g} and {high:g}{gaps}"
    if column.whole and column.distinct == column.rows > FEW and high - low == column.rows - 1:
        return None, "it numbers the rows"
    if high >= 3e38:
        return None, f"it holds {high:g}, which is no usable number"
    return "numeric", span


def _list_kind(column: ColumnSummary) -> tuple[Kind | None, str]:
    lists = column.values.drop_null()
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    inner = column.values.type.value_type
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    if len(lengths) == 1 and lengths[0] > 1 and pa.types.is_floating(inner):
        return "vector", f"{lengths[0]} numbers"
    if pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_integer(inner):
        return "multi", f"lists, {pc.count_distinct(pc.list_flatten(lists)).as_py():,} different values"
    return None, f"it holds {column.values.type}, which no feature reads"


def _is_coded(name: str) -> bool:
    """Whether numbers of a column of that name are codes, of which more is not larger."""
    words = words_of(name)
    marked = stem(name)[1] and plain(name).endswith(("id", "code", "key", "idx", "hash", "uuid"))
    return marked or any(word.startswith(("feat", "onehot")) for word in words)


def _is_key(column: ColumnSummary) -> bool:
    """Whether nearly every row has a value of its own."""
    share = MOST if _is_coded(column.name) else MANY
    return column.distinct > share * (column.rows - column.missing) and column.rows >= 10 and column.distinct > FEW


def _spec(side: Side, column: ColumnSummary, kind: Kind) -> FeatureSpec:
    if kind == "numeric":
        return FeatureSpec(name=column.name, side=side, kind=kind, bins=int(np.clip(column.distinct // 4, 4, 16)))
    if kind == "multi":
        return FeatureSpec(name=column.name, side=side, kind=kind, separator=column.separator or "|")
    return FeatureSpec(name=column.name, side=side, kind=kind, min_count=2 if column.distinct >= _RARE_FROM else 1)


def _title(table: Summaries, id_column: str) -> str:
    """The text that names an item: by its name, else the shortest one that nearly every item has of its own."""
    texts = {
        name: column
        for name, column in table.items()
        if name != id_column and column.kind == "text" and column.distinct > 1 and not column.time_kind
        and not column.foreign_date and not any(str(value).startswith("http") for value in column.some()[:20])
    }  # fmt: skip
    named = sorted(
        (0 if plain(name) in TITLE_WORDS else 1, name)
        for name, column in texts.items()
        if says(name, TITLE_WORDS) and column.distinct > MANY * column.rows
    )
    if named:
        return named[0][1]
    own = sorted(
        (column.mean_length, name)
        for name, column in texts.items()
        if _is_key(column) and 4 <= column.mean_length <= 120 and not stem(name)[1] and not column.separator
    )
    return own[0][1] if own else ""


Owner = Callable[[ColumnSummary], Side | None]


def describe_moments(
    events: Summaries, left: set[str], labels: dict[str, NDArray[np.float32]], owner: Owner, features: Features
) -> dict[str, str]:
    """Features of the event table: of the moment, of its user or item, or only of past events.

    Args:
        events: columns of the events.
        left: columns that play a role, are labels, or describe past events already.
        labels: task -> float32 [rows], NaN where there is none.
        owner: whose property a column is, if it is constant for each user or item (`owner_of`).
        features: where they go.

    Returns:
        Event columns with a meaning of their own: `weight` or `propensity` -> column.
    """
    special: dict[str, str] = {}
    for name in sorted(set(events) - left):
        column = events[name]
        if plain(name) in WEIGHT_NAMES and column.kind == "number":
            features.leave(name, f'it looks like a weight of the row; weight = "{name}" in [data] trains with it')
        elif (
            plain(name) == "propensity"
            and column.kind == "number"
            and 0 < column.known.min() <= column.known.max() <= 1
        ):
            special["propensity"] = name
            features.notes.append(f'"{name}" is the probability with which the row was shown')
        elif is_visit(name):
            features.leave(name, "it numbers single visits or rows")
        elif side := owner(column):
            if says(name, TOTAL_WORDS) and column.kind == "number" and column.distinct > 2:
                features.leave(name, "it looks like a total over the log, which would know the future")
            else:
                add_column(side, column, features)
        else:
            _describe_moment(column, labels, features)
    return special


def _describe_moment(column: ColumnSummary, labels: dict[str, NDArray[np.float32]], features: Features) -> None:
    name = column.name
    kind, detail = kind_of(column)
    if kind is None or kind == "vector":
        features.leave(name, detail)
        return
    if kind in ("categorical", "multi") and column.kind == "text" and column.mean_length > _FREE_TEXT:
        features.leave(name, f"free text of {column.mean_length:.0f} characters on average")
        return
    before = says(name, BEFORE_WORDS)
    told = next((task for task in labels if tells(column, labels[task])), "")
    if told:
        features.leave(name, f'it gives the label "{told}" of its own row away')
        return
    if before or (labels and not says(name, AFTER_WORDS)):
        features.add(_spec("context", column, kind), detail)
        return
    if kind == "categorical":
        features.add(
            _spec("context", column, kind).model_copy(update={"after_event": True}),
            f"{detail}; known only after the event, so it describes past events",
        )
        return
    features.leave(name, "it may be known only after the event; a regression task could predict it")


def tells(column: ColumnSummary, label: NDArray[np.float32]) -> bool:
    """Whether a column of the events gives a label of the same row away."""
    if len(label) < _LEAK_ROWS or not 0 < np.nansum(label) < np.count_nonzero(~np.isnan(label)):
        return column.rows == len(label) and _same(column, label)
    step = max(1, len(label) // _AUC_ROWS)
    codes = profile(column.values.take(pa.array(np.arange(0, len(label), step))))
    auc = column_auc(codes.codes, codes.numbers, label[::step])
    return auc >= SUSPICIOUS or comes_only_with(codes, label[::step])


def _same(column: ColumnSummary, label: NDArray[np.float32]) -> bool:
    """Whether a column of few values says the same as the label, in however few rows."""
    if column.kind not in ("number", "flag") or not column.flagged:
        return False
    return bool(np.array_equal(column.numbers, label.astype(np.float64), equal_nan=True))


def owner_of(events: pa.Table, keys: dict[Side, str]) -> Owner:
    """A function that says whose property a column of the events is.

    A column is of the item (or user) when each of them has one value, and they come often enough to have had others.

    Args:
        events: the table.
        keys: side -> id column, for sides without a table of their own.
    """
    codes = {side: _codes(events.column(name)) for side, name in keys.items()}

    def owner(column: ColumnSummary) -> Side | None:
        if column.kind in ("list", "other") or column.constant or column.time_kind:
            return None
        values = _codes(pa.chunked_array([column.values]))
        for side in ("item", "user"):
            if side not in codes:
                continue
            key = codes[side]
            distinct = int(key.max(initial=0)) + 1
            pairs = len(np.unique(key.astype(np.int64) * (int(values.max(initial=0)) + 1) + values))
            if len(key) >= 2 * distinct and pairs <= distinct / _SAME_VALUE and distinct > 1:
                return side
        return None

    return owner


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers of a column's distinct values, from 0, missing as one more value."""
    values = column.combine_chunks()
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    indices = pc.fill_null(values.indices, len(values.dictionary))
    codes: NDArray[np.int64] = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
