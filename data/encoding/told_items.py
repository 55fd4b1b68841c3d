"""Items as requests describe them, encoded as the run encodes those of its catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...base.arrays import I64, AnyArray, Ints
from ...base.errors import ConfigError
from ..batch import Block
from ..dataset import Dataset
from ..feature_spec import FeatureSpec, Side
from ..reading.tables import BadRows, Tables
from ..subject import raw_text
from ..vocabulary import PAD, UNKNOWN
from .attributes import Attribute, TextColumn
from .encoders import encode_side
from .raw_columns import RawColumns
from .request_columns import origin_of, table_of_texts, told_columns, unlearned_values, vectors_as_known


@dataclass(frozen=True, kw_only=True)
class ToldItems:
    """n items by their features; nothing is known of who took them.

    Attributes:
        block: encoded columns, in the layout of `Dataset.items`; the id is unknown in every row.
        ids: what each is called; None where the request does not say.
        titles: what people call each; its id, or "the given item", where the request does not say.
        unknown: of each, given values that no vocabulary holds, as `column=value`.
        keys: count key of the item side -> its code of each, int64 [n].
        attributes: what filters may ask about, by the names and kinds of `Dataset.attributes`.
        inputs: of each derived feature, of each of its inputs of the item side one value per item; empty of the others.
    """

    block: Block
    ids: tuple[str | None, ...]
    titles: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]
    keys: Mapping[str, Ints]
    attributes: Mapping[str, Attribute]
    inputs: tuple[tuple[AnyArray, ...], ...]


class _Rows(RawColumns):
    """A table of items in which every row describes itself."""

    def home_rows(self, side: Side) -> I64:
        """See `RawColumns.home_rows`."""
        return np.arange(len(self.item_ids))


def encode_items(dataset: Dataset, items: Sequence[Mapping[str, Any]]) -> ToldItems:
    """Encode items that are given by the columns of the items table.

    Args:
        dataset: of the run.
        items: n of them, column or feature -> value; columns that are not given are missing, as an empty cell is.

    Raises:
        ConfigError: a column that the run does not keep of items, or no item.
        DataError: a value is not what the schema says.
    """
    if not items:
        raise ConfigError("no item was given; give the features of at least one")
    config, layout = dataset.config, dataset.sides["item"]
    specs = config.inputs("item")
    computed = [column for one in config.derived for side, column in one.sources if side == "item"]
    named = dict.fromkeys((config.item, config.title, *config.attributes, *computed))
    plain = tuple(FeatureSpec(name=name, side="item") for name in named if name)
    others = tuple(spec for spec in plain if spec.name not in {other.source for other in specs})
    said = [told_columns(one, (*others, *specs), "features of an item", "the items table") for one in items]
    table = table_of_texts([spec.source for spec in (*others, *specs)], said)
    bad = BadRows("error", may_drop=False)
    tables = Tables(
        events=table,
        users=None,
        items=table,
        origin={"events": origin_of("features of an item", len(said)), "items": origin_of("item", len(said))},
        fingerprint="",
    ).written(config.notation)
    raw = _Rows(
        tables=tables,
        config=config,
        events=dataset.events,
        user_ids=pa.array([], pa.string()),
        item_ids=pa.nulls(len(said), pa.string()),
        bad=bad,
    )
    widths = dict(layout.vectors)
    columns = {}
    for spec in specs:
        if spec.kind != "vector":
            columns[spec.name] = raw.column(spec)
        elif raw.is_id(spec):  # vectors of ids, in which a new one has none
            columns[spec.name] = np.zeros((len(said), widths[spec.name]), dtype=np.float32)
        else:
            columns[spec.name] = vectors_as_known(tables, spec, "items", widths[spec.name], bad)
    block = encode_side(specs, columns, dataset.encoders, len(said))
    for spec in (spec for spec in specs if spec.kind == "categorical" and raw.is_id(spec)):
        if spec.in_bag:
            block.bags[layout.bags.index(spec.name)][:] = torch.tensor([UNKNOWN, PAD])
        else:
            block.categorical[:, layout.categorical.index(spec.name)] = UNKNOWN
    given = [frozenset(one) for one in said]
    learned = [spec for spec in specs if not raw.is_id(spec)]
    called = [raw_text(one.get(config.item)) for one in said]
    titles = [raw_text(one.get(config.title)) if config.title else None for one in said]
    return ToldItems(
        block=block,
        ids=tuple(called),
        titles=tuple(title or name or "the given item" for title, name in zip(titles, called, strict=True)),
        unknown=tuple(
            tuple(unlearned_values(table, given, [row], learned, block, layout.categorical)) for row in range(len(said))
        ),
        keys={
            name: vocabulary.rows(raw.column(config.feature(name)))
            for name, vocabulary in dataset.encoders.keys.items()
            if config.feature(name).side == "item"
        },
        attributes={name: _as_kept(column, dataset.attributes[name]) for name, column in raw.attributes().items()},
        inputs=tuple(
            tuple(
                raw.input(side, column, one.spec.reads) if side == "item" else np.empty(0)
                for side, column in one.spec.sources
            )
            for one in dataset.derived
        ),
    )


def _as_kept(told: Attribute, kept: Attribute) -> Attribute:
    """A column of values in the kind that a data set keeps it in; what is no number is missing among numbers."""
    if isinstance(told, TextColumn) == isinstance(kept, TextColumn):
        return told
    if isinstance(told, TextColumn):
        return np.full(len(told), np.nan)
    return TextColumn.single(pa.array([None if np.isnan(number) else f"{number:g}" for number in told], pa.string()))
