"""Any column of a run as one to slice by: features, item attributes, ids, and what the time of a row tells."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.arrays import I64, AnyArray, Ints
from ..base.errors import ConfigError
from ..base.ragged import Ragged
from ..data.batch import SideLayout
from ..data.dataset import Dataset
from ..data.encoding.attributes import TextColumn
from ..data.encoding.numeric import NumericEncoder
from ..data.feature_spec import FeatureSpec, Side
from ..data.packed import Packed
from ..data.vocabulary import FIRST, Vocabulary
from ..evaluation.slices import Column, Several, buckets, quarters

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MOMENTS: dict[str, Callable[[AnyArray], AnyArray]] = {
    "hour": lambda times: (times // 3600 % 24).astype(np.int64),
    "weekday": lambda times: np.array(DAYS)[(times // 86400 + 3).astype(np.int64) % 7],
}
"""What the time of a row is sliced by, in UTC: name -> value of each epoch second. 1970 began on a Thursday."""


@dataclass(frozen=True)
class SliceColumn:
    """A column of a run.

    Attributes:
        name: as it was asked for.
        side: whose it is; `context` is that of the event rows.
        values: one entry per user row, item row or event row.
    """

    name: str
    side: Side
    values: Column


def slice_columns(dataset: Dataset, names: Sequence[str]) -> list[SliceColumn]:
    """The columns of these names, each once.

    Args:
        dataset: of the run.
        names: a feature or the column it is read from, an attribute, title or id of the items, the id of the users,
            or `hour` and `weekday`.

    Raises:
        ConfigError: the run keeps no such column, or it has no values to slice by.
    """
    return [_column(dataset, name) for name in dict.fromkeys(names)]


def _column(dataset: Dataset, name: str) -> SliceColumn:
    config = dataset.config
    spec = next((one for one in config.features if name in (one.name, one.source) and one.kind != "sequence"), None)
    if name in dataset.attributes:  # raw values, where a feature of the same name has codes
        kept = dataset.attributes[name]
        return SliceColumn(name, "item", _texts(kept) if isinstance(kept, TextColumn) else quarters(kept))
    if spec is not None:
        return SliceColumn(name, spec.side, _feature(dataset, spec))
    if config.item and name == config.item:
        return SliceColumn(name, "item", np.array(dataset.item_ids))
    if config.title and name == config.title:
        return SliceColumn(name, "item", np.array(dataset.titles))
    if config.user and name == config.user:
        return SliceColumn(name, "user", np.array(dataset.user_ids))
    if config.time and name in MOMENTS:
        return SliceColumn(name, "context", MOMENTS[name](dataset.events.times))
    known = _names(dataset)
    close = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean "{close[0]}"?' if close else f"it keeps {', '.join(known)}"
    raise ConfigError(
        f'the run keeps no column "{name}" to slice by; {hint} '
        "(a further column of the item table is kept where data.attributes names it)"
    )


def _names(dataset: Dataset) -> list[str]:
    """Every column that can be asked for."""
    config = dataset.config
    features = [spec.name for spec in config.features if spec.kind not in ("sequence", "vector")]
    ids = [name for name in (config.user, config.item, config.title) if name]
    return list(dict.fromkeys([*features, *dataset.attributes, *ids, *(MOMENTS if config.time else ())]))


def _texts(column: TextColumn) -> Column:
    return Several(column.values, Ragged(column.codes.astype(np.int64), column.ptr))


def _feature(dataset: Dataset, spec: FeatureSpec) -> Column:
    name, encoders = spec.name, dataset.encoders
    if spec.after_event:
        return _categories(encoders.vocabularies[name], dataset.event_codes[name])
    table = {"user": dataset.users, "item": dataset.items, "context": dataset.row_query}[spec.side]
    layout = dataset.sides[spec.side]
    if spec.kind == "categorical":
        return _categories(encoders.vocabularies[name], _codes(table, layout, name))
    if spec.kind == "multi":
        codes = table.bags[layout.bags.index(name)].astype(np.int64)
        names = ("<unknown>", *encoders.vocabularies[name].values)
        return Several(names, Ragged.from_padded(codes - 1))
    if spec.kind == "numeric":
        encoder = encoders.numerics[name]
        if spec.bins:
            return _bucketed(encoder, _codes(table, layout, name))
        return quarters(encoder.unscaled(table.numbers[:, layout.numeric.index(name)]))
    raise ConfigError(f'"{name}" is a {spec.kind}, which has no values to slice by; name a category or a number')


def _codes(table: Packed, layout: SideLayout, name: str) -> I64:
    return table.codes(layout.categorical.index(name))


def _categories(vocabulary: Vocabulary, codes: Ints) -> AnyArray:
    names = np.array(vocabulary.names(range(len(vocabulary))))
    found: AnyArray = names[codes]
    return found


def _bucketed(encoder: NumericEncoder, codes: Ints) -> AnyArray:
    """Buckets of a number in at most four ranges; where it was learned in a few buckets, each is one."""
    if not len(encoder.edges):
        return np.array(["missing", f"{encoder.mode:g}", f"not {encoder.mode:g}"])[codes - FIRST + 1]
    inside = np.concatenate([[np.nan, encoder.mode, -np.inf], encoder.edges])  # a number of each bucket
    last = len(encoder.edges)
    cuts = np.unique(encoder.edges[[last // 4, last // 2, (3 * last) // 4]])
    return buckets(inside[codes - FIRST + 1], tuple(cuts.tolist()))
