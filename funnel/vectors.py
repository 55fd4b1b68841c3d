"""The towers' vectors and the vocabularies as tables, for whoever searches, clusters or joins them elsewhere.

A user's inner product with an item is what the retriever orders the items by; of a user with several interests, the
highest of their products.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..artifacts.targets import FileTarget, Target, one_of_several
from ..base.arrays import F32
from ..data.dataset import NOW, Dataset
from ..data.encoding.encoders import Encoders
from ..data.ids import TEXT, id_column
from ..data.vocabulary import FIRST
from ..training.progress import track
from .bulk import user_column
from .funnel import Funnel

ITEMS, USERS, VOCABULARIES = "item_vectors", "user_vectors", "vocabularies"
BLOCK = 8192
"""Users embedded and written at once."""
VALUES = 65_536
"""Values of a vocabulary written at once."""


def write_vectors(funnel: Funnel, out: str | Path, database: str = "") -> dict[str, Any]:
    """Write the vectors of all items and of all users as they are now, a table each, whole or not at all.

    `item_vectors` has the columns `item, vector`. `user_vectors` has `user, events, vector`: `events` is the number of
    positive events the vector rests on, 0 where it is made of the user's features alone; with M > 1
    interests a user has M rows, numbered in the column `interest`. Vectors are lists of `width` float32 numbers.

    Args:
        funnel: whose retriever.
        out: a folder, made when missing, for `item_vectors.parquet` and `user_vectors.parquet`; or see
            `one_of_several`.
        database: of `sql:PREFIX`.

    Returns:
        `files`, and the numbers of `items`, `users`, `interests` and the `width`.
    """
    targets = [made(out, name, database) for name in (ITEMS, USERS)]
    data, retriever = funnel.dataset, funnel.retriever
    interests, width = retriever.model.config.interests, retriever.model.width
    vector = pa.list_(pa.float32(), width)
    about = {"run": funnel.trained.config.name, "data": data.fingerprint, "score": "inner product"}
    metadata = {"recsys": json.dumps(about)}
    ids = id_column(data.item_ids[: data.num_catalogue], data.id_types.get("item", TEXT))
    schema = pa.schema([("item", ids.type), ("vector", vector)], metadata)
    targets[0].write(schema, [_table(schema, ids, _lists(retriever.item_vectors))])

    users = user_column(funnel)
    events = retriever.data.ends(NOW) - retriever.data.history.ptr[:-1]
    numbered = [("interest", pa.int64())] if interests > 1 else []
    columns = [("user", users.type), *numbered, ("events", pa.int64()), ("vector", vector)]
    of_users = pa.schema(columns, metadata)

    def blocks() -> Iterator[pa.Table]:
        starts = range(0, data.num_users, BLOCK)
        for start in track(starts, "embedding users", len(starts)):
            rows = np.arange(start, min(start + BLOCK, data.num_users))
            queries = retriever.queries(rows, NOW).reshape(-1, width)
            repeated = pa.array(np.repeat(rows, interests))
            number = [pa.array(np.tile(np.arange(interests), len(rows)))] if interests > 1 else []
            counts = pa.array(events[rows].repeat(interests))
            yield _table(of_users, users.take(repeated), *number, counts, _lists(queries))

    targets[1].write(of_users, blocks())
    return {
        "files": [str(target) for target in targets],
        "items": data.num_catalogue,
        "users": data.num_users,
        "interests": interests,
        "width": width,
    }


def made(out: str | Path, name: str, database: str) -> Target:
    """Where a table goes, its folder made and the place found to be one.

    Raises:
        ConfigError: see `one_of_several` and `Target.check`.
        DataError: the database cannot be reached.
    """
    target = one_of_several(out, name, database)
    if isinstance(target, FileTarget):
        target.place.parent.mkdir(parents=True, exist_ok=True)
    target.check()
    return target


def write_vocabularies(dataset: Dataset, out: str | Path, database: str = "") -> str:
    """Write what every row of every vocabulary stands for: a table `vocabularies` with `feature, row, value`.

    Rows 0 and 1 of every feature pad and are unknown. Buckets of numbers have their lower edge as value, the first one
    none; hashed features have no values.

    Args:
        dataset: encoded data.
        out: see `write_vectors`.
        database: of `sql:PREFIX`.

    Returns:
        The file, folder or table.
    """
    schema = pa.schema([("feature", pa.string()), ("row", pa.int64()), ("value", pa.string())])

    def tables() -> Iterator[pa.Table]:
        for name, values, first in vocabulary_values(dataset.encoders):
            for start in range(0, len(values), VALUES):
                block = pa.array(list(values[start : start + VALUES]), pa.string())
                rows = pa.array(np.arange(first + start, first + start + len(block)))
                yield _table(schema, pa.array([name] * len(block)), rows, block)

    target = made(out, VOCABULARIES, database)
    target.write(schema, tables())
    return str(target)


def vocabulary_values(encoders: Encoders) -> Iterator[tuple[str, Sequence[str], int]]:
    """Feature, its values in the order of their rows, and the row of the first."""
    for name, vocabulary in sorted(encoders.vocabularies.items()):
        yield name, vocabulary.values, FIRST
    for name, numbers in sorted(encoders.numerics.items()):
        yield name, [repr(numbers.mode), "", *(repr(edge) for edge in numbers.edges.tolist())], FIRST


def _lists(vectors: F32) -> pa.Array:
    """Vectors [n, D] as a column of lists of D."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])


def _table(schema: pa.Schema, *columns: pa.Array) -> pa.Table:
    return pa.Table.from_arrays(list(columns), schema=schema)
