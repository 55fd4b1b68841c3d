"""Reading a data set of format version 1: arrays in one safetensors file, ids and vocabularies as JSON.

Runs that were written before version 2 of the format are read for one version more.
"""

from __future__ import annotations

import torch

from .batch import Block
from .dataset import Dataset
from .encoding.encoders import Encoders
from .packed import SIDES, Packed
from .parts import Parts, sides_of, table_arrays
from .store import ENCODERS, SCHEMA, Place, read_json
from .texts import Texts

ARRAYS, IDS = "arrays.safetensors", "ids.json"


def load_dataset(place: Place) -> Dataset:
    """The data set in files of version 1.

    Args:
        place: where each of its files lies now.
    """
    from safetensors.numpy import load_file

    arrays = load_file(place(ARRAYS))
    ids, state, schema = read_json(place(IDS)), read_json(place(ENCODERS)), read_json(place(SCHEMA))
    sides, sizes = sides_of(schema), Encoders.from_state(state).sizes()
    narrow = {}
    for name, of in SIDES.items():
        block = Block(
            torch.from_numpy(arrays.pop(f"{name}/categorical")).long(),
            torch.from_numpy(arrays.pop(f"{name}/numeric")),
            tuple(torch.from_numpy(arrays.pop(f"{name}/bags/{i}")) for i in range(schema["bags"][name])),
            (),
            tuple(torch.from_numpy(arrays.pop(f"{name}/vectors/{i}")) for i in range(schema["vectors"][name])),
        )
        columns = [column for side in of if side in sides for column in sides[side].categorical]
        table = Packed.of(block, [sizes[column] for column in columns])
        arrays |= table_arrays(name, table)
        narrow[name] = table.narrow
    texts = {f"ids/{name}": Texts(ids[name]) for name in ("users", "items")} | {"titles": Texts(ids["titles"])}
    texts |= {f"attributes/{name}": Texts(values) for name, values in ids.get("texts", {}).items()}
    for group in ("vocabularies", "keys"):
        texts |= {f"{group}/{name}": Texts(values) for name, values in state.pop(group, {}).items()}
    return Parts(arrays, texts, state, {**schema, "narrow": narrow, "id_types": ids.get("types", {})}).dataset()
