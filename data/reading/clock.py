"""Numbers and texts as moments: units of epoch numbers, calendar days, ISO dates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64, AnyArray, Bool
from ...base.counting import STEP, rises

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LATEST_MS = 7_258_118_400_000
"""2200-01-01: a later time is taken for one in another unit."""
EARLIEST_MS = LATEST_MS // 1_000
"""1970-03-26: seconds up to the year 2200, read as milliseconds, lie before it."""
MODERN_MS = 473_385_600_000
"""1985-01-01: a column whose median is later counts from 1970, and not from its own beginning."""
FIRST_DAY, LAST_DAY = 19_700_101, 21_991_231
"""Calendar days that are moments, as numbers."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_SLASHES = re.compile(r"^(\d{4})/(\d\d)/(\d\d)")
_NAMED_UTC = re.compile(r" ?(UTC|GMT)$")
_PLAIN = r"^(19[7-9]|20\d|21\d)\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])( ([01]\d|2[0-3]):[0-5]\d:[0-5]\d)?$"
"""Dates that the cast takes for sure."""


def mostly_numbers(parts: Iterable[pa.Array]) -> bool:
    """Whether most texts of a column are numbers: a date among them is the odd one out, not they."""
    numeric = texts = 0
    for part in parts:
        numeric += pc.sum(pc.match_substring_regex(part, r"^\s*-?[0-9.]+\s*$")).as_py() or 0
        texts += len(part) - part.null_count
    return 2 * numeric >= texts


def in_utc(stamps: pa.Array, unit: Literal["ms", "us"], zone: str) -> pa.Array:
    """Stamps of the clock of a zone as stamps of UTC, int64; an hour that the clock has twice is the earlier one."""
    if not zone:
        return stamps
    local = pc.cast(stamps, pa.timestamp(unit))
    return pc.cast(pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest"), pa.int64())


def milliseconds(moment: datetime, zone: str) -> int:
    """Since 1970 UTC; a moment that names no zone is of the clock of `zone`, UTC when empty."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone) if zone else UTC)
    return round(moment.timestamp() * 1000)


def iso_stamps(values: pa.Array, zone: str = "") -> pa.Array:
    """Text dates as int64 milliseconds, null where a text is no date: one by one only those that resist the cast.

    Args:
        values: text.
        zone: of dates that name none; UTC when empty.
    """
    try:
        return in_utc(pc.cast(pc.cast(values, pa.timestamp("ms")), pa.int64()), "ms", zone)
    except pa.ArrowInvalid:
        plain = pc.fill_null(pc.match_substring_regex(values, _PLAIN), False)
    stamps = pc.cast(pc.cast(pc.if_else(plain, values, None), pa.timestamp("ms")), pa.int64())
    stamps = in_utc(stamps, "ms", zone)
    rows = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    found = pa.array([iso_stamp(text, zone) for text in values.take(pa.array(rows)).to_pylist()], pa.int64())
    return pc.replace_with_mask(stamps, pc.invert(plain), found)


def iso_stamp(text: str | None, zone: str) -> int | None:
    """One text date as milliseconds; None where it is none."""
    if text is None or text.strip().isdigit():
        return None
    text = _SLASHES.sub(r"\1-\2-\3", text.strip())
    try:
        moment = datetime.fromisoformat(_NAMED_UTC.sub("+00:00", text))
    except ValueError:
        return None
    return milliseconds(moment, zone)


def calendar_days(numbers: I64) -> tuple[I64, Bool]:
    """Numbers read as year, month and day (20240131): milliseconds `[rows]`, and which of them are such days."""
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    valid = (year >= 1970) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    first = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = first.astype("datetime64[D]") + np.where(valid, day - 1, 0)
    valid &= days.astype("datetime64[M]") == first  # there is no 30 February
    milliseconds: I64 = days.astype("datetime64[ms]").astype(np.int64)
    return milliseconds, valid


def median(numbers: I64, wrong: Bool) -> float:
    """Median of the numbers that are not wrong, 0 where all are; without a sort where they rise."""
    good = numbers[~wrong] if wrong.any() else numbers
    if not len(good):
        return 0.0
    if rises(good):
        return float(np.mean(good[(len(good) - 1) // 2 : len(good) // 2 + 1]))
    return float(np.median(good))


def unit_of(size: float) -> TimeUnit:
    """Unit of an epoch number by its size: 1e11 s lie beyond the year 5000, 1e11 ms in 1973."""
    size = abs(size)
    if size < 1e11:
        return "s"
    return "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def to_ms(numbers: AnyArray, unit: TimeUnit) -> None:
    """Turn numbers of a unit into milliseconds, in place."""
    rate = _PER_SECOND[unit]
    for start in range(0, len(numbers) if rate != 1_000 else 0, STEP):
        part = numbers[start : start + STEP]
        if rate > 1_000:
            part //= rate // 1_000
        else:  # the bound keeps an absurd number absurd instead of letting it overflow
            np.clip(part, -1, LATEST_MS // 1_000 + 1, out=part)
            part *= 1_000
