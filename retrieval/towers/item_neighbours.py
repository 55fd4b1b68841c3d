"""An item's nearest neighbours as a column of the item tower: a graph of the training part inside the embeddings.

The vector of an item is then its own embedding plus the mean of its neighbours', one step of a graph convolution. An
item with few events is placed by the company it keeps, and what an item learns reaches its neighbours in every step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import F32
from ...base.cited import cited
from ...data.history import History
from ..baselines.cooccurrence import interaction_matrix, nearest_items

LEAST_USERS = 2
"""Users two items must share to be neighbours: a pair of one user alone would tell that user's next event."""
SHRINKAGE = 10.0
"""Added to the denominator of the cosine, as item-kNN does."""


def _similarity(together: F32, one: F32, other: F32) -> F32:
    """The shrunk cosine of the sets of users of two items; 0 where they share too few."""
    return np.where(together < LEAST_USERS, np.float32(0.0), together / (one * other + SHRINKAGE))


@cited("He et al. SIGIR 2020 (LightGCN's propagation, one step between items)")
def item_neighbours(history: History, num_items: int, count: int) -> Tensor:
    """The nearest items of each by the shrunk cosine of their user sets, int64 [N, count]; -1 where there are no more.

    Args:
        history: of the training part alone.
        num_items: N.
        count: most neighbours of an item.
    """
    users = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    interactions = interaction_matrix(users, history.items.astype(np.int64), history.num_users, num_items)
    nearest = nearest_items(interactions, count, _similarity)
    owner = np.repeat(np.arange(num_items), np.diff(nearest.indptr))
    place = np.arange(len(owner)) - nearest.indptr[owner]
    found = np.full((num_items, count), -1, dtype=np.int64)
    found[owner, place] = nearest.indices
    return torch.from_numpy(found)
