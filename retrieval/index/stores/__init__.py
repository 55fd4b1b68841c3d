"""Vector databases as the place of an index."""

from __future__ import annotations

from .base import SECRET, StoreAddress, VectorStore
from .milvus import open_milvus
from .qdrant import open_qdrant

__all__ = ["SECRET", "StoreAddress", "VectorStore", "open_store"]


def open_store(address: StoreAddress) -> VectorStore:
    """Connect to the collection of an address; the key is read from the environment (`SECRET`).

    Raises:
        ConfigError: the client is not installed.
        RunError: nothing answers there.
    """
    return open_qdrant(address) if address.kind == "qdrant" else open_milvus(address)
