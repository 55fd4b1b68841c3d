"""Successive cuts: tests follow one another, end with the log, and the last fold is the configured split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from recsys.base.errors import ConfigError
from recsys.data.folds import time_folds
from recsys.data.split import Part, assign_parts, moment
from recsys.data.split_spec import SplitSpec
from recsys.tests.support.nonempty import nonempty

TIMES = np.sort(np.random.default_rng(0).uniform(1_650_000_000, 1_652_000_000, 5_000))


def parts(spec: SplitSpec, times: np.ndarray) -> np.ndarray:
    cuts = (moment("valid_from", spec.valid_from), moment("test_from", spec.test_from))
    return assign_parts(spec, users=None, times=times, named=None, strata=None, rows=len(times), seed=0, cuts=cuts)


@pytest.mark.parametrize(
    "spec",
    [
        SplitSpec(kind="time", valid=0.1, test=0.15),
        SplitSpec(kind="time", valid_from="2022-05-05", test_from="2022-05-06T12:00"),
    ],
)
def test_tests_follow_one_another_and_the_last_fold_is_the_configured_split(spec: SplitSpec) -> None:
    folds = time_folds(TIMES, spec, 3)
    for earlier, later in nonempty(pairwise(folds)):
        assert earlier.end == pytest.approx(later.test_from)
        assert earlier.valid_from < earlier.test_from < earlier.end
    for fold in nonempty(folds):
        known = TIMES[fold.rows(TIMES)]
        found = parts(fold.split(), known)
        assert {Part.TRAIN, Part.VALID, Part.TEST} == set(found.tolist())
        assert known[found == Part.TRAIN].max() < fold.valid_from <= known[found == Part.VALID].min()
    assert np.array_equal(parts(folds[-1].split(), TIMES), parts(spec, TIMES))


def test_shares_give_tests_of_like_size() -> None:
    sizes = [((fold.test_from <= TIMES) & fold.rows(TIMES)).sum() for fold in time_folds(TIMES, SplitSpec(test=0.1), 4)]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        (SplitSpec(test=0.3), 4, "leave 0% to train the first on; lower --folds or data.split.test"),
        (SplitSpec(test=0.1), 1, "a spread needs 2 or more"),
        (SplitSpec(valid_from="2022-04-25", test_from="2022-04-26"), 3, "leave the first one no rows to train on"),
    ],
)
def test_too_many_folds_are_refused(spec: SplitSpec, count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        time_folds(TIMES, spec, count)
