"""Which rows train, which choose, which report. Nothing from after a cut ever crosses it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import F64, I64, Ints
from ..base.errors import ConfigError, DataError
from .reading.coded import Coded
from .split_spec import SplitSpec


class Part(IntEnum):
    """Part of a row. PRIOR rows precede the log: they enter histories and counts, never losses or metrics."""

    PRIOR = -1
    TRAIN = 0
    VALID = 1
    TEST = 2


PART_NAMES = ("train", "valid", "test")


def part_of(name: str) -> Part:
    """`train`, `valid` or `test` as a Part."""
    try:
        return Part[name.upper()]
    except KeyError:
        raise ConfigError(f'"{name}" is no part of the data; expected train, valid or test') from None


def assign_parts(
    spec: SplitSpec,
    *,
    users: Ints | None,
    times: F64 | None,
    named: Coded | None,
    strata: Ints | None,
    rows: int,
    seed: int,
    cuts: tuple[float | None, float | None] = (None, None),
) -> NDArray[np.int8]:
    """Part of every row, int8 [R].

    Args:
        spec: how to split.
        users: int [R] user row, rows sorted by (user, time, file order); needed by `leave_last`.
        times: float [R] seconds; needed by `time`.
        named: what the split column says in each row, R; needed by `column`.
        strata: int [R] stratum of each row for `random` and `halve_test`, or None.
        rows: R.
        seed: of the draws.
        cuts: start of validation and of test in seconds where the spec gives dates.

    Raises:
        ConfigError: the split needs a column the data has not.
        DataError: a part would be empty.
    """
    if spec.kind == "time":
        if times is None:
            raise ConfigError('split kind "time" needs a time column: set data.time, or choose split kind "random"')
        parts = _by_time(spec, times, cuts)
    elif spec.kind == "leave_last":
        if users is None:
            raise ConfigError('split kind "leave_last" needs users: set data.user, or choose split kind "random"')
        parts = _leave_last(users)
    elif spec.kind == "random":
        parts = np.full(rows, Part.TRAIN, dtype=np.int8)
        order, share = _strata_order(rows, strata, np.random.default_rng(seed))
        parts[order[share >= 1.0 - spec.test - spec.valid]] = Part.VALID
        parts[order[share >= 1.0 - spec.test]] = Part.TEST
    else:
        parts = _by_column(spec, named, strata, seed)
    for part in (Part.TRAIN, Part.TEST):
        if not (parts == part).any():
            raise DataError(
                f"the {part.name.lower()} part is empty after the {spec.kind} split of {rows:,} rows; "
                "change [data.split]"
            )
    return parts


def moment(key: str, text: str, zone: str = "") -> float | None:
    """Epoch seconds of a configured date, of the clock of a zone where it names none; None when empty."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f'data.split.{key} = "{text}" is no date; expected ISO (2022-05-04 or 2022-05-04T00:00+08:00) or seconds'
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone) if zone else UTC)).timestamp()


def _by_time(spec: SplitSpec, times: F64, cuts: tuple[float | None, float | None]) -> NDArray[np.int8]:
    valid_from, test_from = cuts
    if valid_from is None or test_from is None:
        shares = np.quantile(times, (1.0 - spec.valid - spec.test, 1.0 - spec.test))
        valid_from = float(shares[0]) if valid_from is None else valid_from
        test_from = float(shares[1]) if test_from is None else test_from
    if valid_from > test_from:
        raise ConfigError(f"validation starts at {valid_from:.0f}, after test at {test_from:.0f}; swap the dates")
    parts = np.full(len(times), Part.TRAIN, dtype=np.int8)
    parts[times >= valid_from] = Part.VALID
    parts[times >= test_from] = Part.TEST
    return parts


def _leave_last(users: Ints) -> NDArray[np.int8]:
    """Each user's last row tests, the one before validates; users with fewer than three rows train only."""
    rows = len(users)
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    starts = np.append(0, ends[:-1] + 1)
    long_enough = ends[(ends - starts) >= 2]
    parts = np.full(rows, Part.TRAIN, dtype=np.int8)
    parts[long_enough] = Part.TEST
    parts[long_enough - 1] = Part.VALID
    return parts


def _strata_order(rows: int, strata: Ints | None, rng: np.random.Generator) -> tuple[I64, F64]:
    """A random order within each stratum, and each ordered row's position in its stratum as a share in [0, 1)."""
    key = rng.random(rows)
    groups = np.zeros(rows, dtype=np.int64) if strata is None else strata
    order = np.lexsort((key, groups))
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    position = np.arange(rows) - starts[groups[order]]
    return order, position / sizes[groups[order]]


def _by_column(spec: SplitSpec, named: Coded | None, strata: Ints | None, seed: int) -> NDArray[np.int8]:
    if named is None:
        raise ConfigError('split kind "column" needs data.split.column, the column that names each row\'s part')
    values = named.values.to_pylist()
    strange = sorted(set(values) - set(PART_NAMES))
    if strange:
        raise DataError(f'column "{spec.column}" holds "{strange[0]}"; expected only {", ".join(PART_NAMES)}')
    parts = np.asarray([part_of(value) for value in values], dtype=np.int8)[named.codes]
    if spec.halve_test:
        tests = np.flatnonzero(parts == Part.TEST)
        order, share = _strata_order(len(tests), None if strata is None else strata[tests], np.random.default_rng(seed))
        parts[tests[order[share < 0.5]]] = Part.VALID
    return parts
