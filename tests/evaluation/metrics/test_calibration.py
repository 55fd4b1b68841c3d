"""Bins of predicted probabilities at their edges; what the error and the curve say is in `test_rows`."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.errors import ConfigError
from recsys.evaluation.metrics.calibration import assign_bins, ece, predicted_to_observed, reliability_curve


def test_bins_of_equal_width_take_in_both_ends() -> None:
    p = np.array([0.0, 0.0999, 0.1, 0.5, 0.95, 1.0])
    assert assign_bins(p, 10, "width").tolist() == [0, 0, 1, 5, 9, 9]
    assert assign_bins(p, 1, "width").tolist() == [0] * 6


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("bins", [1, 3, 15])
def test_every_row_has_a_bin_of_the_number_asked_for_and_bins_rise_with_the_prediction(rows: int, bins: int) -> None:
    p = np.random.default_rng(rows).random(rows)
    for binning in ("mass", "width"):
        found = assign_bins(p, bins, binning)  # type: ignore[arg-type]
        assert found.min() >= 0
        assert found.max() < bins
        assert (np.diff(found[np.argsort(p)]) >= 0).all()
    sizes = np.bincount(assign_bins(p, bins), minlength=bins)
    assert sizes.max() - sizes.min() <= 1


def test_no_rows_have_no_bins_and_no_error() -> None:
    empty = np.empty(0)
    assert assign_bins(empty).shape == (0,)
    assert ece(empty, empty) is None
    assert reliability_curve(empty, empty)["rows"] == []
    assert predicted_to_observed(np.zeros(3), np.full(3, 0.5)) is None


@pytest.mark.parametrize(("bins", "binning"), [(0, "mass"), (-1, "width"), (5, "both")])
def test_impossible_bins_are_refused(bins: int, binning: str) -> None:
    with pytest.raises(ConfigError, match="ask for 1 or more bins"):
        assign_bins(np.array([0.5]), bins, binning)  # type: ignore[arg-type]


def test_the_curve_of_one_bin_is_the_whole() -> None:
    labels, p = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.6, 0.7])
    curve = reliability_curve(labels, p, 1)
    assert curve["predicted"] == pytest.approx([0.4])
    assert (curve["observed"], curve["rows"]) == ([0.5], [4.0])
    assert 0 < curve["low"][0] < 0.5 < curve["high"][0] < 1
