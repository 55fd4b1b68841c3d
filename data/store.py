"""A data set on disk: arrays in one safetensors file, everything a person may want to read as JSON. No pickle."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.arrays import AnyArray
from .batch import Block, SideLayout
from .dataset import Dataset
from .encoding.attributes import Attribute, TextColumn
from .encoding.counts import CountTable
from .encoding.derived import Derived
from .encoding.encoders import Encoders
from .history import History
from .log import EventLog
from .packed import SIDES, pack
from .schema import DataConfig

ARRAYS, ENCODERS, IDS, SCHEMA = "arrays.safetensors", "encoders.json", "ids.json", "schema.json"
Arrays = dict[str, AnyArray]


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write the data set's files into an existing folder."""
    from safetensors.numpy import save_file

    arrays: Arrays = {}
    for name in SIDES:
        arrays |= _block_arrays(name, getattr(dataset, name).whole())
    arrays |= _fields_arrays("events", dataset.events)
    for name, history in dataset.sequences.items():
        arrays |= _fields_arrays(f"sequences/{name}", history)
        arrays[f"sequence_ends/{name}"] = dataset.sequence_ends[name]
    for group in ("key_codes", "event_codes"):
        arrays |= {f"{group}/{name}": values for name, values in getattr(dataset, group).items()}
    for place, table in enumerate(dataset.counts):
        arrays |= {f"counts/{place}/{n}": getattr(table, n) for n in ("keys", "seen", "rows", "positives", "prior")}
    for place, one in enumerate(dataset.derived):
        arrays |= {f"derived/{place}/{i}": values for i, values in enumerate(one.inputs)}
    texts: dict[str, tuple[str, ...]] = {}
    for name, attribute in dataset.attributes.items():
        if isinstance(attribute, TextColumn):
            arrays |= {f"attribute_codes/{name}": attribute.codes, f"attribute_ptr/{name}": attribute.ptr}
            texts[name] = attribute.values
        else:
            arrays[f"attribute_numbers/{name}"] = attribute
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / ARRAYS)
    _write(folder / ENCODERS, dataset.encoders.state())
    ids = {"users": dataset.user_ids, "items": dataset.item_ids, "titles": dataset.titles}
    _write(folder / IDS, {**ids, "texts": texts, "types": dict(dataset.id_types)})
    _write(
        folder / SCHEMA,
        {
            "data": dataset.config.model_dump(mode="json"),
            "num_catalogue": dataset.num_catalogue,
            "sides": {side: _layout_state(layout) for side, layout in dataset.sides.items()},
            "bags": {n: len(getattr(dataset, n).bags) for n in SIDES},
            "vectors": {n: len(getattr(dataset, n).vectors) for n in SIDES},
            "count_sizes": [list(table.sizes) for table in dataset.counts],
            "fingerprint": dataset.fingerprint,
            "notes": dataset.notes,
        },
    )


def load_dataset_files(arrays_file: Path, encoders_file: Path, ids_file: Path, schema_file: Path) -> Dataset:
    """The data set that `save_dataset` wrote; the files may carry other names."""
    from safetensors.numpy import load_file

    arrays = load_file(arrays_file)
    schema, ids = _read(schema_file), _read(ids_file)
    config = DataConfig.model_validate(schema["data"])
    blocks = {name: _block(name, arrays, schema["bags"][name], schema["vectors"][name]) for name in SIDES}
    sides = {side: _layout(state) for side, state in schema["sides"].items()}
    encoders = Encoders.from_state(_read(encoders_file))
    tables = pack(blocks, sides, encoders.sizes())
    events: dict[str, Any] = {f.name: arrays.get(f"events/{f.name}") for f in fields(EventLog)}
    counts = tuple(
        CountTable(
            spec=spec,
            sizes=tuple(sizes),
            **{name: arrays[f"counts/{place}/{name}"] for name in ("keys", "seen", "rows", "positives", "prior")},
        )
        for place, (spec, sizes) in enumerate(zip(config.counts, schema["count_sizes"], strict=True))
    )
    sequences = [spec.name for spec in config.features if spec.kind == "sequence"]
    attributes: dict[str, Attribute] = dict(_group("attribute_numbers", arrays))
    for name, texts in ids.get("texts", {}).items():
        codes, ptr = arrays[f"attribute_codes/{name}"], arrays[f"attribute_ptr/{name}"]
        attributes[name] = TextColumn(tuple(texts), codes, ptr)
    return Dataset(
        config=config,
        encoders=encoders,
        user_ids=tuple(ids["users"]),
        item_ids=tuple(ids["items"]),
        titles=tuple(ids["titles"]),
        num_catalogue=schema["num_catalogue"],
        events=EventLog(**events),
        users=tables["users"],
        items=tables["items"],
        row_query=tables["row_query"],
        row_item=tables["row_item"],
        sides=sides,
        key_codes=_group("key_codes", arrays),
        counts=counts,
        event_codes=_group("event_codes", arrays),
        sequences={
            name: History(**{f.name: arrays[f"sequences/{name}/{f.name}"] for f in fields(History)})
            for name in sequences
        },
        sequence_ends=_group("sequence_ends", arrays),
        fingerprint=schema["fingerprint"],
        notes=tuple(schema["notes"]),
        attributes=attributes,
        id_types=ids.get("types", {}),
        derived=tuple(
            Derived(spec, tuple(arrays[f"derived/{place}/{i}"] for i in range(len(spec.sources))))
            for place, spec in enumerate(config.derived)
        ),
    )


def _fields_arrays(prefix: str, value: EventLog | History) -> Arrays:
    named = {f.name: getattr(value, f.name) for f in fields(value)}
    return {f"{prefix}/{name}": array for name, array in named.items() if array is not None}


def _block_arrays(prefix: str, block: Block) -> Arrays:
    arrays = {f"{prefix}/categorical": block.categorical.to(torch.int32), f"{prefix}/numeric": block.numeric}
    arrays |= {f"{prefix}/bags/{i}": bag.to(torch.int32) for i, bag in enumerate(block.bags)}
    arrays |= {f"{prefix}/vectors/{i}": vector for i, vector in enumerate(block.vectors)}
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def _block(prefix: str, arrays: Arrays, bags: int, vectors: int) -> Block:
    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{prefix}/{name}"])

    return Block(
        tensor("categorical").long(),
        tensor("numeric"),
        tuple(tensor(f"bags/{i}").long() for i in range(bags)),
        (),
        tuple(tensor(f"vectors/{i}") for i in range(vectors)),
    )


def _group(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(f"{prefix}/"): values for n, values in arrays.items() if n.startswith(f"{prefix}/")}


def _layout_state(layout: SideLayout) -> dict[str, Any]:
    return {name: list(getattr(layout, name)) for name in ("categorical", "numeric", "bags", "vectors")}


def _layout(state: dict[str, Any]) -> SideLayout:
    return SideLayout(
        tuple(state["categorical"]),
        tuple(state["numeric"]),
        tuple(state["bags"]),
        vectors=tuple((name, int(width)) for name, width in state["vectors"]),
    )


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
