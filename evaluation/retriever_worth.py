"""What each of several retrievers is worth: whose the candidates are, who alone finds what is wanted, whose hits show.

Credit comes in two kinds. *Alone* counts only what nobody else named: it is what would certainly be missing. *Credit*
divides an item evenly among those who named it, so that the credits of all retrievers sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.arrays import F64, Bool, Ints
from ..base.ragged import Ragged, contains, locate
from .summary import with_intervals
from .uncertainty.bootstrap import UserBootstrap, ratio

Json = dict[str, Any]


def source_metrics(
    truth: Ragged,
    names: Sequence[str],
    candidates: Ints,
    proposed: Bool,
    final: Ints,
    lists: Mapping[str, Ints],
    without: Mapping[str, Ints],
    users: Ints,
    boot: UserBootstrap,
) -> Json:
    """What every proposer contributes, over users with a relevant item.

    Args:
        truth: relevant items of each of U users, each named once.
        names: the S proposers.
        candidates: int [U, C] merged lists; -1 pads.
        proposed: bool [U, C, S] who named each candidate.
        final: int [U, k] lists delivered.
        lists: proposer -> int [U, n], its own list as it was merged.
        without: proposer -> int [U, C], what merging gives when it is left out; may be empty.
        users: int [V] users with a relevant item.
        boot: draws over them.

    Returns:
        Per proposer: `share_of_candidates` it named, `share_of_candidates_alone` and `credit_of_candidates`; `recall`
        of its own list; `recall_lost`, recall of the candidates that only it named; with `without`, `recall_gain`,
        recall of the candidates minus that of merging without it, whose free places others take; and of the delivered
        lists of k, `credit_of_list@k`, and of the relevant items in them `share_of_hits@k`, `share_of_hits_alone@k` and
        `credit_of_hits@k`. Each with its interval in `_ci`; None where there is nothing to share.
    """
    k = final.shape[1]
    proposers = proposed[users]  # [V, C, S]
    merged, delivered = candidates[users], final[users]
    relevance = contains(truth, np.repeat(users, merged.shape[1]), merged.ravel()).reshape(merged.shape)
    # An item of the final list was named by whoever named the candidate it is.
    row = np.repeat(np.arange(len(users)), k)
    at = locate(Ragged.from_padded(merged), row, delivered.ravel())
    of_list = np.concatenate([proposers[merged >= 0], np.zeros((1, len(names)), dtype=bool)])[at].reshape(
        *delivered.shape, -1
    )
    hit = contains(truth, np.repeat(users, k), delivered.ravel()).reshape(delivered.shape)
    relevant = truth.lengths[users].astype(np.float64)
    out: Json = {}
    for column, name in enumerate(names):
        shares = {
            "share_of_candidates": _share(proposers, merged >= 0, column),
            "share_of_candidates_alone": _share(proposers, merged >= 0, column, alone=True),
            "credit_of_candidates": _credit(proposers, merged >= 0, column),
            f"credit_of_list@{k}": _credit(of_list, delivered >= 0, column),
            f"share_of_hits@{k}": _share(of_list, hit, column),
            f"share_of_hits_alone@{k}": _share(of_list, hit, column, alone=True),
            f"credit_of_hits@{k}": _credit(of_list, hit, column),
        }
        parts, whole = (np.stack(side, axis=1) for side in zip(*shares.values(), strict=True))
        metrics = with_intervals(list(shares), ratio(boot.sums(parts), boot.sums(whole)), boot)
        recalls = {
            "recall": _hits(truth, lists[name][users], users) / relevant,
            "recall_lost": _share(proposers, relevance, column, alone=True)[0] / relevant,
        }
        if name in without:
            rest = _hits(truth, without[name][users], users)
            recalls["recall_gain"] = (relevance.sum(1) - rest) / relevant
        metrics |= with_intervals(list(recalls), boot.means(np.stack(list(recalls.values()), axis=1)), boot)
        out[name] = metrics
    return out


def _share(named: Bool, counted: Bool, column: int, alone: bool = False) -> tuple[F64, F64]:
    """Per user, how many of the counted entries [V, n] one proposer named, and how many there are."""
    own = named[:, :, column] & (named.sum(2) == 1) if alone else named[:, :, column]
    return (own & counted).sum(1).astype(np.float64), counted.sum(1).astype(np.float64)


def _credit(named: Bool, counted: Bool, column: int) -> tuple[F64, F64]:
    """Per user, the counted entries one proposer named, each divided among its proposers, and how many there are."""
    part = named[:, :, column] / np.maximum(named.sum(2), 1)
    return (part * counted).sum(1), counted.sum(1).astype(np.float64)


def _hits(truth: Ragged, rows: Ints, users: Ints) -> F64:
    """How many of their relevant items the lists [V, n] of some users hold, float64 [V]."""
    inside = contains(truth, np.repeat(users, rows.shape[1]), rows.ravel())
    return np.asarray(inside.reshape(rows.shape).sum(1), dtype=np.float64)
