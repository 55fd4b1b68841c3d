from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.arrays import F32
from recsys.base.errors import ConfigError, RunError
from recsys.retrieval.index import Bitmap, Candidates, ExactIndex, FaissIndex, ShardedIndex, load_index
from recsys.retrieval.index.sharded import shard_of
from recsys.retrieval.index.tuning import build_index

SHARDS = (1, 2, 5)


def split(vectors: F32, shards: int) -> ShardedIndex:
    part = shard_of(np.arange(len(vectors)), shards)
    return ShardedIndex([ExactIndex(vectors[part == number]) for number in range(shards)])


def few_values(rng: np.random.Generator, rows: int) -> F32:
    """Vectors of even numbers: many scores are equal, none depends on the order of a sum, and no length is 1."""
    return 2 * rng.integers(-2, 3, (rows, 4)).astype(np.float32)


def assert_same(one: Candidates, other: Candidates) -> None:
    assert one.rows.tolist() == other.rows.tolist()
    assert one.scores.tolist() == other.scores.tolist()


@pytest.mark.parametrize("shards", SHARDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_parts_answer_as_the_whole_whatever_is_asked_and_written(shards: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors = few_values(rng, data.draw(st.integers(1, 60)))  # of five parts some are empty
    whole, parts = ExactIndex(vectors), split(vectors, shards)
    for _ in range(data.draw(st.integers(0, 3))):
        gone = rng.choice(whole.num_rows, rng.integers(0, whole.num_rows // 2 + 1), replace=False)
        again = rng.choice(whole.num_rows, rng.integers(0, 3) % whole.num_rows, replace=False)
        added = np.arange(whole.num_rows, whole.num_rows + rng.integers(0, 4))
        rows = rng.permutation(np.concatenate([again, added]))
        written = few_values(rng, len(rows))
        for index in (whole, parts):
            index.delete(gone)
            index.upsert(rows, written)
            index.compact()
    assert (parts.size, parts.num_rows, parts.dim) == (whole.size, whole.num_rows, whole.dim)
    if not whole.size:
        return
    k, queries = int(rng.integers(1, whole.size + 1)), few_values(rng, 3)
    allowed = Bitmap.from_mask(rng.random(whole.num_rows) < rng.choice([0.0, 0.1, 0.6, 1.0]))
    excluded = [rng.integers(-1, whole.num_rows + 3, rng.integers(0, 20)) for _ in queries]
    for filters in ((None, None), (allowed, None), (None, excluded), (allowed, excluded)):
        assert_same(parts.search(queries, k, *filters), whole.search(queries, k, *filters))


@pytest.mark.parametrize("shards", SHARDS)
def test_an_index_in_parts_is_built_checked_kept_and_read(shards: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((900, 8)).astype(np.float32), rng.standard_normal((40, 8))
    index, report = build_index(vectors, queries, "IVF4,Flat", target_recall=0.9, k=10, shards=shards)
    assert report.ann_recall >= 0.9
    assert report.size == index.size == 900
    if shards == 1:
        assert isinstance(index, FaissIndex)
        return
    assert report.factory == f"{shards} x IVF4,Flat"
    for gone in (np.arange(5), [7]):
        index.delete(gone)
        index.upsert([index.num_rows, 2], rng.standard_normal((2, 8)))
        index.save(tmp_path)
        read = load_index(tmp_path)
        assert isinstance(read, ShardedIndex)
        assert_same(read.search(queries, 20), index.search(queries, 20))
    assert len(list(tmp_path.iterdir())) <= 1 + 2 * shards  # the sidecar, codes and slots; none of the save before


def test_a_part_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    split(np.random.default_rng(2).standard_normal((50, 4)).astype(np.float32), 2).save(tmp_path)
    spoilt = sorted(tmp_path.glob("vectors-*.npy"))[1]
    spoilt.write_bytes(spoilt.read_bytes()[:-4])
    with pytest.raises(RunError, match=rf"{spoilt.name} has .* it is truncated"):
        load_index(tmp_path)
    spoilt.unlink()
    with pytest.raises(RunError, match=rf"{spoilt.name} cannot be read"):
        load_index(tmp_path)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"parts of \[5, 1\] rows are not the parts of 6 rows"):
        ShardedIndex([ExactIndex(np.eye(5)), ExactIndex(np.eye(5)[:1])])
    with pytest.raises(ConfigError, match=r"2 items in 5 shards leave [34] empty; lower index.shards"):
        build_index(np.eye(4)[:2], np.eye(4), shards=5)


def test_rows_are_spread_evenly_however_the_catalogue_is_sorted() -> None:
    for rows in (np.arange(10_000), np.arange(0, 70_000, 7)):
        counts = np.bincount(shard_of(rows, 5), minlength=5)
        assert counts.max() < 1.1 * counts.min()
