"""A data set taken apart into what a file can hold: named arrays, columns of text, and JSON that people may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..base.arrays import AnyArray
from .batch import SideLayout
from .dataset import Dataset
from .encoding.attributes import Attribute, TextColumn
from .encoding.counts import CountTable
from .encoding.derived import Derived
from .encoding.encoders import Encoders
from .encoding.groups import Sums
from .history import History
from .log import EventLog
from .packed import SIDES, Packed
from .schema import DataConfig
from .texts import Texts

Arrays = dict[str, AnyArray]
COUNTED = ("keys", "seen", "rows", "positives", "prior")


@dataclass(frozen=True)
class Parts:
    """What a data set is made of.

    Attributes:
        arrays: by name, such as `events/users`.
        texts: columns of text by name, such as `ids/users`.
        encoders: what was learned, as JSON, the texts left out.
        schema: everything else, as JSON.
    """

    arrays: Arrays
    texts: dict[str, Texts]
    encoders: dict[str, Any]
    schema: dict[str, Any]

    @classmethod
    def of(cls, dataset: Dataset) -> Parts:
        """Take a data set apart; nothing is copied."""
        arrays: Arrays = {}
        for name in SIDES:
            arrays |= table_arrays(name, getattr(dataset, name))
        arrays |= _fields_arrays("events", dataset.events)
        for name, history in dataset.sequences.items():
            arrays |= _fields_arrays(f"sequences/{name}", history)
            arrays[f"sequence_ends/{name}"] = dataset.sequence_ends[name]
        for group in ("key_codes", "event_codes"):
            arrays |= {f"{group}/{name}": values for name, values in getattr(dataset, group).items()}
        for place, table in enumerate(dataset.counts):
            arrays |= {f"counts/{place}/{name}": getattr(table, name) for name in COUNTED}
            arrays |= {} if table.sums is None else _fields_arrays(f"sums/{place}", table.sums)
        for place, one in enumerate(dataset.derived):
            arrays |= {f"derived/{place}/{i}": values for i, values in enumerate(one.inputs)}
        encoders = dataset.encoders.state()
        texts: dict[str, Texts] = {"ids/users": dataset.user_ids, "ids/items": dataset.item_ids}
        if dataset.titles != dataset.item_ids:
            texts["titles"] = dataset.titles
        for group in ("vocabularies", "keys"):
            texts |= {f"{group}/{name}": values for name, values in encoders.pop(group).items()}
        for name, attribute in dataset.attributes.items():
            if isinstance(attribute, TextColumn):
                arrays |= {f"attribute_codes/{name}": attribute.codes, f"attribute_ptr/{name}": attribute.ptr}
                texts[f"attributes/{name}"] = attribute.values
            else:
                arrays[f"attribute_numbers/{name}"] = attribute
        schema = {
            "data": dataset.config.model_dump(mode="json"),
            "num_catalogue": dataset.num_catalogue,
            "sides": {side: _layout_state(layout) for side, layout in dataset.sides.items()},
            "narrow": {name: list(getattr(dataset, name).narrow) for name in SIDES},
            "count_sizes": [list(table.sizes) for table in dataset.counts],
            "id_types": dict(dataset.id_types),
            "fingerprint": dataset.fingerprint,
            "notes": list(dataset.notes),
        }
        return cls(arrays, texts, encoders, schema)

    def dataset(self) -> Dataset:
        """The data set again."""
        arrays, schema = self.arrays, self.schema
        config = DataConfig.model_validate(schema["data"])
        tables = {name: self._table(name, tuple(schema["narrow"][name])) for name in SIDES}
        counts = tuple(
            CountTable(
                spec=spec,
                sizes=tuple(sizes),
                sums=Sums(**sums) if (sums := self._arrays(f"sums/{place}")) else None,
                **{name: arrays[f"counts/{place}/{name}"] for name in COUNTED},
            )
            for place, (spec, sizes) in enumerate(zip(config.counts, schema["count_sizes"], strict=True))
        )
        attributes: dict[str, Attribute] = {}
        for stored, values in arrays.items():  # in the order they had, so that what is written again is the same
            group, _, name = stored.partition("/")
            if group == "attribute_numbers":
                attributes[name] = values
            elif group == "attribute_codes":
                attributes[name] = TextColumn(self.texts[f"attributes/{name}"], values, arrays[f"attribute_ptr/{name}"])
        vocabularies = {group: self._texts(group) for group in ("vocabularies", "keys")}
        return Dataset(
            config=config,
            encoders=Encoders.from_state({**self.encoders, **vocabularies}),
            user_ids=self.texts["ids/users"],
            item_ids=self.texts["ids/items"],
            titles=self.texts.get("titles", self.texts["ids/items"]),
            num_catalogue=schema["num_catalogue"],
            events=EventLog(**{field.name: arrays.get(f"events/{field.name}") for field in fields(EventLog)}),  # type: ignore[arg-type]
            users=tables["users"],
            items=tables["items"],
            row_query=tables["row_query"],
            row_item=tables["row_item"],
            sides=sides_of(schema),
            key_codes=self._arrays("key_codes"),
            counts=counts,
            event_codes=self._arrays("event_codes"),
            sequences={
                spec.name: History(**{f.name: arrays[f"sequences/{spec.name}/{f.name}"] for f in fields(History)})
                for spec in config.features
                if spec.kind == "sequence"
            },
            sequence_ends=self._arrays("sequence_ends"),
            fingerprint=schema["fingerprint"],
            notes=tuple(schema["notes"]),
            attributes=attributes,
            id_types=schema["id_types"],
            derived=tuple(
                Derived(spec, tuple(arrays[f"derived/{place}/{i}"] for i in range(len(spec.sources))))
                for place, spec in enumerate(config.derived)
            ),
        )

    def _table(self, name: str, narrow: tuple[bool, ...]) -> Packed:
        return Packed.from_arrays(narrow, self._arrays(name))

    def _arrays(self, group: str) -> Arrays:
        return _group(group, self.arrays)

    def _texts(self, group: str) -> dict[str, Texts]:
        return _group(group, self.texts)


def _group(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): one for name, one in named.items() if name.startswith(f"{prefix}/")}


def _fields_arrays(prefix: str, value: EventLog | History | Sums) -> Arrays:
    named = {f.name: getattr(value, f.name) for f in fields(value)}
    return {f"{prefix}/{name}": array for name, array in named.items() if array is not None}


def table_arrays(prefix: str, table: Packed) -> Arrays:
    """Arrays of a table by name."""
    return {f"{prefix}/{name}": array for name, array in table.arrays().items()}


def _layout_state(layout: SideLayout) -> dict[str, Any]:
    return {name: list(getattr(layout, name)) for name in ("categorical", "numeric", "bags", "vectors")}


def sides_of(schema: Mapping[str, Any]) -> dict[str, SideLayout]:
    """Layout of every side."""
    return {side: _layout(state) for side, state in schema["sides"].items()}


def _layout(state: dict[str, Any]) -> SideLayout:
    return SideLayout(
        tuple(state["categorical"]),
        tuple(state["numeric"]),
        tuple(state["bags"]),
        vectors=tuple((name, int(width)) for name, width in state["vectors"]),
    )
