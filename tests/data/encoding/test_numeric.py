"""Numbers to buckets and scaled numbers: order kept, the mode apart, missing and out-of-range values in their place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.base.arrays import F32
from recsys.data.encoding.numeric import EQUAL_FREQUENCY_BINS, NumericEncoder, equal_frequency
from recsys.data.feature_spec import FeatureSpec, Scale
from recsys.data.schema import DataConfig
from recsys.data.vocabulary import FIRST, UNKNOWN


def f32(*values: float) -> F32:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def zero_inflated() -> F32:
    rng = np.random.default_rng(0)
    return np.where(rng.random(1000) < 0.6, 0.0, np.exp(rng.normal(size=1000))).astype(np.float32)


def test_the_most_frequent_value_has_a_bucket_to_itself(zero_inflated: F32) -> None:
    encoder = NumericEncoder.fit(zero_inflated, 8)
    rows = encoder.buckets(zero_inflated)
    assert encoder.mode == 0.0
    assert ((rows == FIRST) == (zero_inflated == 0)).all()
    assert encoder.buckets(f32(1e-6)).tolist() == [FIRST + 1]


def test_the_other_buckets_hold_equally_many(zero_inflated: F32) -> None:
    encoder = NumericEncoder.fit(zero_inflated, 8)
    rest = encoder.buckets(zero_inflated[zero_inflated != 0])
    counts = np.bincount(rest)[FIRST + 1 :]
    assert len(counts) == 8
    assert counts.max() - counts.min() <= 2
    assert encoder.size == len(np.bincount(rest))  # pad, missing, mode and the eight


def test_but_for_the_mode_buckets_and_scaled_numbers_keep_the_order(zero_inflated: F32) -> None:
    encoder = NumericEncoder.fit(zero_inflated, 16)
    asked = np.sort(np.random.default_rng(1).uniform(0.001, 30, 500)).astype(np.float32)
    assert (np.diff(encoder.buckets(asked)) >= 0).all()
    scaled = encoder.scaled(asked)
    assert (np.diff(scaled) >= 0).all()
    assert (np.diff(scaled)[:-1] > 0).any()


def test_out_of_range_values_fall_into_the_end_buckets() -> None:
    encoder = NumericEncoder.fit(np.r_[np.arange(1, 101), 50].astype(np.float32), 4)
    low, high = encoder.buckets(f32(-1e9, 1e9)).tolist()
    assert (low, high) == (FIRST + 1, encoder.size - 1)
    assert np.abs(encoder.scaled(f32(-1e9, 1e9))).max() <= 8.0


def test_missing_is_a_bucket_of_its_own_and_stays_missing_as_a_number() -> None:
    encoder = NumericEncoder.fit(f32(1, np.nan, 2, 3, np.nan), 4)
    missing, there = encoder.buckets(f32(np.nan, 2)).tolist()
    assert missing == UNKNOWN != there
    assert np.isnan(encoder.scaled(f32(np.nan, 2))).tolist() == [True, False]
    assert encoder.state() == NumericEncoder.fit(f32(1, 2, 3), 4).state()


@pytest.mark.parametrize("values", [[7.0] * 5, [np.nan] * 3, []])
def test_a_column_that_says_nothing_gives_finite_numbers(values: list[float]) -> None:
    encoder = NumericEncoder.fit(np.array(values, dtype=np.float32), 8)
    scaled = encoder.scaled(f32(7.0, 8.0, -3.0))
    assert np.isfinite(scaled).all()
    rows = encoder.buckets(f32(7.0, 8.0, -3.0, np.nan))
    assert rows.max() < encoder.size
    assert rows.min() >= UNKNOWN


def test_scaled_numbers_of_the_training_column_are_standardised() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(5, 3, 2000), rng.gamma(2, 10, 2000)):
        scaled = NumericEncoder.fit(values.astype(np.float32), 8).scaled(values.astype(np.float32))
        assert scaled.mean() == pytest.approx(0, abs=1e-4)
        assert scaled.std() == pytest.approx(1, abs=1e-3)


def test_only_a_column_that_is_never_negative_is_logged() -> None:
    assert NumericEncoder.fit(f32(0, 1, 2), 2).log
    negative = NumericEncoder.fit(f32(-1, 0, 1), 2)
    assert not negative.log
    assert negative.scaled(f32(-2))[0] < negative.scaled(f32(-1))[0]


def test_buckets_do_not_exceed_the_bins_asked_for() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    for bins in (0, 1, 2, 64):
        encoder = NumericEncoder.fit(values, bins)
        assert len(np.unique(encoder.buckets(values))) <= max(bins, 1) + 1
        assert encoder.buckets(values).max() < encoder.size


@pytest.mark.parametrize("scale", ["log", "standard", "equal_frequency"])
def test_an_encoder_survives_json(scale: Scale) -> None:
    values = np.random.default_rng(0).gamma(1, 1, 500).astype(np.float32)
    encoder = NumericEncoder.fit(values, 16, scale)
    again = NumericEncoder.from_state(json.loads(json.dumps(encoder.state())))
    assert np.array_equal(again.buckets(values), encoder.buckets(values))
    assert np.array_equal(again.scaled(values), encoder.scaled(values))
    assert again.size == encoder.size


def test_the_scale_changes_the_number_and_never_the_buckets(zero_inflated: F32) -> None:
    log, standard, equal = (NumericEncoder.fit(zero_inflated, 8, s) for s in ("log", "standard", "equal_frequency"))
    for other in (standard, equal):
        assert np.array_equal(other.buckets(zero_inflated), log.buckets(zero_inflated))
        assert not np.allclose(other.scaled(zero_inflated), log.scaled(zero_inflated))
    mean, deviation = zero_inflated.mean(dtype=np.float64), zero_inflated.std(dtype=np.float64)
    inside = np.clip((zero_inflated - mean) / deviation, -8, 8)
    np.testing.assert_allclose(standard.scaled(zero_inflated), inside, atol=1e-5)


def test_equal_frequency_spreads_any_column_evenly_and_keeps_a_frequent_value_together() -> None:
    rng = np.random.default_rng(0)
    skewed = np.exp(3 * rng.normal(size=20_000)).astype(np.float32)
    share = NumericEncoder.fit(skewed, 0, "equal_frequency").scaled(skewed)
    values, counts = np.unique(share, return_counts=True)
    np.testing.assert_allclose(values, np.arange(EQUAL_FREQUENCY_BINS) / EQUAL_FREQUENCY_BINS, atol=1e-7)
    assert set(counts) == {len(skewed) // EQUAL_FREQUENCY_BINS}
    zeros = np.where(rng.random(20_000) < 0.6, 0.0, skewed).astype(np.float32)
    encoder = NumericEncoder.fit(zeros, 0, "equal_frequency")
    assert encoder.scaled(f32(-1, 0, 1e-9, 1e30)).tolist() == pytest.approx([0, 0.6, 0.6, 0.99], abs=0.011)
    assert np.isnan(encoder.scaled(f32(np.nan))[0])


def test_scales_of_earlier_versions_are_understood_and_nothing_at_all_is_refused() -> None:
    def feature(**keys: object) -> FeatureSpec:
        return FeatureSpec.model_validate({"name": "x", "side": "user", "kind": "numeric", **keys})

    assert [feature(scale=old).scale for old in (True, False)] == ["log", "none"]
    assert feature().scale == "log"
    with pytest.raises(ValueError, match='bins = 0 and scale = "none"'):
        feature(scale="none", bins=0)


def test_equal_frequency_gives_the_share_of_bins_below() -> None:
    edges = np.array([10.0, 20.0, 30.0])
    values = f32(-5, 9.99, 10, 25, 30, 1e9, np.nan)
    assert equal_frequency(values, edges)[:-1].tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 0.75]
    assert np.isnan(equal_frequency(values, edges)[-1])
    uniform = equal_frequency(np.arange(100, dtype=np.float32), np.arange(10, 100, 10, dtype=np.float64))
    assert np.unique(uniform, return_counts=True)[1].tolist() == [10] * 10


def test_the_sections_scale_is_that_of_every_number_without_one_and_of_no_other() -> None:
    numbers = [{"name": name, "side": "user", "kind": "numeric"} for name in ("age", "income")]
    features = [{"name": "city", "side": "user"}, numbers[0], numbers[1] | {"scale": "standard"}]
    counts = [{"keys": ["city"], "tasks": []}]

    def config(**keys: object) -> DataConfig:
        return DataConfig.model_validate({"features": features, "counts": counts, **keys})

    for chosen in (
        config(scale="equal_frequency"),
        DataConfig.model_validate(config(scale="equal_frequency").model_dump()),
    ):
        assert [spec.scale for spec in chosen.features] == ["log", "equal_frequency", "standard"]
        assert [spec.scale for spec in chosen.counts] == ["equal_frequency"]
    assert config() == DataConfig.model_validate({"features": features, "counts": counts, "scale": "log"})
    with pytest.raises(ValueError, match='"equal_frequency" is the scale of no number'):
        config(scale="equal_frequency", features=features[2:], counts=[])
