from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recsys
from recsys.base.arrays import F32, I64
from recsys.base.errors import ConfigError, RunError
from recsys.retrieval.index import Bitmap, Candidates, ExactIndex, StoreIndex, load_index, stored
from recsys.retrieval.index.stores import StoreAddress, VectorStore, open_store
from recsys.retrieval.index.tuning import build_index

DIM = 4


class Careless:
    """A database in a dictionary that overlooks rows, and answers with fewer than were asked for."""

    failures: tuple[type[Exception], ...] = (ConnectionError,)

    def __init__(self, overlooked: int = 0, most: int = 1000) -> None:
        self.rows: dict[int, F32] = {}
        self.overlooked, self.most = overlooked, most
        self.meant: list[str] = []

    def nearest(self, queries: F32, limit: int) -> tuple[I64, F32]:
        assert 1 <= limit <= self.most
        there = np.array([row for row in self.rows if not self.overlooked or row % self.overlooked], dtype=np.int64)
        rows = np.full((len(queries), limit), -1, dtype=np.int64)
        scores = np.full((len(queries), limit), -np.inf, dtype=np.float32)
        if len(there):
            products = queries @ np.array([self.rows[row] for row in there.tolist()]).T
            order = np.argsort(-products, axis=1, kind="stable")[:, :limit]
            rows[:, : order.shape[1]] = there[order]
            scores[:, : order.shape[1]] = np.take_along_axis(products, order, axis=1)
        return rows, scores

    def fetch(self, rows: I64) -> F32:
        return np.array([self.rows[row] for row in rows.tolist()], dtype=np.float32)

    def put(self, rows: I64, vectors: F32) -> None:
        self.rows |= dict(zip(rows.tolist(), vectors, strict=True))

    def remove(self, rows: I64) -> None:
        for row in rows.tolist():
            del self.rows[row]

    def count(self) -> int:
        return len(self.rows)

    def create(self, dim: int, parts: int) -> None:
        self.rows = {}

    def exists(self) -> bool:
        return True

    def publish(self, alias: str) -> None:
        self.meant.append(alias)

    def close(self) -> None:
        """Nothing to give up."""


CLIENTS = {"qdrant": "qdrant_client", "milvus": "pymilvus"}
KINDS = [
    "exact",
    "overlooks",
    "narrow",
    *(
        pytest.param(
            kind, marks=pytest.mark.skipif(not importlib.util.find_spec(client), reason=f"needs the package {client}")
        )
        for kind, client in CLIENTS.items()
    ),
]


def embedded(kind: str, folder: Path) -> StoreAddress:
    """A store of this process: Qdrant's takes a folder, Milvus's a file."""
    return StoreAddress.of(f"{kind}+file://{folder}/{'db' if kind == 'qdrant' else 'milvus.db'}/items")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    kinds = {"exact": Careless(), "overlooks": Careless(3), "narrow": Careless(2, most=7)}
    made: VectorStore = (
        kinds[request.param] if request.param in kinds else open_store(embedded(request.param, tmp_path))
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _small_catalogues_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that leave more than a few items go to the store, as in a large catalogue."""
    monkeypatch.setattr(stored, "exact_limit", lambda size, k: 4)


def few_values(rng: np.random.Generator, rows: int) -> F32:
    """Vectors of even numbers: many scores are equal, none depends on the order of a sum, and no length is 1."""
    return 2 * rng.integers(-2, 3, (rows, DIM)).astype(np.float32)


def filled(store: VectorStore, vectors: F32) -> StoreIndex:
    store.create(DIM, 1)
    store.put(np.arange(len(vectors)), vectors)
    return StoreIndex(store, None, np.ones(len(vectors), dtype=np.bool_), DIM, normalised=False)


def assert_found(found: Candidates, vectors: F32, queries: F32, k: int, allowed: np.ndarray, barred: list[I64]) -> None:
    """k rows of each query as long as there are k, each allowed, none twice, with their scores, in order."""
    for rows, scores, query, gone in zip(found.rows, found.scores, queries, barred, strict=True):
        open_to_it = allowed.copy()
        open_to_it[gone[(gone >= 0) & (gone < len(allowed))]] = False
        kept = rows[rows >= 0]
        assert len(kept) == min(k, open_to_it.sum())
        assert open_to_it[kept].all()
        assert len(np.unique(kept)) == len(kept)
        assert (rows[len(kept) :] == -1).all()
        assert np.isneginf(scores[len(kept) :]).all()
        assert scores[: len(kept)].tolist() == (vectors[kept] @ query).tolist()
        assert list(zip(-scores[: len(kept)], kept, strict=True)) == sorted(
            zip(-scores[: len(kept)], kept, strict=True)
        )


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_contract_holds_whatever_the_store_answers(store: VectorStore, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors = few_values(rng, data.draw(st.integers(8, 60)))
    whole, index = ExactIndex(vectors), filled(store, vectors)
    gone = rng.choice(len(vectors), rng.integers(0, len(vectors) // 2), replace=False)
    rows = np.concatenate([gone[:1], np.arange(len(vectors), len(vectors) + rng.integers(0, 4))]).astype(np.int64)
    written = few_values(rng, len(rows))
    for one in (whole, index):
        one.delete(gone)
        one.upsert(rows, written)
        one.compact()
    assert (index.size, index.num_rows, index.dim) == (whole.size, whole.num_rows, DIM)
    assert store.count() == whole.size
    alive = np.zeros(whole.num_rows, dtype=bool)
    alive[whole.stored_vectors()[0]] = True
    now = np.zeros((whole.num_rows, DIM), dtype=np.float32)
    now[alive] = whole.stored_vectors()[1]
    k, queries = int(rng.integers(1, whole.size + 1)), few_values(rng, 3)
    mask = rng.random(whole.num_rows) < rng.choice([0.0, 0.1, 0.6, 1.0])
    excluded = [rng.integers(-1, whole.num_rows + 3, rng.integers(0, 20)) for _ in queries]
    nothing = [np.empty(0, np.int64)] * len(queries)
    for allowed, lists in ((None, None), (mask, None), (None, excluded), (mask, excluded)):
        bits = None if allowed is None else Bitmap.from_mask(allowed)
        found = index.search(queries, k, bits, lists)
        inside = alive if allowed is None else alive & allowed
        assert_found(found, now, queries, k, inside, lists or nothing)
        if not isinstance(store, Careless) or not store.overlooked:
            assert found.rows.tolist() == whole.search(queries, k, bits, lists).rows.tolist()


@pytest.mark.parametrize("kind", KINDS[3:])
def test_a_collection_is_filled_compared_and_only_then_meant(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((300, 8)).astype(np.float32), rng.standard_normal((20, 8))
    address = embedded(kind, tmp_path / "store")
    (tmp_path / "store").mkdir()
    index, report = build_index(vectors, queries, k=10, store=str(address))
    assert report.ann_recall == 1.0
    assert isinstance(index, StoreIndex)
    assert index.address is not None
    assert index.address.name.startswith("items_")
    index.save(tmp_path / "index")
    index.store.close()
    read = load_index(tmp_path / "index", dim=8)
    assert isinstance(read, StoreIndex)
    assert read.search(queries, 10).rows.tolist() == ExactIndex(vectors).search(queries, 10).rows.tolist()
    read.store.close()
    meant = open_store(address)
    assert meant.count() == 300  # by the name that was asked for
    meant.close()
    again, _ = build_index(vectors + 1, queries, k=10, store=str(address))
    assert isinstance(again, StoreIndex)
    again.store.close()
    meant = open_store(address)
    np.testing.assert_allclose(meant.fetch(np.array([5])), vectors[[5]] + 1, rtol=1e-6)
    meant.close()
    again.store = open_store(again.address or address)
    again.store.remove(np.array([3]))
    again.save(tmp_path / "index")
    again.store.close()
    with pytest.raises(RunError, match="holds 299 items, the run says 300; run `recsys build-index` again"):
        load_index(tmp_path / "index")


def test_a_store_that_finds_too_little_is_never_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    vectors, queries = rng.standard_normal((60, DIM)).astype(np.float32), rng.standard_normal((20, DIM))
    careless = Careless(2)
    monkeypatch.setattr(stored, "open_store", lambda address: careless)
    with pytest.raises(RunError, match=r"finds 0\.\d+ of the exact top 5 .* items means what it meant before"):
        build_index(vectors, queries, k=5, store="qdrant://nowhere:1/items")
    assert careless.meant == []
    careless.overlooked = 0
    build_index(vectors, queries, k=5, store="qdrant://nowhere:1/items")
    assert careless.meant == ["items"]
    monkeypatch.setattr(careless, "fetch", lambda rows: vectors[rows] / 2)
    with pytest.raises(RunError, match="gives back other vectors than were written"):
        build_index(vectors, queries, k=5, store="qdrant://nowhere:1/items")


@pytest.mark.parametrize(
    "text", ["localhost:6333/items", "qdrant://host", "milvus://host:1/bad-name", "faiss://a/b", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a vector store; write qdrant://HOST:6333/NAME"):
        StoreAddress.of(text)


@pytest.mark.parametrize("text", ["qdrant://host:6333/items", "milvus+https://a.b/c_1", "qdrant+file:///some/where/x"])
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(StoreAddress.of(text)) == text


def test_a_store_that_goes_away_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Careless()
    index = filled(store, np.eye(DIM, dtype=np.float32).repeat(5, axis=0))

    def gone(*_: object) -> None:
        raise ConnectionError

    for name in ("nearest", "put", "remove"):
        monkeypatch.setattr(store, name, gone)
    for ask in (
        lambda: index.search(np.eye(DIM), 1),
        lambda: index.delete([1]),
        lambda: index.upsert([1], np.ones((1, DIM))),
    ):
        with pytest.raises(RunError, match=r"the store does not answer \(ConnectionError\); start it, or run"):
            ask()
    assert index.size == 20


def test_a_store_chooses_its_own_kind_of_index() -> None:
    with pytest.raises(ConfigError, match='leave out factory = "Flat", or the store'):
        build_index(np.eye(4), np.eye(4), "Flat", store="qdrant://host:6333/items")


@pytest.mark.parametrize("kind", KINDS[3:])
def test_the_embedded_mode_of_another_process_is_said_in_a_sentence(kind: str, tmp_path: Path) -> None:
    store = open_store(embedded(kind, tmp_path))
    again = "from recsys.retrieval.index.stores import *; import sys; open_store(StoreAddress.of(sys.argv[1]))"
    place = {**os.environ, "PYTHONPATH": str(Path(recsys.__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", again, str(embedded(kind, tmp_path))]
    finished = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
    store.close()
    assert "RunError" in finished.stderr
    assert "the embedded mode is for one process at a time" in finished.stderr


@pytest.mark.skipif(not importlib.util.find_spec("qdrant_client"), reason="needs the package qdrant_client")
def test_a_store_that_does_not_answer_is_said_in_a_sentence() -> None:
    with pytest.raises(RunError, match=r"qdrant://127.0.0.1:9/items does not answer \(\w+\); start the store"):
        open_store(StoreAddress.of("qdrant://127.0.0.1:9/items"))
