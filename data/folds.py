"""Successive cuts in time: what a model trained at several moments of the log would have met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.arrays import F64, Bool
from ..base.errors import ConfigError, DataError
from .split import moment
from .split_spec import SplitSpec


@dataclass(frozen=True, slots=True)
class Fold:
    """One cut: rows before `valid_from` train, those before `test_from` choose, those before `end` report.

    Attributes:
        valid_from: start of validation, seconds since 1970.
        test_from: start of test.
        end: rows from here on do not exist for this fold; infinite for the last one.
    """

    valid_from: float
    test_from: float
    end: float

    def rows(self, times: F64) -> Bool:
        """Which rows of times `[R]` exist for this fold."""
        return times < self.end

    def split(self) -> SplitSpec:
        """The split of this fold's rows; the cuts in full precision."""
        return SplitSpec(kind="time", valid_from=repr(self.valid_from), test_from=repr(self.test_from))


def time_folds(times: F64, split: SplitSpec, count: int, zone: str = "") -> tuple[Fold, ...]:
    """Folds whose tests follow one another and end with the log; the last fold is the configured time split.

    Each trains on everything before its validation (a growing window). With dates, tests and validations last as long
    as the configured ones; else they have the configured shares of the rows.

    Args:
        times: float [R] seconds since 1970.
        split: the configured split; of another kind than `time` only the shares count.
        count: number of folds.
        zone: of the configured dates that name none.

    Raises:
        ConfigError: fewer than two folds, or the first would have nothing to train on.
        DataError: no row has a time.
    """
    if count < 2:
        raise ConfigError(f"{count} folds were asked for; a spread needs 2 or more")
    if not len(times):
        raise DataError("the events have no rows to cut in time")
    dated = split.kind == "time" and bool(split.test_from)
    folds = _by_duration(times, split, count, zone) if dated else _by_share(times, split, count)
    if folds[0].valid_from <= times.min():
        raise ConfigError(
            f"{count} folds leave the first one no rows to train on; lower --folds or the validation and test parts "
            "of [data.split]"
        )
    return folds


def _by_share(times: F64, split: SplitSpec, count: int) -> tuple[Fold, ...]:
    first = 1.0 - split.valid - count * split.test
    if split.test <= 0 or first <= 0:
        raise ConfigError(
            f"{count} folds with test = {split.test:g} and valid = {split.valid:g} of the rows leave "
            f"{max(first, 0.0):.0%} to train the first on; lower --folds or data.split.test, above 0"
        )
    folds = []
    for later in range(count - 1, -1, -1):
        starts = 1.0 - split.valid - (later + 1) * split.test, 1.0 - (later + 1) * split.test
        end = float(np.quantile(times, 1.0 - later * split.test)) if later else float("inf")
        valid_from, test_from = (float(np.quantile(times, share)) for share in starts)
        folds.append(Fold(valid_from, test_from, end))
    return tuple(folds)


def _by_duration(times: F64, split: SplitSpec, count: int, zone: str) -> tuple[Fold, ...]:
    test_from = moment("test_from", split.test_from, zone)
    assert test_from is not None
    valid_from = moment("valid_from", split.valid_from, zone)
    if valid_from is None:
        valid_from = float(np.quantile(times, 1.0 - split.valid - split.test))
    tested = float(times.max()) - test_from
    folds = []
    for later in range(count - 1, -1, -1):
        back = later * tested
        folds.append(Fold(valid_from - back, test_from - back, test_from - back + tested if later else float("inf")))
    return tuple(folds)
