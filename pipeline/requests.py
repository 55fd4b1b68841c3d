"""Requests that the ranker's listwise task learns from: the retriever's own candidates, and what the user then took."""

from __future__ import annotations

import logging

import numpy as np

from ..base.arrays import Bool, Ints
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..ranking.requests import RequestSet
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import requests

log = logging.getLogger(__name__)


def select_requests(dataset: Dataset, retriever: Retriever, config: RunConfig) -> RequestSet:
    """Requests at the start of the validation part: the retriever's candidates, and the item the user went on to take.

    A user who took several items makes a request of each, in which the others are no negatives.
    """
    users, _, truth = requests(retriever.data, Part.VALID)
    owner = np.asarray(truth.users)
    items = np.asarray(truth.items)
    limit = config.ranking.select.max_requests
    if len(items) > limit:
        drawn = np.sort(np.random.default_rng(config.seed).choice(len(items), limit, replace=False))
        owner, items = owner[drawn], items[drawn]
    needed, place = np.unique(owner, return_inverse=True)
    found = retriever.candidates(users[needed], Part.VALID, config.retrieval.num_candidates)
    rows = found.rows[place].copy()
    taken = rows == items[:, None]
    target = np.where(taken.any(1), taken.argmax(1), -1)
    rows[_others(rows, owner, items, truth.items, truth.users, retriever.data.num_items)] = -1
    kept = np.flatnonzero(target >= 0)
    everyone = np.unique(place, return_index=True)[1]
    missed = np.setdiff1d(everyone, kept)  # a user whose every item was missed still counts, as a request without one
    chosen = np.sort(np.concatenate([kept, missed[~np.isin(place[missed], place[kept])]]))
    log.info("%d requests, the retriever found the item in %d", len(chosen), len(kept))
    return RequestSet(
        dataset,
        int(Part.VALID),
        users[needed][place][chosen],
        rows[chosen],
        found.features[place][chosen],
        found.prior[place][chosen],
        target[chosen],
    )


def _others(
    rows: Ints,
    owner: Ints,
    items: Ints,
    truth_items: Ints,
    truth_owner: Ints,
    num_items: int,
) -> Bool:
    """Candidates [Q, C] that the request's user also took, other than the request's own item."""
    taken = np.unique(truth_owner * num_items + truth_items)
    keys = owner[:, None] * num_items + rows
    return np.asarray(np.isin(keys, taken) & (rows >= 0) & (rows != items[:, None]))
