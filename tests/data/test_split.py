"""Splits: which rows train, choose and report, and what is said when a part would be empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from recsys.base.errors import ConfigError, DataError
from recsys.data.reading.coded import coded
from recsys.data.split import Part, assign_parts, part_of
from recsys.data.split_spec import SplitSpec

USERS = np.repeat([0, 1, 2, 3], [5, 1, 2, 3])
TIMES = np.concatenate([np.sort(np.random.default_rng(0).integers(0, 100, n)) for n in (5, 1, 2, 3)]).astype(float)


def parts(spec: dict[str, Any], **given: Any) -> NDArray[np.int8]:
    named = {"users": USERS, "times": TIMES, "named": None, "strata": None, "rows": len(USERS), "seed": 0}
    texts = given.get("named")
    if texts is not None:
        given["named"] = coded(lambda: iter([pa.array(texts, pa.string())]), pa.string(), len(texts), "part")
    return assign_parts(SplitSpec.model_validate(spec), **{**named, **given})


def test_a_time_split_cuts_everybody_at_the_same_moments() -> None:
    times = np.array([0.0, 39.0, 40.0, 69.9, 70.0, 90.0, 40.0, 70.0, 71.0, 10.0, 39.0])
    found = parts({"kind": "time"}, times=times, cuts=(40.0, 70.0))
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 1, 2, 2, 0, 0]  # a cut is the first moment of the part it begins


def test_without_dates_the_cuts_are_quantiles_and_a_moment_is_never_split() -> None:
    times = np.repeat(np.arange(10.0), 10)
    found = parts({"kind": "time", "valid": 0.2, "test": 0.1}, times=times, rows=100)
    assert np.bincount(found).tolist() == [70, 20, 10]
    for moment in np.unique(times):
        assert len(np.unique(found[times == moment])) == 1


def test_leave_last_tests_the_last_row_and_validates_the_one_before() -> None:
    found = parts({"kind": "leave_last"})
    assert found.tolist() == [0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2]


def test_random_shares_are_exact_and_follow_the_seed() -> None:
    spec = {"kind": "random", "valid": 0.2, "test": 0.3}
    found = parts(spec, rows=1000)
    assert np.bincount(found).tolist() == [500, 200, 300]
    assert np.array_equal(found, parts(spec, rows=1000))
    assert not np.array_equal(found, parts(spec, rows=1000, seed=1))


def test_strata_are_each_split_in_the_same_shares() -> None:
    strata = np.repeat([0, 1], [900, 100])
    found = parts({"kind": "random", "valid": 0.2, "test": 0.3}, rows=1000, strata=strata)
    assert np.bincount(found[strata == 1]).tolist() == [50, 20, 30]


def test_a_column_names_the_parts_and_half_the_test_may_validate() -> None:
    named = ["train"] * 60 + ["test"] * 40
    whole = parts({"kind": "column", "column": "file"}, named=named, rows=100)
    assert np.bincount(whole).tolist() == [60, 0, 40]
    halved = parts({"kind": "column", "column": "file", "halve_test": True}, named=named, rows=100)
    assert np.bincount(halved).tolist() == [60, 20, 20]
    assert (halved[:60] == Part.TRAIN).all()


@pytest.mark.parametrize(
    ("spec", "given", "sentence"),
    [
        ({"kind": "time"}, {"cuts": (200.0, 300.0)}, "the test part is empty after the time split of 11 rows"),
        ({"kind": "time"}, {"cuts": (-5.0, 50.0)}, "the train part is empty"),
        ({"kind": "leave_last"}, {"users": np.arange(11)}, "the test part is empty after the leave_last split"),
        ({"kind": "random", "test": 0.0}, {}, "the test part is empty"),
        ({"kind": "column", "column": "file"}, {"named": ["train"] * 11}, "the test part is empty"),
        ({"kind": "column", "column": "f"}, {"named": ["trian"] * 11}, 'column "f" holds "trian"; expected only train'),
    ],
)
def test_an_empty_part_is_an_error_that_names_it(spec: dict[str, Any], given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        parts(spec, **given)


@pytest.mark.parametrize(
    ("spec", "given", "sentence"),
    [
        ({"kind": "time"}, {"times": None}, "needs a time column"),
        ({"kind": "leave_last"}, {"users": None}, "needs users"),
        ({"kind": "column"}, {}, "needs data.split.column"),
        ({"kind": "time"}, {"cuts": (70.0, 40.0)}, "swap the dates"),
    ],
)
def test_a_split_the_data_cannot_have_is_an_error(spec: dict[str, Any], given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parts(spec, **given)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave no rows to train on"):
        SplitSpec(valid=0.6, test=0.4)


def test_parts_by_name() -> None:
    assert [part_of(name) for name in ("train", "valid", "test")] == [Part.TRAIN, Part.VALID, Part.TEST]
    with pytest.raises(ConfigError, match="expected train, valid or test"):
        part_of("holdout")
