"""Requests that the ranker's listwise task learns from: the retriever's own candidates, and what the user then took."""

from __future__ import annotations

import logging

import numpy as np

from ..base.arrays import I64, Bool, Ints
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..ranking.requests import SELECT, RequestSet
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import asks, requests

log = logging.getLogger(__name__)


def with_possible_select(config: RunConfig, retriever: Retriever) -> RunConfig:
    """The configuration, without the listwise task where the validation part has no request to learn it from.

    Raises:
        DataError: nothing else is to be learned, or the blend needs the task.
    """
    if not config.ranking.select.enabled or asks(retriever.data, Part.VALID):
        return config
    if not config.data.tasks or SELECT in (*config.blend.weights, config.blend.task):
        requests(retriever.data, Part.VALID)  # says why there are none
    log.warning('nobody takes a new item in the validation part, so the ranker is trained without "%s"', SELECT)
    select = config.ranking.select.model_copy(update={"enabled": False})
    return config.model_copy(update={"ranking": config.ranking.model_copy(update={"select": select})})


def select_requests(dataset: Dataset, retriever: Retriever, config: RunConfig) -> RequestSet:
    """Requests at the start of the validation part: the retriever's candidates, and the item the user went on to take.

    A user who took several items makes a request of each, of `per_user` drawn ones where that is set; the others are no
    negatives.
    """
    users, _, truth = requests(retriever.data, Part.VALID)
    owner = np.asarray(truth.users)
    items = np.asarray(truth.items)
    section = config.ranking.select
    if section.per_user:
        sample = drawn_of_each(owner, section.per_user, config.seed)
        owner, items = owner[sample], items[sample]
    if len(items) > section.max_requests:
        sample = np.sort(np.random.default_rng(config.seed).choice(len(items), section.max_requests, replace=False))
        owner, items = owner[sample], items[sample]
    needed, place = np.unique(owner, return_inverse=True)
    candidates = retriever.candidates(users[needed], Part.VALID, config.retrieval.num_candidates)
    rows = candidates.rows[place].copy()
    match = rows == items[:, None]
    target = np.where(match.any(1), match.argmax(1), -1)
    rows[_others(rows, owner, items, truth.items, truth.users, retriever.data.num_items)] = -1
    hits = np.flatnonzero(target >= 0)
    everyone = np.unique(place, return_index=True)[1]
    misses = np.setdiff1d(everyone, hits)  # a user whose every item was missed still counts, as a request without one
    selection = np.sort(np.concatenate([hits, misses[~np.isin(place[misses], place[hits])]]))
    log.info("%d requests, the retriever found the item in %d", len(selection), len(hits))
    return RequestSet(
        dataset=dataset,
        moment=int(Part.VALID),
        users=users[needed][place][selection],
        rows=rows[selection],
        features=candidates.features[place][selection],
        prior=candidates.prior[place][selection],
        target=target[selection],
    )


def drawn_of_each(owner: Ints, count: int, seed: int) -> I64:
    """Places int64 of at most `count` entries of each owner, drawn without replacement, ascending."""
    shuffled = np.random.default_rng(seed).permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    ordered = owner[grouped]
    before = np.searchsorted(ordered, ordered)
    return np.sort(grouped[np.arange(len(ordered)) - before < count])


def _others(
    rows: Ints,
    owner: Ints,
    items: Ints,
    truth_items: Ints,
    truth_owner: Ints,
    num_items: int,
) -> Bool:
    """Candidates [Q, C] that the request's user also took, other than the request's own item."""
    known = np.unique(truth_owner * num_items + truth_items)
    keys = owner[:, None] * num_items + rows
    return np.asarray(np.isin(keys, known) & (rows >= 0) & (rows != items[:, None]))
