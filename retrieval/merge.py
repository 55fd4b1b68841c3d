"""Several retrievers' lists become one, by reciprocal rank or by quota; who named an item, and where, stays with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..base.arrays import I32, I64

RECIPROCAL_OFFSET = 60.0
"""Constant of reciprocal rank fusion (Cormack et al., SIGIR 2009): 1 / (60 + rank)."""
RESOLUTION = 2.0**40
"""Gains of reciprocal rank are counted in whole parts of 1 / RESOLUTION."""
NEVER = np.iinfo(np.int64).max


class Merged(NamedTuple):
    """The lists of B requests, merged."""

    rows: I64
    """int64 [B, k] item rows, none twice, best first; -1 pads."""
    ranks: I32
    """int32 [B, k, S] place of the item in each of the S lists, 1 the best; 0 where a list does not name it."""


def merge(lists: Sequence[I64], k: int, num_items: int, quotas: Sequence[int] | None = None) -> Merged:
    """Merge the lists that S retrievers gave to the same requests.

    Without quotas by reciprocal rank: an item counts the sum of 1 / (60 + rank) over the lists that name it. With
    quotas in turns: the item at rank r of a list of quota q has its turn at r / q, and an item that several lists name
    has the earliest. So a list's first q items are among the result wherever the quotas add up to k or less, and places
    that are left, because lists overlap or end early, go on in the same turns. Equal items stand in the order of the
    lists (quotas) or of their rows (reciprocal rank): the result depends on nothing but the lists.

    Args:
        lists: S times int64 [B, n] item rows, best first, none twice in a row; -1 pads.
        k: length of the result.
        num_items: N; every row is below it.
        quotas: one per list, 1 or more; None merges by reciprocal rank.
    """
    if len(lists) == 1:
        rows = _padded(lists[0], k)
        return Merged(rows, places(rows)[:, :, None])
    found = np.concatenate(lists, axis=1)  # [B, M]: all that was named, list by list
    width, slots = lists[0].shape[1], found.shape[1]
    # Sorted by item, then slot, what several lists name stands side by side: a run of at most S entries.
    packed = np.sort(np.where(found >= 0, found, num_items) * slots + np.arange(slots), axis=1)
    item = packed // slots
    slot = packed - item * slots
    turn = _turns(len(lists), width, quotas)[slot]
    total = _over_runs(item, turn, len(lists), add=quotas is None)
    begins = item < num_items
    begins[:, 1:] &= item[:, 1:] != item[:, :-1]
    order = np.sort(np.where(begins, total * slots + np.arange(slots), NEVER), axis=1)[:, :k]
    chosen = order < NEVER
    at = np.where(chosen, order % slots, 0)
    batch = np.arange(len(found))[:, None]
    rows = np.where(chosen, item[batch, at], -1)
    ranks = np.zeros((*rows.shape, len(lists)), dtype=np.int32)
    for step in range(len(lists)):
        place = np.minimum(at + step, slots - 1)
        same = chosen & (at + step < slots) & (item[batch, place] == rows)
        request, column = np.nonzero(same)
        named = slot[request, place[request, column]]
        ranks[request, column, named // width] = named % width + 1
    return Merged(_padded(rows, k), np.pad(ranks, ((0, 0), (0, k - rows.shape[1]), (0, 0))))


def _turns(sources: int, width: int, quotas: Sequence[int] | None) -> I64:
    """What each slot (list by list, rank by rank) says of the order, int64 [S * n]; small comes first.

    Whole numbers, so that sums are exact and equal things are equal. By reciprocal rank they are the gains, negative;
    by quota the place of the slot among all, in the one order that every request shares.
    """
    rank = np.arange(1, width + 1)
    if quotas is None:
        return np.tile(-np.rint(RESOLUTION / (RECIPROCAL_OFFSET + rank)).astype(np.int64), sources)
    turn = rank / np.asarray(quotas, dtype=np.float64)[:, None]
    place = np.empty(sources * width, dtype=np.int64)
    place[np.argsort(turn.ravel(), kind="stable")] = np.arange(sources * width)
    return place


def _over_runs(item: I64, values: I64, longest: int, *, add: bool) -> I64:
    """At the first entry of every run of equal items in a row: the sum, or the least, of the run's values [B, M]."""
    total = values.copy()
    for step in range(1, longest):
        same = item[:, step:] == item[:, :-step]
        if add:
            total[:, :-step] += np.where(same, values[:, step:], 0)
        else:
            total[:, :-step] = np.where(same, np.minimum(total[:, :-step], values[:, step:]), total[:, :-step])
    return total


def check_proposers(proposers: Sequence[str], quotas: Mapping[str, int] | None, num_candidates: int) -> None:
    """Whether each proposer is named once and, where there are quotas, has places enough for all.

    Raises:
        ValueError: what is wrong and its mend, in one sentence.
    """
    twice = next((name for name in proposers if list(proposers).count(name) > 1), "")
    if twice or not proposers:
        raise ValueError(f"proposers name {twice} twice; name each once" if twice else "proposers are none; name one")
    if quotas is None:
        return
    if strange := [name for name in quotas if name not in proposers]:
        raise ValueError(f"quotas name {strange[0]}, which proposes nothing; proposers are {', '.join(proposers)}")
    if without := [name for name in proposers if quotas.get(name, 0) < 1]:
        raise ValueError(f"{without[0]} proposes without a place; give it 1 or more in quotas")
    if sum(quotas.values()) > num_candidates:
        raise ValueError(
            f"quotas add up to {sum(quotas.values())} places of num_candidates = {num_candidates}; lower a quota"
        )


def fill_up(merged: Merged, whole: I64, source: int) -> Merged:
    """Put a list's further items behind merged lists that are shorter than they may be.

    Args:
        merged: lists [B, k].
        whole: int64 [B, n] a list that goes on; -1 pads.
        source: which of the S lists it is.
    """
    k = merged.rows.shape[1]
    have = np.count_nonzero(merged.rows >= 0, axis=1)
    fresh = (whole >= 0) & (have < k)[:, None]
    for one in np.flatnonzero(have < k):
        fresh[one] &= ~np.isin(whole[one], merged.rows[one])
    request, place = np.nonzero(fresh)
    column = have[request] + np.cumsum(fresh, axis=1)[request, place] - 1
    kept = column < k
    request, place, column = request[kept], place[kept], column[kept]
    filled = Merged(merged.rows.copy(), merged.ranks.copy())
    filled.rows[request, column] = whole[request, place]
    filled.ranks[request, column, source] = place + 1
    return filled


def places(rows: I64) -> I32:
    """Rank of every entry of lists [B, n] in its own list, int32 [B, n]; 0 at pads."""
    return np.where(rows >= 0, np.arange(1, rows.shape[1] + 1), 0).astype(np.int32)


def _padded(rows: I64, k: int) -> I64:
    """Lists [B, n] as [B, k]."""
    return (
        rows[:, :k]
        if rows.shape[1] >= k
        else np.pad(rows[:, :k], ((0, 0), (0, max(0, k - rows.shape[1]))), constant_values=-1)
    )
