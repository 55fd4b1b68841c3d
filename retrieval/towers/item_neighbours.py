"""An item's nearest neighbours as a column of the item tower: a graph of the training part inside the embeddings.

The vector of an item is then its own embedding plus the mean of its neighbours', one step of a graph convolution. An
item with few events is placed by the company it keeps, and what an item learns reaches its neighbours in every step.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import vstack
from torch import Tensor

from ...base.cited import cited
from ...data.history import History
from ..baselines.cooccurrence import cooccurrence_blocks, interaction_matrix, top_per_row

LEAST_USERS = 2
"""Users two items must share to be neighbours: a pair of one user alone would tell that user's next event."""
SHRINKAGE = 10.0
"""Added to the denominator of the cosine, as item-kNN does."""


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
    root = np.sqrt(np.bincount(interactions.indices, minlength=num_items)).astype(np.float32)
    blocks = []
    for start, together in cooccurrence_blocks(interactions):
        rows = np.arange(len(together))
        together[rows, rows + start] = 0.0
        together[together < LEAST_USERS] = 0.0
        blocks.append(top_per_row(together / (root[start : start + len(together), None] * root + SHRINKAGE), count))
    nearest = vstack(blocks, format="csr")
    owner = np.repeat(np.arange(num_items), np.diff(nearest.indptr))
    place = np.arange(len(owner)) - nearest.indptr[owner]
    found = np.full((num_items, count), -1, dtype=np.int64)
    found[owner, place] = nearest.indices
    return torch.from_numpy(found)
