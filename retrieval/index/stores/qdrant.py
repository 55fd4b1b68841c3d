"""Qdrant as a `VectorStore` (extra `stores`)."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from ....base.arrays import F32, I64
from ....base.errors import ConfigError
from ....base.package import install_hint
from .base import SECRET, StoreAddress


class QdrantStore:
    """One collection of a Qdrant.

    Args:
        client: a `qdrant_client.QdrantClient`.
        name: of the collection.
    """

    most = 10_000

    def __init__(self, client: Any, name: str) -> None:
        """Nothing is asked yet."""
        from qdrant_client import models
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        self.failures: tuple[type[Exception], ...] = (OSError, ResponseHandlingException, UnexpectedResponse)
        self._client, self._name, self._models = client, name, models

    def nearest(self, queries: F32, limit: int) -> tuple[I64, F32]:
        """See `VectorStore.nearest`."""
        asked = [self._models.QueryRequest(query=query.tolist(), limit=limit) for query in queries]
        rows = np.full((len(queries), limit), -1, dtype=np.int64)
        scores = np.full((len(queries), limit), -np.inf, dtype=np.float32)
        for line, answer in enumerate(self._client.query_batch_points(self._name, requests=asked)):
            found = answer.points
            rows[line, : len(found)] = [point.id for point in found]
            scores[line, : len(found)] = [point.score for point in found]
        return rows, scores

    def fetch(self, rows: I64) -> F32:
        """See `VectorStore.fetch`."""
        points = self._client.retrieve(self._name, ids=rows.tolist(), with_payload=False, with_vectors=True)
        by_row = {point.id: point.vector for point in points}
        return np.array([by_row[row] for row in rows.tolist()], dtype=np.float32)

    def put(self, rows: I64, vectors: F32) -> None:
        """See `VectorStore.put`."""
        batch = self._models.Batch(ids=rows.tolist(), vectors=vectors.tolist())
        self._client.upsert(self._name, points=batch, wait=True)

    def remove(self, rows: I64) -> None:
        """See `VectorStore.remove`."""
        gone = self._models.PointIdsList(points=rows.tolist())
        self._client.delete(self._name, points_selector=gone, wait=True)

    def count(self) -> int:
        """See `VectorStore.count`."""
        return int(self._client.count(self._name, exact=True).count)

    def create(self, dim: int, parts: int) -> None:
        """See `VectorStore.create`."""
        if self.exists():
            self._client.delete_collection(self._name)
        params = self._models.VectorParams(size=dim, distance=self._models.Distance.DOT)
        self._client.create_collection(self._name, vectors_config=params, shard_number=parts)

    def exists(self) -> bool:
        """See `VectorStore.exists`."""
        return bool(self._client.collection_exists(self._name))

    def publish(self, alias: str) -> None:
        """See `VectorStore.publish`: both steps are one operation of the server."""
        models = self._models
        former = [one.alias_name for one in self._client.get_aliases().aliases if one.alias_name == alias]
        steps: list[Any] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)) for name in former
        ]
        made = models.CreateAlias(collection_name=self._name, alias_name=alias)
        steps.append(models.CreateAliasOperation(create_alias=made))
        self._client.update_collection_aliases(change_aliases_operations=steps)

    def close(self) -> None:
        """See `VectorStore.close`."""
        self._client.close()


def open_qdrant(address: StoreAddress) -> QdrantStore:
    """The collection of an address; see `open_store`."""
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise ConfigError(f"{address} needs the client of Qdrant; run {install_hint('stores')}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key over plain http, which a machine of one's own may well use
        if address.scheme == "file":
            try:
                client = QdrantClient(path=address.place)
            except (OSError, RuntimeError) as error:  # another process has it
                raise address.unanswered(error) from error
        else:
            client = QdrantClient(
                url=f"{address.scheme}://{address.place}",
                api_key=os.environ.get(SECRET) or None,
                check_compatibility=False,
            )
    store = QdrantStore(client, address.name)
    try:
        store.exists()
    except store.failures as error:
        raise address.unanswered(error) from error
    return store
