"""Values by the hash of their text: the same row everywhere, rare ones unknown, collisions counted."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.hashing import HashedVocabulary, text_hashes
from recsys.data.vocabulary import FIRST, UNKNOWN

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=60)


def fit(values: list[str | None], buckets: int, min_count: int = 1) -> HashedVocabulary:
    column = pa.array(values, pa.string())
    return HashedVocabulary.fit(column, np.ones(len(values), dtype=np.int64), buckets, min_count)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 40), st.integers(1, 3))
def test_rows_and_collisions_are_those_of_a_plain_count(values: list[str | None], buckets: int, min_count: int) -> None:
    found = fit(values, buckets, min_count)
    assert len(found) == buckets + FIRST
    counts = Counter(value for value in values if value)
    kept = {value: n for value, n in counts.items() if n >= min_count}
    rows = dict(zip(counts, found.rows(pa.array(list(counts), pa.string())).tolist(), strict=True))
    assert all((rows[value] == UNKNOWN) == (value not in kept) for value in counts)
    assert all(FIRST <= rows[value] < len(found) for value in kept)
    in_row = Counter(rows[value] for value in kept)
    crowd = [value for value in kept if in_row[rows[value]] > 1]
    report = found.collisions
    assert (report.values, report.rare, report.used) == (len(kept), len(counts) - len(kept), len(in_row))
    assert report.sharing == len(crowd)
    assert report.rows_sharing == pytest.approx(sum(kept[v] for v in crowd) / max(1, sum(counts.values())))
    back = HashedVocabulary.from_state(json.loads(json.dumps(found.state())))
    asked = pa.array([*values, "never seen"], pa.string())
    assert np.array_equal(back.rows(asked), found.rows(asked))
    assert found.rows(pa.array([None, ""], pa.string())).tolist() == [UNKNOWN, UNKNOWN]


def test_the_hash_is_that_of_every_day_and_machine() -> None:
    """Rows of kept runs rest on these numbers."""
    assert text_hashes(pa.array(["item-1", "42", "ü"])).tolist() == HASHES
    assert len(text_hashes(pa.array([], pa.string()))) == 0


HASHES = [17411121567957968829, 12441728511894777052, 6689755093696353227]


def test_without_a_filter_a_new_value_has_a_row_and_with_one_it_has_none() -> None:
    values: list[str | None] = ["a", "a", "b"]
    new = pa.array(["never seen"])
    assert fit(values, 1000).rows(new)[0] >= FIRST
    assert fit(values, 1000, min_count=2).rows(new)[0] == UNKNOWN


def test_what_was_kept_stays_when_rows_are_added() -> None:
    first = fit(["a", "a", "b"], 50, 2)
    column = pa.array(["c", "c", "a", "b"])
    second = HashedVocabulary.fit(column, np.ones(4, dtype=np.int64), 50, 2, first)
    asked = pa.array(["a", "b", "c"])
    assert second.rows(asked)[0] == first.rows(asked)[0] >= FIRST
    assert [row >= FIRST for row in second.rows(asked)] == [True, False, True]
