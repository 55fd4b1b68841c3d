"""A data set on disk: a file for each array and each column of texts, mapped when it is read. No pickle.

`manifest.json` says which file holds what, in which dtype and shape; `schema.json` and `encoders.json` are for people
too. A file that is large is not read but mapped, so that a data set opens at once, whatever its size, and processes on
one machine share its pages; what is small is read, since a mapped file stays open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..base.arrays import AnyArray
from ..base.errors import RunError
from .dataset import Dataset
from .parts import Parts
from .shelf import let_go
from .texts import Texts, map_texts, write_texts

MANIFEST, ENCODERS, SCHEMA = "manifest.json", "encoders.json", "schema.json"
VERSION = 2
"""Of the format; version 1 is read by `store_v1`."""
MAPPED = 1 << 20
"""Bytes from which on a file is mapped."""
Place = Callable[[str], Path]
"""Name of a file of the data set -> where it lies."""


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write the data set's files into an existing folder."""
    save_parts(Parts.of(dataset), folder)


def save_parts(parts: Parts, folder: Path) -> None:
    """Write parts of a data set into an existing folder."""
    arrays: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name, values in parts.arrays.items():
        arrays[name] = {"file": _write_array(values, folder, f"{len(arrays):03d}-{_plain(name)}")}
        arrays[name] |= {"dtype": str(values.dtype), "shape": list(values.shape)}
    for name, column in parts.texts.items():
        stem = f"{len(arrays) + len(texts):03d}-{_plain(name)}"
        write_texts(column, folder / f"{stem}.arrow")
        order = _write_array(column.order, folder, f"{stem}.order")
        texts[name] = {"file": f"{stem}.arrow", "order": order, "rows": len(column)}
    columns = {
        "events": parts.arrays.get("events/times"),
        **{n: parts.texts.get(f"ids/{n}") for n in ("users", "items")},
    }
    counted = {name: len(column) for name, column in columns.items() if column is not None}
    _write(folder / MANIFEST, {"version": VERSION, "rows": counted, "arrays": arrays, "texts": texts}, indent=1)
    _write(folder / ENCODERS, parts.encoders)
    _write(folder / SCHEMA, parts.schema)


def load_dataset(place: Place) -> Dataset:
    """The data set that `save_dataset` wrote; see `load_parts`."""
    return load_parts(place).dataset()


def load_parts(place: Place) -> Parts:
    """What `save_parts` wrote.

    Args:
        place: where each of its files lies now.

    Raises:
        RunError: the manifest is of another version, or a file holds something else than it says.
    """
    manifest = read_json(place(MANIFEST))
    if manifest["version"] != VERSION:
        raise RunError(
            f"{place(MANIFEST)} has version {manifest['version']}, this recsys reads {VERSION}; train the run again"
        )
    arrays = {name: _read_array(place(entry["file"]), entry) for name, entry in manifest["arrays"].items()}
    texts = {name: _read_texts(place, entry) for name, entry in manifest["texts"].items()}
    return Parts(arrays, texts, read_json(place(ENCODERS)), read_json(place(SCHEMA)))


def read_json(file: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, value: Any, indent: int | None = None) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=indent), encoding="utf-8")


def _write_array(values: AnyArray, folder: Path, stem: str) -> str:
    np.save(folder / f"{stem}.npy", np.ascontiguousarray(values), allow_pickle=False)
    let_go(values)  # a data set that was built in files is written one array at a time
    return f"{stem}.npy"


def _read_array(file: Path, entry: dict[str, Any]) -> AnyArray:
    values = np.load(file, mmap_mode="r" if file.stat().st_size >= MAPPED else None, allow_pickle=False)
    found = {"dtype": str(values.dtype), "shape": list(values.shape)}
    if any(found[key] != entry[key] for key in found):
        raise RunError(
            f"{file} holds {found['dtype']} {found['shape']}, the manifest says {entry['dtype']} {entry['shape']}; "
            "restore it, or train the run again"
        )
    return np.asarray(values)


def _read_texts(place: Place, entry: dict[str, Any]) -> Texts:
    file = place(entry["file"])
    order = np.load(place(entry["order"]), mmap_mode="r" if entry["rows"] * 4 >= MAPPED else None, allow_pickle=False)
    return map_texts(file, np.asarray(order), mapped=file.stat().st_size >= MAPPED)


def _plain(name: str) -> str:
    """A name as part of a file's: names of features may hold anything."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)[:60].strip("-")
