"""Strict conversion of raw columns: every value is what the schema says, or the message names its line.

Each function takes the whole column, tries the fast vectorised cast, and looks at single values only when that
fails. Bad values go to a `BadRows`, which raises or collects; under "drop" the returned array holds a placeholder
(0 or NaN) in the bad rows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F32, F64, I64, AnyArray, Bool
from ...base.errors import DataError
from .tables import BadRows, Tables, quote
from .text import missing_column_mend

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
LabelKind = Literal["binary", "duration", "number"]

_LARGEST = float(np.finfo(np.float32).max)
_SLASHES = re.compile(r"^(\d{4})/(\d\d)/(\d\d)")
_NAMED_UTC = re.compile(r" ?(UTC|GMT)$")
_FLAGS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
_FINITE = "a number within ±3.4e38, or an empty value where there is none"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_LATEST_MS = 7_258_118_400_000
"""2200-01-01: a later time is taken for one in another unit."""
_EARLIEST_MS = _LATEST_MS // 1_000
"""1970-03-26: seconds up to the year 2200, read as milliseconds, lie before it."""
_MODERN_MS = 473_385_600_000
"""1985-01-01: a column whose median is later counts from 1970, and not from its own beginning."""


def require_columns(tables: Tables, name: str, columns: Iterable[str]) -> None:
    """Raise DataError for the first of `columns` that table `name` lacks, naming those it has."""
    present = tables.table(name).column_names
    for column in columns:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f'; did you mean "{close[0]}"?' if close else f"; {missing_column_mend(present)}"
            raise DataError(
                f'{tables.origin[name]}: no column "{column}" in the {name} table, which has {", ".join(present)}{hint}'
            )


def as_strings(tables: Tables, name: str, column: str) -> pa.Array:
    """A column as text, missing values as null; whole floats lose their ".0", so that 4.0 and "4" are one id."""
    return texts_of(column_values(tables, name, column), f'{tables.origin[name]}: column "{column}"')


def texts_of(values: pa.Array, where: str) -> pa.Array:
    """Values as text, see `as_strings`; `where` begins the message about values that have no text."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        whole = _whole(values)
        values = pc.if_else(pc.is_nan(values), None, values) if whole is None else whole
    if pa.types.is_string(values.type):
        return values
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise DataError(
            f'{where} holds {values.type}, expected text or numbers; declare its feature kind = "multi" (several '
            'values) or "vector" (numbers of one length), or leave the column out'
        ) from None


def as_ids(tables: Tables, name: str, column: str, bad: BadRows, *, unique: bool = False) -> pa.Array:
    """An id column as text: no id may be missing, and with `unique` (users, items) none may come twice."""
    ids = as_strings(tables, name, column)
    missing = pc.is_null(ids).to_numpy(zero_copy_only=False)
    report_wrong(bad, tables, name, column, wrong=missing, expected="an id")
    if unique:
        first: dict[str, int] = {}
        rows, found = [], []
        if pc.count_distinct(ids).as_py() < len(ids):
            for row, value in enumerate(ids.to_pylist()):
                if value is None:
                    continue
                if value in first:
                    rows.append(row)
                    at = tables.origin[name].find(first[value])[1]
                    found.append(f"{quote(value)} again (first at {at})")
                first.setdefault(value, row)
        if rows:
            expected = f"each id once in the {name} table"
            bad.add(name, tables.origin[name], rows=rows, column=column, found=found, expected=expected)
    return ids


def as_choice(tables: Tables, name: str, column: str, choices: Sequence[str], bad: BadRows) -> pa.Array:
    """A column of text that must be one of `choices` in every row."""
    texts = as_strings(tables, name, column)
    known = pc.fill_null(pc.is_in(texts, value_set=pa.array(choices)), False).to_numpy(zero_copy_only=False)
    report_wrong(bad, tables, name, column, wrong=~known, expected=f"{', '.join(choices[:-1])} or {choices[-1]}")
    return texts


def as_int64(tables: Tables, name: str, column: str, bad: BadRows, *, expected: str = "a whole number") -> I64:
    """A column of whole numbers as int64 `[rows]`; "12", " 12", "12.0" and 12.0 count as whole, nothing does not."""
    numbers, wrong = _numbers(column_values(tables, name, column), _parse_int, pa.int64())
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    return np.array(numbers, dtype=np.int64)  # a copy: what Arrow lends is read-only


def as_float32(
    tables: Tables,
    name: str,
    column: str,
    bad: BadRows,
    *,
    allow_missing: bool = True,
    minimum: float | None = None,
    expected: str = "a number",
) -> F32:
    """A numeric column as float32 `[rows]`; missing values (null, "nan") become NaN; infinity, and what float32 makes
    infinite, is an error.

    Args:
        allow_missing: False makes a missing value a bad row.
        minimum: smallest allowed value.
        expected: what the message says should have stood there.
    """
    numbers, wrong = _finite(tables, name, column)
    report_wrong(bad, tables, name, column, wrong=_too_large(numbers), expected=_FINITE)
    if not allow_missing:
        wrong |= np.isnan(numbers)
    if minimum is not None:
        wrong |= numbers < minimum
    wrong &= ~_too_large(numbers)
    expected += _comma(tables, column_values(tables, name, column), wrong) if expected == "a number" else ""
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    wrong |= _too_large(numbers)
    return np.where(wrong, np.nan, numbers).astype(np.float32)


def as_float64(tables: Tables, name: str, column: str) -> F64:
    """A numeric column in full precision, `[rows]`; NaN where there is nothing, or nothing that is a number."""
    numbers, wrong = _finite(tables, name, column)
    return np.where(wrong, np.nan, numbers)


def _finite(tables: Tables, name: str, column: str) -> tuple[F64, Bool]:
    """Numbers `[rows]`, NaN where missing, and the mask of values that are no finite number."""
    numbers, wrong = _numbers(_number_values(tables, name, column), float, pa.float64())
    return numbers, wrong | _too_large(numbers)


def _too_large(numbers: F64) -> Bool:
    """Infinite, or so in float32: 1.8e308 stands for "nothing" in many tables."""
    return np.abs(numbers) > _LARGEST


def as_labels(
    tables: Tables,
    name: str,
    column: str,
    bad: BadRows,
    *,
    kind: LabelKind = "binary",
    allow_missing: bool = False,
) -> F32:
    """A label column as float32 `[rows]`; `binary` must be 0 or 1 (or true, false, yes, no, their first
    letters), `duration` not negative.

    With `allow_missing` a null is an unobserved label and becomes NaN; else it is a bad row.
    """
    expected = {"binary": "0 or 1", "duration": "a duration of 0 or more", "number": "a number"}[kind]
    values = _number_values(tables, name, column)
    parse: Callable[[str], float] = _parse_flag if kind == "binary" else float
    numbers, wrong = _numbers(values, parse, pa.float64())
    wrong |= _too_large(numbers)
    if not allow_missing:
        wrong |= np.isnan(numbers)
    if kind == "binary":
        wrong |= ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
    elif kind == "duration":
        wrong |= numbers < 0
    mend = "; for grades set at_least, for other words equals"
    expected += mend if kind == "binary" else _comma(tables, column_values(tables, name, column), wrong)
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    return np.where(wrong, np.nan, numbers).astype(np.float32)


def as_time(tables: Tables, name: str, column: str, bad: BadRows, *, unit: TimeUnit = "auto") -> I64:
    """A time column as int64 milliseconds since 1970 UTC, `[rows]`.

    Numbers count from 1970 in `unit`; "auto" reads seconds, milliseconds, microseconds or nanoseconds off the size
    of the column's median, and takes a column of calendar days (20240131) for days. Text is an ISO
    date or date-time, UTC where it names no zone. A time before 1970 or after 2200 is bad: it is a time in another
    unit more often than a time. So is one of the first weeks of 1970 where the median is later than 1985: seconds among
    milliseconds, or 0 for no time.
    """
    values = column_values(tables, name, column)
    expected = "a whole number of seconds or an ISO date"
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        values_ms, unit = pc.cast(pc.cast(values, pa.timestamp("us")), pa.int64()), "us"
    elif _is_text(values) and (stamps := _iso_stamps(values)) is not None:
        values_ms, unit = stamps, "ms"
    else:
        values_ms = values
    numbers, wrong = _numbers(values_ms, _parse_int, pa.int64())
    if unit == "auto":
        good = ~wrong
        days, valid = _calendar_days(numbers)
        if 2 * (valid & good).sum() > good.sum():  # as seconds they would all lie in 1970
            numbers, unit, wrong, expected = days, "ms", wrong | ~valid, "a calendar day"
        else:
            unit = _unit_of(float(np.median(numbers[good])) if good.any() else 0.0)
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    milliseconds = _to_ms(numbers, unit)
    outside = ~wrong & ((milliseconds < 0) | (milliseconds > _LATEST_MS))
    report_wrong(
        bad, tables, name, column, wrong=outside, expected=f"a time between 1970 and 2200 in {_UNIT_NAMES[unit]}"
    )
    wrong |= outside
    if not wrong.all() and np.median(milliseconds[~wrong]) >= _MODERN_MS:
        early = ~wrong & (milliseconds < _EARLIEST_MS)
        expected = f"a time in {_UNIT_NAMES[unit]} like most others (in that unit it lies in early 1970)"
        report_wrong(bad, tables, name, column, wrong=early, expected=expected)
        wrong |= early
    return np.where(wrong, 0, milliseconds).astype(np.int64)


def column_values(tables: Tables, name: str, column: str) -> pa.Array:
    """The column as one contiguous array, dictionary and NaN-for-null representations undone."""
    require_columns(tables, name, [column])
    values = tables.table(name).column(column)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _number_values(tables: Tables, name: str, column: str) -> pa.Array:
    """The column, its decimals behind a point."""
    values = column_values(tables, name, column)
    if tables.decimal == "." or not _is_text(values):
        return values
    grouped = pc.match_substring_regex(values, r"^\s*[-+]?[1-9]\d{0,2}(\.\d{3})+\s*$")  # 1.234 may be a thousand
    return pc.if_else(grouped, "", pc.replace_substring_regex(values, r"^(\s*[-+]?\d+),(\d+\s*)$", r"\1.\2"))


def _comma(tables: Tables, values: pa.Array, wrong: Bool) -> str:
    """What to say of wrong values (a mask over `values`) that would be numbers with the other decimal mark."""
    if not wrong.any() or not _is_text(values):
        return ""
    odd = pc.match_substring_regex(values.filter(pa.array(wrong)), r"^\s*[-+]?[\d.,]*\d[.,]\d+\s*$")
    if not pc.any(odd).as_py():
        return ""
    if tables.decimal == ",":
        return ", its decimals behind a comma and its thousands not parted"
    return ', its thousands not parted; where decimals stand behind a comma set decimal = ","'


def _is_text(values: pa.Array) -> bool:
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def _whole(values: pa.Array) -> pa.Array | None:
    """Floats that are all whole (or missing) as int64, else None."""
    plain = values.to_numpy(zero_copy_only=False).astype(np.float64)
    there = ~np.isnan(plain)
    if not np.array_equal(plain[there], np.trunc(plain[there])) or np.any(np.abs(plain[there]) > 2**53):
        return None
    return pa.array(np.where(there, plain, 0).astype(np.int64), mask=~there)


def _numbers(values: pa.Array, parse: Callable[[str], float], target: Any) -> tuple[AnyArray, Bool]:
    """Numbers `[rows]` and the mask of those that are none; nulls are NaN for floats and wrong for integers."""
    integer = pa.types.is_integer(target)
    if _is_text(values):
        try:
            numbers = pc.cast(values, target)
        except pa.ArrowInvalid:
            return _numbers_one_by_one(values.to_pylist(), parse, integer)
    elif pa.types.is_boolean(values.type):
        numbers = pc.cast(pc.cast(values, pa.int8()), target)
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        try:
            numbers = pc.cast(values, target)
        except pa.ArrowInvalid:  # 1.5 or NaN asked for as integer, or a uint64 beyond int64
            return _numbers_one_by_one(
                [quote(v) if v is not None else None for v in values.to_pylist()], parse, integer
            )
    else:
        return np.zeros(len(values), np.int64 if integer else np.float64), np.ones(len(values), dtype=bool)
    missing = pc.is_null(numbers).to_numpy(zero_copy_only=False)
    plain = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    if integer:
        return plain, missing
    return np.where(missing, np.nan, plain), np.zeros(len(values), dtype=bool)


def _numbers_one_by_one(
    values: list[str | None], parse: Callable[[str], float], integer: bool
) -> tuple[AnyArray, Bool]:
    """The slow path, taken only when some value resisted the vectorised cast."""
    numbers = np.zeros(len(values), np.int64 if integer else np.float64)
    wrong = np.zeros(len(values), dtype=bool)
    for row, text in enumerate(values):
        if text is None:
            if integer:
                wrong[row] = True
            else:
                numbers[row] = np.nan
            continue
        try:
            numbers[row] = parse(text)
        except (ValueError, OverflowError):
            wrong[row] = True
    return numbers, wrong


def _parse_int(text: str) -> int:
    whole, dot, rest = text.strip().partition(".")
    if dot and rest.strip("0"):
        raise ValueError(text)
    return int(whole)


def _parse_flag(text: str) -> float:
    flag = _FLAGS.get(text.strip().lower())
    return float(text) if flag is None else flag


def _iso_stamps(values: pa.Array) -> pa.Array | None:
    """Text dates as int64 milliseconds with null where a text is no date; None for a column of numbers."""
    numeric = pc.sum(pc.match_substring_regex(values, r"^\s*-?[0-9.]+\s*$")).as_py() or 0
    if 2 * numeric >= len(values) - values.null_count:
        return None  # a date among numbers is the odd one out, not they
    try:
        return pc.cast(pc.cast(values, pa.timestamp("ms")), pa.int64())
    except pa.ArrowInvalid:
        return pa.array([_iso_stamp(text) for text in values.to_pylist()], pa.int64())


def _iso_stamp(text: str | None) -> int | None:
    if text is None or text.strip().isdigit():
        return None
    text = _SLASHES.sub(r"\1-\2-\3", text.strip())
    try:
        moment = datetime.fromisoformat(_NAMED_UTC.sub("+00:00", text))
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _calendar_days(numbers: I64) -> tuple[I64, Bool]:
    """Numbers read as year, month and day (20240131): milliseconds `[rows]`, and which of them are such days."""
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    valid = (year >= 1970) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    first = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = first.astype("datetime64[D]") + np.where(valid, day - 1, 0)
    valid &= days.astype("datetime64[M]") == first  # there is no 30 February
    milliseconds: I64 = days.astype("datetime64[ms]").astype(np.int64)
    return milliseconds, valid


def _unit_of(size: float) -> TimeUnit:
    """Unit of an epoch number by its size: 1e11 s lie beyond the year 5000, 1e11 ms in 1973."""
    size = abs(size)
    if size < 1e11:
        return "s"
    return "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def _to_ms(numbers: AnyArray, unit: TimeUnit) -> I64:
    rate = _PER_SECOND[unit]
    if rate >= 1_000:
        scaled: I64 = numbers // (rate // 1_000)
        return scaled
    bound = _LATEST_MS // 1_000 + 1  # keeps an absurd number absurd instead of letting it overflow
    milliseconds: I64 = np.clip(numbers, -1, bound) * 1_000
    return milliseconds


def report_wrong(bad: BadRows, tables: Tables, name: str, column: str, *, wrong: Bool, expected: str) -> None:
    """Hand the rows that `wrong` (`[rows]`) marks to `bad`, quoting what stands there."""
    if not wrong.any():
        return
    rows = np.flatnonzero(wrong)
    found = [quote(v) for v in column_values(tables, name, column).take(pa.array(rows)).to_pylist()]
    bad.add(name, tables.origin[name], rows=rows.tolist(), column=column, found=found, expected=expected)
