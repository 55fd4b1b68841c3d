"""Is the difference real? Paired tests of two systems on the same users, correction for many metrics, visible effect.

The permutation test is Fisher's sign-flip test of paired differences (the randomisation test Smucker, Allan and
Carterette 2007 recommend for retrieval); Holm's step-down procedure (1979) keeps the chance of any false alarm at the
level.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from ...base.arrays import F64, Floats


def permutation_test(differences: Floats, permutations: int = 10_000, seed: int = 0) -> F64:
    """Two-sided p-value of each metric under "the two systems could swap places for any user".

    Args:
        differences: float [U, M], per-user value of one system minus the other.
        permutations: random sign flips; with 16 users or fewer all of them are enumerated.
        seed: of the flips.

    Returns:
        float64 [M]. Random flips never give 0: the observed arrangement counts as one of them.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.any(values != 0, axis=1)]  # a user without a difference cannot flip anything
    users = len(values)
    observed = np.abs(values.sum(0)) * (1 - 1e-12)  # sums of the same numbers in another order are the same
    if users <= 16:
        codes = np.arange(2**users, dtype=np.int64)[:, None] >> np.arange(users)
        flipped = np.abs((1.0 - 2.0 * (codes & 1)) @ values)
        return np.asarray((flipped >= observed).mean(0), dtype=np.float64)
    rng = np.random.default_rng(seed)
    extreme = np.zeros(values.shape[1])
    rows = int(np.clip(2**21 // users, 1, permutations))
    for start in range(0, permutations, rows):
        count = min(rows, permutations - start)
        bits = np.unpackbits(rng.integers(0, 256, (count, -(-users // 8)), dtype=np.uint8), axis=1, count=users)
        extreme += (np.abs((1.0 - 2.0 * bits) @ values) >= observed).sum(0)
    return np.asarray((extreme + 1) / (permutations + 1), dtype=np.float64)


def bootstrap_p_value(differences: F64) -> F64:
    """Two-sided p-value of each metric from the draws of a paired difference [draws + 1, M], row 0 the estimate.

    Twice the share of draws on the other side of zero; for metrics with no per-user value, such as AUC.
    """
    draws = differences[1:]
    valid = np.maximum(np.isfinite(draws).sum(0), 1)
    below, above = (draws <= 0).sum(0), (draws >= 0).sum(0)
    return np.asarray(np.minimum(2 * (np.minimum(below, above) + 1) / (valid + 1), 1.0), dtype=np.float64)


def holm(p_values: Floats) -> F64:
    """Holm's adjusted p-values, float64 [M]: below the level means significant after M comparisons."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def smallest_visible_difference(standard_error: Floats, level: float = 0.95, power: float = 0.8) -> F64:
    """The true difference a two-sided test at `1 - level` would find with probability `power`.

    Args:
        standard_error: float [M], of each metric's difference.
        level: 0.95 tests at 5 %.
        power: chance of finding it.
    """
    z = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(power)
    return np.asarray(z * np.asarray(standard_error, dtype=np.float64), dtype=np.float64)


def paired_standard_error(differences: Floats) -> F64:
    """Standard error of the mean of per-user differences [U, M], float64 [M]."""
    if len(differences) < 2:
        return np.full(differences.shape[1], np.nan)
    return np.asarray(differences.std(0, ddof=1) / math.sqrt(len(differences)), dtype=np.float64)
