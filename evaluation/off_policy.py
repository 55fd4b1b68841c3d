"""Off-policy estimates: what a new policy would have earned, from the log of an old one that knew its own chances.

A logged action counts by how much likelier the new policy takes it, w = pi / p. IPS (Horvitz and Thompson 1952) is the
mean of w r: unbiased, wild when p is small. SNIPS (Swaminathan and Joachims 2015) divides by the mean of w: a little
bias for much less variance. DR (Dudik, Langford and Li 2011) takes a model of the reward and corrects only its
residuals: right when either the model or the propensities are. Clipping w bounds the variance and biases towards the
old policy; how much of the log still speaks is the effective sample size. Without logged propensities there is no such
estimate, and none is made up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import Floats, Ints
from ..base.errors import ConfigError, DataError
from .config import EvaluationConfig
from .summary import bootstrap_of, with_intervals
from .uncertainty.bootstrap import ratio

Json = dict[str, Any]


def off_policy_value(
    rewards: Floats,
    propensities: Floats | None,
    target_probabilities: Floats,
    users: Ints | None = None,
    *,
    clip: float | None = None,
    reward_model: tuple[Floats, Floats] | None = None,
    config: EvaluationConfig | None = None,
) -> Json:
    """Mean reward a target policy would have earned, by IPS, SNIPS and, with a reward model, DR.

    Args:
        rewards: [R], what the logged action earned.
        propensities: [R], probability with which the logging policy took that action.
        target_probabilities: [R], probability with which the target policy would.
        users: [R], user of each row, in any numbering; intervals resample users. By default every row is its own.
        clip: weights above this are cut to it.
        reward_model: predicted reward of the logged action [R], and its expectation under the target policy [R].
        config: draws, level and seed.

    Returns:
        `ips`, `snips`, `dr` with intervals, `logged` (what the old policy earned), `effective_sample_size`, `rows`,
        `mean_weight` before clipping (about 1 when propensities are right and cover the target), `largest_weight`, and
        `clipped`, the share of rows cut.

    Raises:
        DataError: propensities are missing, zero or outside (0, 1]; target probabilities outside [0, 1].
    """
    config = config or EvaluationConfig()
    weight = _weights(rewards, propensities, target_probabilities)
    if clip is not None and clip <= 0:
        raise ConfigError(f"clip={clip} leaves no weight; pass a number above 0, such as 10, or none")
    used = weight if clip is None else np.minimum(weight, clip)
    _, user = np.unique(np.arange(len(weight)) if users is None else users, return_inverse=True)
    boot = bootstrap_of(int(user.max()) + 1, config)
    reward = np.asarray(rewards, dtype=np.float64)
    columns = {"rows": np.ones(len(used)), "weight": used, "ips": used * reward, "logged": reward}
    if reward_model is not None:
        logged, expected = (np.asarray(part, dtype=np.float64) for part in reward_model)
        if logged.shape != reward.shape or expected.shape != reward.shape:
            raise DataError(
                f"reward model of {logged.shape} and {expected.shape} for {len(reward)} rows; pass both [R]"
            )
        columns["dr"] = expected + used * (reward - logged)
    per_user = np.stack(
        [np.bincount(user, column, boot.num_users).astype(np.float64) for column in columns.values()], axis=1
    )
    draws = boot.sums(per_user)
    sums = {name: draws[:, [column]] for column, name in enumerate(columns)}
    samples = {
        "ips": ratio(sums["ips"], sums["rows"]),
        "snips": ratio(sums["ips"], sums["weight"]),
        "logged": ratio(sums["logged"], sums["rows"]),
    }
    if "dr" in sums:
        samples["dr"] = ratio(sums["dr"], sums["rows"])
    squares = float(np.square(used).sum())
    return with_intervals(list(samples), np.concatenate(list(samples.values()), axis=1), boot) | {
        "rows": len(used),
        "effective_sample_size": float(used.sum() ** 2 / squares) if squares else 0.0,
        "mean_weight": float(weight.mean()),
        "largest_weight": float(weight.max()),
        "clipped": float((weight > used).mean()),
    }


def _weights(rewards: Floats, propensities: Floats | None, target: Floats) -> Floats:
    """pi / p of each row, after refusing what cannot be a probability."""
    if propensities is None:
        raise DataError(
            "the log has no propensities (the probability with which each logged item was shown), so no off-policy "
            "estimate exists; log them, or compare policies in an online test"
        )
    if len(rewards) == 0 or propensities.shape != rewards.shape or target.shape != rewards.shape:
        raise DataError(
            f"{len(rewards)} rewards, {len(propensities)} propensities and {len(target)} target probabilities; "
            "pass one of each per logged row, and at least one row"
        )
    checks = (
        ("propensity", propensities, (propensities > 0) & (propensities <= 1), "above 0 and up to 1"),
        ("target probability", target, (target >= 0) & (target <= 1), "from 0 to 1"),
    )
    for name, column, fine, expected in checks:
        bad = np.flatnonzero(~fine)
        if len(bad):
            raise DataError(
                f"{name} {column[bad[0]]} in row {bad[0]} ({len(bad)} such rows); expected a probability {expected}, "
                "recorded when the item was shown"
            )
    bad = np.flatnonzero(~np.isfinite(rewards))
    if len(bad):
        raise DataError(f"reward {rewards[bad[0]]} in row {bad[0]}; rewards must be finite")
    return np.asarray(target / propensities, dtype=np.float64)
