"""Off-policy estimates against a world whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.off_policy import off_policy_value

CONFIG = EvaluationConfig(draws=200)
CHANCE = np.array([0.1, 0.3, 0.6, 0.2])  # of a reward, per action
LOGGING = np.array([0.4, 0.3, 0.1, 0.2])
TARGET = np.array([0.1, 0.1, 0.7, 0.1])
TRUE_VALUE = float(CHANCE @ TARGET)


def log(seed: int, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    action = rng.choice(4, rows, p=LOGGING)
    reward = (rng.random(rows) < CHANCE[action]).astype(float)
    return action, reward, LOGGING[action], TARGET[action]


def test_by_hand() -> None:
    found = off_policy_value(np.array([1.0, 0.0]), np.array([0.5, 0.25]), np.array([0.25, 0.5]), config=CONFIG)
    assert found["ips"] == pytest.approx((0.5 * 1 + 2 * 0) / 2)
    assert found["snips"] == pytest.approx(0.5 / 2.5)
    assert found["logged"] == 0.5
    assert found["effective_sample_size"] == pytest.approx(2.5**2 / (0.25 + 4))
    model = (np.array([0.8, 0.1]), np.array([0.6, 0.3]))
    found = off_policy_value(
        np.array([1.0, 0.0]), np.array([0.5, 0.25]), np.array([0.25, 0.5]), reward_model=model, config=CONFIG
    )
    assert found["dr"] == pytest.approx((0.6 + 0.5 * 0.2 + 0.3 + 2 * -0.1) / 2)


def test_estimates_find_the_true_value_and_the_log_does_not() -> None:
    action, reward, p, target = log(0)
    model = (CHANCE[action], np.full(len(action), TRUE_VALUE))
    users = np.arange(len(action)) // 4
    found = off_policy_value(reward, p, target, users, reward_model=model, config=CONFIG)
    for name in ("ips", "snips", "dr"):
        low, high = found[f"{name}_ci"]
        assert low <= TRUE_VALUE <= high, name
        assert abs(found[name] - TRUE_VALUE) < 0.03
    assert not found["logged_ci"][0] <= TRUE_VALUE <= found["logged_ci"][1]
    assert found["mean_weight"] == pytest.approx(1, abs=0.05)
    assert found["dr_ci"][1] - found["dr_ci"][0] < found["ips_ci"][1] - found["ips_ci"][0]


def test_doubly_robust_survives_a_wrong_model_or_wrong_propensities() -> None:
    errors: dict[str, list[float]] = {"bad model": [], "bad propensities": [], "ips with bad propensities": []}
    for seed in range(8):
        action, reward, p, target = log(seed)
        wrong = off_policy_value(
            reward,
            p,
            target,
            reward_model=(np.full(len(p), 0.5), np.full(len(p), 0.5)),
            config=EvaluationConfig(draws=0),
        )
        tilted = np.clip(p * np.where(action == 2, 0.6, 1.3), 0, 1)
        right = off_policy_value(
            reward,
            tilted,
            target,
            reward_model=(CHANCE[action], np.full(len(p), TRUE_VALUE)),
            config=EvaluationConfig(draws=0),
        )
        errors["bad model"].append(wrong["dr"] - TRUE_VALUE)
        errors["bad propensities"].append(right["dr"] - TRUE_VALUE)
        errors["ips with bad propensities"].append(right["ips"] - TRUE_VALUE)
    bias = {name: abs(np.mean(values)) for name, values in errors.items()}
    assert bias["bad model"] < 0.01
    assert bias["bad propensities"] < 0.01
    assert bias["ips with bad propensities"] > 0.1


def test_clipping_is_counted_and_bounds_the_weights() -> None:
    _, reward, p, target = log(1)
    free = off_policy_value(reward, p, target, config=CONFIG)
    cut = off_policy_value(reward, p, target, clip=2.0, config=CONFIG)
    assert cut["clipped"] == pytest.approx((target / p > 2).mean())
    assert free["clipped"] == 0
    assert cut["effective_sample_size"] > free["effective_sample_size"]
    assert cut["ips"] < free["ips"]
    assert free["largest_weight"] == pytest.approx(7)
    with pytest.raises(ConfigError, match="clip=0"):
        off_policy_value(reward, p, target, clip=0)


def test_no_propensities_no_estimate() -> None:
    ones = np.ones(3)
    with pytest.raises(DataError, match="no propensities"):
        off_policy_value(ones, None, ones)
    for bad in (0.0, -0.1, 1.2, np.nan):
        with pytest.raises(DataError, match=r"propensity .* in row 1 \(1 such rows\)"):
            off_policy_value(ones, np.array([0.5, bad, 0.5]), ones)
    with pytest.raises(DataError, match=r"target probability 1.5 in row 0"):
        off_policy_value(ones, ones, np.array([1.5, 0.1, 0.0]))
    with pytest.raises(DataError, match="one of each per logged row"):
        off_policy_value(ones, ones[:2], ones)
    with pytest.raises(DataError, match="reward inf"):
        off_policy_value(np.array([1, np.inf, 0]), ones, ones)


@pytest.mark.parametrize("clip", [0.5, 1.0, 2.0])
def test_weights_may_be_clipped_anywhere_above_0(clip: float) -> None:
    reward, p, target = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.1]), np.array([0.25, 0.5, 0.3])
    found = off_policy_value(reward, p, target, clip=clip, config=CONFIG)
    weights = np.array([0.5, 2.0, 3.0])
    assert found["ips"] == pytest.approx((np.minimum(weights, clip) * reward).mean())
    assert found["clipped"] == pytest.approx((weights > clip + 1e-9).mean())
    assert found["largest_weight"] == pytest.approx(3.0)
    for refused in (0.0, -1.0):
        with pytest.raises(ConfigError, match="leaves no weight"):
            off_policy_value(reward, p, target, clip=refused, config=CONFIG)
