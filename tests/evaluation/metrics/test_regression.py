"""Metrics of predicted values: equal to scipy's and to the formulas, draw by draw, and honest where undefined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from recsys.base.errors import DataError
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.regression import decile_curve, mae, r2, rmse, spearman
from recsys.evaluation.summary import regression_metrics
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap
from recsys.evaluation.uncertainty.value_samples import VALUE_METRICS, value_metric_samples


def rows(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with ties, far from 0, predictions with ties, users."""
    rng = np.random.default_rng(seed)
    truth = np.round(rng.gamma(2.0, 10.0, count))
    return 1e4 + truth, 1e4 + np.round(0.8 * truth + rng.normal(0, 8, count)), rng.integers(0, 30, count)


def test_equal_to_the_formulas_and_to_scipy() -> None:
    labels, values, _ = rows(0)
    assert rmse(labels, values) == pytest.approx(np.sqrt(np.mean((labels - values) ** 2)))
    assert mae(labels, values) == pytest.approx(np.mean(np.abs(labels - values)))
    assert r2(labels, values) == pytest.approx(1 - np.mean((labels - values) ** 2) / np.var(labels))
    assert spearman(labels, values) == pytest.approx(spearmanr(labels, values).statistic)


def test_what_is_undefined_is_none() -> None:
    flat, varied = np.full(4, 3.0), np.arange(4.0)
    assert r2(flat, varied) is None
    assert spearman(flat, varied) is None
    assert spearman(varied, flat) is None
    assert r2(varied, np.full(4, varied.mean())) == pytest.approx(0.0)
    assert [metric(flat[:0], flat[:0]) for metric in (rmse, mae, r2, spearman)] == [None] * 4
    empty = regression_metrics(flat, varied, np.arange(4), np.zeros(4, dtype=bool))
    assert empty == {"rows": 0, **dict.fromkeys(VALUE_METRICS)}


def test_each_draw_equals_the_metrics_of_its_resampled_rows() -> None:
    labels, values, users = rows(1)
    boot = UserBootstrap(30, draws=7, seed=3)
    samples = value_metric_samples(boot, labels, values, users)
    draws = np.concatenate([block.T for block in boot.weights()])
    assert len(draws) == 8
    for number, draw in enumerate(draws):
        again = np.repeat(np.arange(len(labels)), draw[users])
        resampled = labels[again], values[again]
        for name, metric in (("rmse", rmse), ("mae", mae), ("r2", r2)):
            assert samples[name][number, 0] == pytest.approx(metric(*resampled), rel=1e-9)
        assert samples["spearman"][number, 0] == pytest.approx(spearmanr(*resampled).statistic)
        ratio = resampled[1].sum() / resampled[0].sum()
        assert samples["predicted_to_observed"][number, 0] == pytest.approx(ratio)


def test_the_report_of_a_task_has_intervals_and_a_calibration_by_decile() -> None:
    labels, values, users = rows(2)
    mask = np.arange(len(labels)) % 5 > 0
    metrics = regression_metrics(np.where(mask, labels, np.nan), values, users, mask, config=EvaluationConfig(draws=50))
    assert metrics["rows"] == mask.sum()
    assert metrics["base_rmse"] == pytest.approx(labels[mask].std())
    assert metrics["rmse"] < metrics["base_rmse"]
    for name in VALUE_METRICS:
        low, high = metrics[f"{name}_ci"]
        assert low < metrics[name] < high
    curve = metrics["reliability"]
    assert sum(curve["rows"]) == mask.sum()
    assert len(curve["rows"]) == 10
    assert curve["predicted"] == sorted(curve["predicted"])


def test_deciles_by_hand() -> None:
    curve = decile_curve(np.array([0.0, 2.0, 10.0, 10.0]), np.array([1.0, 1.0, 5.0, 7.0]), num_bins=2)
    assert curve["predicted"] == [1.0, 6.0]
    assert curve["observed"] == [1.0, 10.0]
    assert curve["rows"] == [2.0, 2.0]
    assert curve["low"][1] == curve["high"][1] == 10.0
    assert curve["low"][0] == pytest.approx(1 - 1.959964 / np.sqrt(2))


def test_bad_columns_are_named() -> None:
    with pytest.raises(DataError, match="prediction nan in row 1; labels and predictions must be finite"):
        rmse(np.zeros(2), np.array([0.0, np.nan]))
    with pytest.raises(DataError, match=r"columns of shapes \[\[2\], \[3\]\]"):
        mae(np.zeros(2), np.zeros(3))
