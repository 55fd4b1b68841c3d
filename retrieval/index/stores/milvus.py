"""Milvus as a `VectorStore` (extra `stores`)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ....base.arrays import F32, I64
from ....base.errors import ConfigError
from ....base.package import install_hint
from .base import SECRET, StoreAddress


class MilvusStore:
    """One collection of a Milvus.

    Args:
        client: a `pymilvus.MilvusClient`.
        name: of the collection.
    """

    most = 16_384

    def __init__(self, client: Any, name: str) -> None:
        """Nothing is asked yet, but that a collection which is there can be searched."""
        from pymilvus.exceptions import MilvusException

        self.failures: tuple[type[Exception], ...] = (OSError, MilvusException)
        if client.has_collection(name):
            client.load_collection(name)  # one that a process before left is at rest
        self._client, self._name = client, name

    def nearest(self, queries: F32, limit: int) -> tuple[I64, F32]:
        """See `VectorStore.nearest`."""
        rows = np.full((len(queries), limit), -1, dtype=np.int64)
        scores = np.full((len(queries), limit), -np.inf, dtype=np.float32)
        answers = self._client.search(
            self._name,
            data=queries.tolist(),
            limit=limit,
            output_fields=["row"],
            search_params={"metric_type": "IP"},
            consistency_level="Strong",
        )
        for line, found in enumerate(answers):
            rows[line, : len(found)] = [hit["row"] for hit in found]
            scores[line, : len(found)] = [hit["distance"] for hit in found]
        return rows, scores

    def fetch(self, rows: I64) -> F32:
        """See `VectorStore.fetch`."""
        entries = self._client.get(self._name, ids=rows.tolist(), output_fields=["row", "vector"])
        by_row = {entry["row"]: entry["vector"] for entry in entries}
        return np.array([by_row[row] for row in rows.tolist()], dtype=np.float32)

    def put(self, rows: I64, vectors: F32) -> None:
        """See `VectorStore.put`."""
        entries = [{"row": row, "vector": vector} for row, vector in zip(rows.tolist(), vectors.tolist(), strict=True)]
        self._client.upsert(self._name, entries)

    def remove(self, rows: I64) -> None:
        """See `VectorStore.remove`."""
        self._client.delete(self._name, ids=rows.tolist())

    def count(self) -> int:
        """See `VectorStore.count`."""
        found = self._client.query(self._name, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(found[0]["count(*)"])

    def create(self, dim: int, parts: int) -> None:
        """See `VectorStore.create`."""
        from pymilvus import DataType

        if self.exists():
            self._client.drop_collection(self._name)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(
            self._name, schema=schema, index_params=index, num_shards=parts, consistency_level="Strong"
        )

    def exists(self) -> bool:
        """See `VectorStore.exists`."""
        return bool(self._client.has_collection(self._name))

    def publish(self, alias: str) -> None:
        """See `VectorStore.publish`."""
        known = {one for name in self._client.list_collections() for one in self._aliases(name)}
        change = self._client.alter_alias if alias in known else self._client.create_alias
        change(collection_name=self._name, alias=alias)

    def _aliases(self, name: str) -> list[str]:
        return list(self._client.list_aliases(collection_name=name)["aliases"])

    def close(self) -> None:
        """See `VectorStore.close`."""
        self._client.close()


def open_milvus(address: StoreAddress) -> MilvusStore:
    """The collection of an address; see `open_store`."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise ConfigError(f"{address} needs the client of Milvus; run {install_hint('stores')}") from None
    uri = address.place if address.scheme == "file" else f"{address.scheme}://{address.place}"
    try:
        return MilvusStore(MilvusClient(uri, token=os.environ.get(SECRET, "")), address.name)
    except (OSError, MilvusException) as error:
        raise address.unanswered(error) from error
