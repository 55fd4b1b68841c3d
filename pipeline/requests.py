"""Requests that the ranker's listwise task learns from: the retriever's own candidates, and what the user then took."""

from __future__ import annotations

import logging

import numpy as np

from ..base.arrays import I64, Bool, Ints
from ..base.ragged import Ragged
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..ranking.requests import SELECT, RequestSet, SelectConfig
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import asks, requests

log = logging.getLogger(__name__)

MANY = 10.0
"""Items that a user takes, on average, above which `auto` asks for all of them at once."""


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
    """Requests at the start of the validation part: the retriever's candidates, and what the user went on to take.

    A user makes one request of everything, or one of each item, of `per_user` drawn ones where that is set; what the
    user took beside it is then no candidate. Users of whom the retriever found nothing count, with one request.
    """
    users, _, truth = requests(retriever.data, Part.VALID)
    section = config.ranking.select
    whole = asks_for_all(section, truth)
    if whole:
        owner = np.arange(len(users))
        wanted = truth.lengths
    else:
        owner = np.asarray(truth.users)
        asked = np.arange(len(owner)) if not section.per_user else drawn_of_each(owner, section.per_user, config.seed)
        owner = owner[asked]
        wanted = np.ones(len(owner), dtype=np.int64)
    chosen = np.arange(len(owner))
    if len(owner) > section.max_requests:
        chosen = np.sort(np.random.default_rng(config.seed).choice(len(owner), section.max_requests, replace=False))
    owner, wanted = owner[chosen], wanted[chosen]
    needed, place = np.unique(owner, return_inverse=True)
    candidates = retriever.candidates(users[needed], Part.VALID, config.retrieval.num_candidates)
    rows = candidates.rows[place].copy()
    own = _of_owner(rows, owner, truth, retriever.data.num_items)
    if whole:
        taken = own
    else:
        taken = rows == np.asarray(truth.items)[asked][chosen][:, None]
        rows[own & ~taken] = -1
    hits = np.flatnonzero(taken.any(1))
    everyone = np.unique(place, return_index=True)[1]
    misses = np.setdiff1d(everyone, hits)
    selection = np.sort(np.concatenate([hits, misses[~np.isin(place[misses], place[hits])]]))
    log.info("%d requests, the retriever found what was taken in %d", len(selection), len(hits))
    return RequestSet(
        dataset=dataset,
        moment=int(Part.VALID),
        users=users[needed][place][selection],
        rows=rows[selection],
        features=candidates.features[place][selection],
        prior=candidates.prior[place][selection],
        taken=taken[selection],
        wanted=wanted[selection],
    )


def asks_for_all(section: SelectConfig, truth: Ragged) -> bool:
    """Whether a request asks for all that its user took, see `SelectConfig.targets`.

    Args:
        section: of the configuration.
        truth: what each user took; of one user at least.
    """
    return section.targets == "all" or (section.targets == "auto" and float(truth.lengths.mean()) > MANY)


def drawn_of_each(owner: Ints, count: int, seed: int) -> I64:
    """Places int64 of at most `count` entries of each owner, drawn without replacement, ascending."""
    shuffled = np.random.default_rng(seed).permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    ordered = owner[grouped]
    before = np.searchsorted(ordered, ordered)
    return np.sort(grouped[np.arange(len(ordered)) - before < count])


def _of_owner(rows: Ints, owner: Ints, truth: Ragged, num_items: int) -> Bool:
    """Candidates [Q, C] that the request's user took."""
    known = np.unique(np.asarray(truth.users) * num_items + np.asarray(truth.items))
    return np.asarray(np.isin(owner[:, None] * num_items + rows, known) & (rows >= 0))
