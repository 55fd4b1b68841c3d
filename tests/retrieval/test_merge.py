"""Merged lists: every promise of `merge` and `fill_up` on random lists, and the orders against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.arrays import I64
from recsys.retrieval.merge import check_proposers, fill_up, merge, places
from recsys.tests.support.nonempty import nonempty

N = 9

Lists = list[I64]


@st.composite
def asked(draw: st.DrawFn) -> tuple[Lists, list[int]]:
    """Lists of 1 to 4 retrievers for 1 to 3 requests, some short or empty, and quotas."""
    batch, sources, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, N))
    lists = []
    for _ in range(sources):
        rows = np.full((batch, width), -1, dtype=np.int64)
        for request in range(batch):
            named = draw(st.permutations(range(N)))[: draw(st.integers(0, width))]
            rows[request, : len(named)] = named
        lists.append(rows)
    return lists, draw(st.lists(st.integers(1, 5), min_size=sources, max_size=sources))


def listed(rows: I64) -> list[list[int]]:
    return [[item for item in row if item >= 0] for row in rows.tolist()]


@settings(max_examples=150, deadline=None)
@given(asked(), st.integers(1, 2 * N), st.booleans())
def test_nothing_twice_nothing_lost_and_every_item_says_where_it_stood(
    question: tuple[Lists, list[int]], k: int, by_quota: bool
) -> None:
    lists, quotas = question
    merged = merge(lists, k, N, quotas if by_quota else None)
    assert merged.rows.shape == (len(lists[0]), k)
    assert merged.ranks.shape == (len(lists[0]), k, len(lists))
    for request, found in enumerate(listed(merged.rows)):
        own = [listed(rows)[request] for rows in lists]
        union = set().union(*own)
        assert len(set(found)) == len(found) == min(k, len(union))
        assert set(found) <= union
        assert merged.rows[request, : len(found)].tolist() == found  # pads come last
        for place, item in enumerate(found):
            assert merged.ranks[request, place].tolist() == [one.index(item) + 1 if item in one else 0 for one in own]
        assert not merged.ranks[request, len(found) :].any()


@settings(max_examples=150, deadline=None)
@given(asked(), st.integers(0, N))
def test_every_quota_is_kept(question: tuple[Lists, list[int]], spare: int) -> None:
    lists, quotas = question
    merged = merge(lists, sum(quotas) + spare, N, quotas)
    for request, found in nonempty(enumerate(listed(merged.rows))):
        for rows, quota in nonempty(zip(lists, quotas, strict=True)):
            assert set(listed(rows)[request][:quota]) <= set(found)


@settings(max_examples=150, deadline=None)
@given(asked(), st.booleans())
def test_the_order_is_that_of_the_turns_or_of_the_summed_reciprocal_ranks(
    question: tuple[Lists, list[int]], by_quota: bool
) -> None:
    lists, quotas = question
    if len(lists) == 1:
        by_quota = True
    merged = merge(lists, N, N, quotas if by_quota else None)
    for request, found in nonempty(enumerate(listed(merged.rows))):
        key: dict[int, Any] = {}
        for source, rows in enumerate(lists):
            for place, item in enumerate(listed(rows)[request], start=1):
                if by_quota:
                    key[item] = min(key.get(item, (Fraction(99), 0)), (Fraction(place, quotas[source]), source))
                else:
                    key[item] = key.get(item, Fraction(0)) - Fraction(1, 60 + place)
        assert found == sorted(key, key=lambda item, key=key: (key[item], item))  # type: ignore[misc]


@settings(max_examples=60, deadline=None)
@given(asked(), st.integers(1, N), st.booleans())
def test_a_request_alone_and_a_shorter_result_are_the_same_list(
    question: tuple[Lists, list[int]], k: int, by_quota: bool
) -> None:
    lists, quotas = question
    turns = quotas if by_quota else None
    whole = merge(lists, N, N, turns)
    again, short = merge(lists, N, N, turns), merge(lists, k, N, turns)
    assert np.array_equal(whole.rows, again.rows)
    assert np.array_equal(whole.rows[:, :k], short.rows)
    assert np.array_equal(whole.ranks[:, :k], short.ranks)
    for request in range(len(whole.rows)):
        alone = merge([rows[request : request + 1] for rows in lists], N, N, turns)
        assert np.array_equal(alone.rows[0], whole.rows[request])


@settings(max_examples=100, deadline=None)
@given(asked(), st.integers(1, N), st.data())
def test_filling_up_keeps_what_is_there_and_leaves_no_place_free(
    question: tuple[Lists, list[int]], k: int, data: st.DataObject
) -> None:
    lists, quotas = question
    merged = merge(lists, k, N, quotas)
    whole = np.array([data.draw(st.permutations(range(N))) for _ in merged.rows], dtype=np.int64)
    source = data.draw(st.integers(0, len(lists) - 1))
    filled = fill_up(merged, whole, source)
    assert (filled.rows >= 0).all()  # k <= N
    for before, after, rest, ranks in zip(listed(merged.rows), filled.rows, whole, filled.ranks, strict=True):
        assert after[: len(before)].tolist() == before
        added = after[len(before) :].tolist()
        assert added == [item for item in rest.tolist() if item not in before][: len(added)]
        for place, item in enumerate(added, start=len(before)):
            assert ranks[place, source] == rest.tolist().index(item) + 1
            assert np.count_nonzero(ranks[place]) == 1


def test_overlaps_free_places_that_are_filled_in_the_same_proportions() -> None:
    one, other = np.arange(30)[None, :], np.r_[0:5, 30:55][None, :]  # the second names the first five too
    merged = merge([one, other], 20, 60, [10, 10])
    assert sorted(merged.rows[0].tolist()) == [*range(13), *range(30, 37)]
    assert places(np.array([[7, 3, -1]])).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("proposers", "quotas", "wrong"),
    [
        ((), None, "proposers are none; name one"),
        (("a", "b", "a"), None, "proposers name a twice; name each once"),
        (("a",), {"a": 3, "b": 1}, "quotas name b, which proposes nothing; proposers are a"),
        (("a", "b"), {"a": 3}, "b proposes without a place"),
        (("a", "b"), {"a": 3, "b": 0}, "b proposes without a place"),
        (("a", "b"), {"a": 6, "b": 5}, "quotas add up to 11 places of num_candidates = 10; lower a quota"),
    ],
)
def test_impossible_proposers_are_told(proposers: tuple[str, ...], quotas: dict[str, int] | None, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        check_proposers(proposers, quotas, 10)
    check_proposers(("a", "b"), {"a": 6, "b": 4}, 10)
