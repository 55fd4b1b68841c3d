"""What the scorers say of the candidates, as features: each score as it is, standardised, and as a rank.

The scores of all scorers are one array, so that a request costs the same few operations however many scorers there are.
"""

from __future__ import annotations

import numpy as np

from ..base.arrays import F32, I64, Bool, Floats

TIED = 1e-4
"""Difference of standardised scores below which two candidates share a rank."""
PARTS = ("score", "standardised", "log_rank")
"""Columns of a scorer, in order."""


def opinion_features(opinions: F32, raw: F32, present: Bool, last: F32, served: int) -> F32:
    """Features of B requests of C candidates.

    Args:
        opinions: float32 [F, B, C] scores of the F scorers.
        raw: float32 [F, B, C] what stands for the score as it is.
        present: bool [B, C], false at pads.
        last: float32 [B], a further column, the same for all candidates of a request.
        served: scores are standardised and ranked among the first so many candidates.

    Returns:
        float32 [B, C, 3 F + 1], the columns of a scorer side by side; 0 at pads but for the last column.
    """
    scorers, requests, width = opinions.shape
    standardised, log_rank = _standardised(opinions, present, served)
    features = np.empty((requests, width, len(PARTS) * scorers + 1), dtype=np.float32)
    for place, columns in enumerate((np.where(present, raw, 0.0), standardised, log_rank)):
        features[:, :, place:-1:3] = columns.transpose(1, 2, 0)
    features[:, :, -1] = last[:, None]
    return features


def _standardised(scores: F32, present: Bool, served: int) -> tuple[F32, F32]:
    """Scores [F, B, C] standardised among the first `served` of each request, and log(1 + rank) among them; 0 at pads.

    Scores that are all but equal share the better rank: which of two items with the same vector comes first is decided
    by the rounding of their products, which is not the same alone and in a block of requests.
    """
    own, kept = scores[:, :, :served], present[:, :served]
    count = np.maximum(np.count_nonzero(kept, axis=1), 1)[:, None]
    mean = np.where(kept, own, 0.0).sum(2, keepdims=True) / count
    deviation = np.sqrt((np.where(kept, own - mean, 0.0) ** 2).sum(2, keepdims=True) / count)
    standardised = np.where(present, scores - mean, 0.0) / np.maximum(deviation, 1e-6)
    best = np.where(kept, standardised[:, :, :served], -np.inf)
    rank = np.zeros(scores.shape, dtype=np.int64)
    rank[:, :, :served] = _ranks(best.reshape(-1, best.shape[2])).reshape(best.shape)
    for column in range(served, scores.shape[2]):
        rank[:, :, column] = (best > standardised[:, :, [column]] + TIED).sum(2)
    log_ranks = np.log1p(np.arange(served + 1)).astype(np.float32)
    return standardised.astype(np.float32), np.where(present, log_ranks[rank], np.float32(0.0))


def _ranks(scores: Floats) -> I64:
    """Candidates of a row that are better by more than `TIED` than the next worse one: [R, C] -> int64 [R, C]."""
    order = np.argsort(-scores, axis=1)  # equal scores share a rank, so any order among them will do
    rows = np.arange(len(scores))[:, None]
    falling = scores[rows, order]
    shared = np.zeros(scores.shape, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        lower = falling[:, :-1] - falling[:, 1:] > TIED
    # Where a new rank begins stands its number, and 0 inside a tie.
    np.maximum.accumulate(np.where(lower, np.arange(1, scores.shape[1]), 0), axis=1, out=shared[:, 1:])
    ranks = np.empty_like(shared)
    ranks[rows, order] = shared
    return ranks
