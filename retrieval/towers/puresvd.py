"""The factors of a linear part: PureSVD with scaled columns.

    X diag(p)^-a = U S V'        reads_i = p_i^-a V_i        writes_i = p_i^a V_i

X is users by items, 1 where they met in the training part, and p_i the users of item i. Only what is not zero is held,
so a catalogue may have any size.
"""

from __future__ import annotations

import numpy as np

from ...base.cited import cited
from ...data.split import Part
from ...data.vocabulary import UNKNOWN
from ..baselines.cooccurrence import interaction_matrix
from .linear import Factors
from .windows import TowerData

EXPONENT = 0.25
"""a: how much less popular items say of a user, and how much more is said of them."""

SMALL = 1e-6
"""Share of the largest singular value below which one is none."""


@cited("Cremonesi et al. RecSys 2010 (PureSVD); Nikolakopoulos et al. 2019 (EigenRec, the scaling of columns)")
def svd_factors(data: TowerData, rank: int) -> Factors | None:
    """Factors of the training part; None where there are no item ids, or too few users and items for any.

    Args:
        data: what the towers see.
        rank: R; less where users, items or what they have in common are fewer.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    layout, history = data.layout, data.history.before(Part.VALID)
    if not layout.item_id:
        return None
    codes = data.items.categorical[:, layout.item.categorical.index(layout.item_id)].numpy()
    users = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    met = codes[history.items].astype(np.int64)
    own = met > UNKNOWN
    users, met = users[own], met[own]
    rank = min(rank, len(np.unique(users)) - 1, len(np.unique(met)) - 1)
    if rank < 1:
        return None
    matrix = interaction_matrix(users, met, history.num_users, layout.sizes[layout.item_id])
    popularity = np.asarray(matrix.sum(axis=0), dtype=np.float64)
    met_by_none, popularity = popularity == 0, np.maximum(popularity, 1.0)
    scaled = csr_array(matrix.astype(np.float64) * popularity[None, :] ** -EXPONENT)
    draws = np.random.default_rng(0)  # else the vectors hang on chance
    _, values, right = svds(scaled, k=rank, v0=draws.standard_normal(min(scaled.shape)), rng=draws)
    items = right[values > SMALL * values.max()].T  # what is left has no direction of its own
    items[met_by_none] = 0.0  # and not nearly
    reads, writes = (items * popularity[:, None] ** power for power in (-EXPONENT, EXPONENT))
    return Factors(reads.astype(np.float32), writes.astype(np.float32))
