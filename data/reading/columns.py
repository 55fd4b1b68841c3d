"""Strict conversion of raw columns: every value is what the schema says, or the message names its line.

Each function takes the whole column, tries the fast vectorised cast, and looks at single values only when that
fails. Bad values go to a `BadRows`, which raises or collects; under "drop" the returned array holds a placeholder
(0 or NaN) in the bad rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F32, F64, I64, AnyArray, Bool, Ints
from ...base.counting import first_places
from ...base.errors import DataError
from .clock import (
    EARLIEST_MS,
    FIRST_DAY,
    LAST_DAY,
    LATEST_MS,
    MODERN_MS,
    UNIT_NAMES,
    TimeUnit,
    calendar_days,
    in_utc,
    iso_stamps,
    median,
    mostly_numbers,
    to_ms,
    unit_of,
)
from .coded import Coded, coded
from .kinds import is_string, is_text
from .numbers import numbers_of, parse_flag, parse_int
from .stored import StoredTable
from .tables import BadRows, Tables, quote
from .text import missing_column_mend
from .texts import texts_of
from .written import written_stamps

LabelKind = Literal["binary", "duration", "number"]

LARGEST = float(np.finfo(np.float32).max)
_FINITE = "a number within ±3.4e38, or an empty value where there is none"


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


def as_codes(tables: Tables, name: str, column: str) -> Coded:
    """A column of text as distinct texts and numbers, see `as_strings`."""
    require_columns(tables, name, [column])
    kind = tables.table(name).schema.field(column).type
    where = f'{tables.origin[name]}: column "{column}"'
    return coded(lambda: raw_parts(tables, name, column), kind, tables.table(name).num_rows, where)


def as_ids(tables: Tables, name: str, column: str, bad: BadRows, *, unique: bool = False) -> Coded:
    """An id column: no id may be missing, and with `unique` (users, items) none may come twice."""
    ids = as_codes(tables, name, column)
    report_wrong(bad, tables, name, column, wrong=ids.codes < 0, expected="an id")
    if unique and len(ids.values) < len(ids):
        first = first_places(ids.codes, len(ids.values))
        again = np.flatnonzero((ids.codes >= 0) & (first[ids.codes] < np.arange(len(ids))))
        origin, codes = tables.origin[name], ids.codes[again]
        texts = ids.values.take(pa.array(codes)).to_pylist()
        found = [
            f"{quote(text)} again (first at {origin.find(int(first[code]))[1]})"
            for text, code in zip(texts, codes, strict=True)
        ]
        if found:
            expected = f"each id once in the {name} table"
            bad.add(name, origin, rows=again.tolist(), column=column, found=found, expected=expected)
    return ids


def as_choice(tables: Tables, name: str, column: str, choices: Sequence[str], bad: BadRows) -> Coded:
    """A column of text that must be one of `choices` in every row."""
    texts = as_codes(tables, name, column)
    wrong = ~texts.says(choices)
    report_wrong(bad, tables, name, column, wrong=wrong, expected=f"{', '.join(choices[:-1])} or {choices[-1]}")
    return texts


def as_int64(tables: Tables, name: str, column: str, bad: BadRows, *, expected: str = "a whole number") -> I64:
    """A column of whole numbers as int64 `[rows]`; "12", " 12", "12.0" and 12.0 count as whole, nothing does not."""
    numbers, wrong = _filled(
        column_parts(tables, name, column), tables.table(name).num_rows, parse_int, np.dtype(np.int64)
    )
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    return numbers


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
    large = np.zeros(tables.table(name).num_rows, dtype=bool)

    def check(numbers: F64, wrong: Bool, rows: slice) -> None:
        beyond = np.abs(numbers) > LARGEST
        if beyond.any():
            large[rows] = beyond
        if not allow_missing:
            wrong |= np.isnan(numbers)
        if minimum is not None:
            wrong |= numbers < minimum
        wrong &= ~beyond

    numbers, wrong = _filled(
        _number_parts(tables, name, column), tables.table(name).num_rows, float, np.dtype(np.float32), check
    )
    report_wrong(bad, tables, name, column, wrong=large, expected=_FINITE)
    expected += _comma(tables, name, column, wrong) if expected == "a number" else ""
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    return _without(numbers, wrong | large)


def as_float64(tables: Tables, name: str, column: str) -> F64:
    """A numeric column in full precision, `[rows]`; NaN where there is nothing, or nothing that is a number."""
    numbers, wrong = _filled(
        _number_parts(tables, name, column), tables.table(name).num_rows, float, np.dtype(np.float64), _finite
    )
    return _without(numbers, wrong)


def _finite(numbers: F64, wrong: Bool, rows: slice) -> None:
    """Infinite, or so in float32, is wrong: 1.8e308 stands for "nothing" in many tables."""
    del rows
    wrong |= np.abs(numbers) > LARGEST


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
    parse: Callable[[str], float] = parse_flag if kind == "binary" else float

    def check(numbers: F64, wrong: Bool, rows: slice) -> None:
        _finite(numbers, wrong, rows)
        if not allow_missing:
            wrong |= np.isnan(numbers)
        if kind == "binary":
            wrong |= ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
        elif kind == "duration":
            wrong |= numbers < 0

    numbers, wrong = _filled(
        _number_parts(tables, name, column), tables.table(name).num_rows, parse, np.dtype(np.float32), check
    )
    mend = "; for grades set at_least, for other words equals"
    expected += mend if kind == "binary" else _comma(tables, name, column, wrong)
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    return _without(numbers, wrong)


def as_time(tables: Tables, name: str, column: str, bad: BadRows, *, unit: TimeUnit = "auto") -> I64:
    """A time column as int64 milliseconds since 1970 UTC, `[rows]`.

    Numbers count from 1970 in `unit`; "auto" reads seconds, milliseconds, microseconds or nanoseconds off the size
    of the column's median, and takes a column of calendar days (20240131) for days. Text is written as the tables'
    `time_format` says, or an ISO date or date-time. What names no zone is of the tables' `time_zone`: texts, days, and
    types without one. A time before 1970 or after 2200 is bad: it is a time in another
    unit more often than a time. So is one of the first weeks of 1970 where the median is later than 1985: seconds among
    milliseconds, or 0 for no time.
    """
    expected = "a whole number of seconds or an ISO date"
    notation, kind = tables.notation, _type(tables, name, column)
    text = is_string(kind)
    if text and notation.time_format:
        expected = f'a time written as time_format = "{notation.time_format}", or an ISO date'
    iso = text and not notation.time_format and not mostly_numbers(column_parts(tables, name, column))
    typed = pa.types.is_date(kind) or pa.types.is_timestamp(kind)

    def numbers(part: pa.Array) -> pa.Array:
        if typed:
            zone = "" if getattr(kind, "tz", None) else notation.time_zone
            return in_utc(pc.cast(pc.cast(part, pa.timestamp("us")), pa.int64()), "us", zone)
        if text and notation.time_format:
            return written_stamps(part, notation)
        return iso_stamps(part, notation.time_zone) if iso else part

    unit = "us" if typed else "ms" if iso or (text and notation.time_format) else unit
    parts = map(numbers, column_parts(tables, name, column))
    moments, wrong = _filled(parts, tables.table(name).num_rows, parse_int, np.dtype(np.int64))
    if unit == "auto":
        middle = median(moments, wrong)
        unit = unit_of(middle)
        if FIRST_DAY <= middle <= LAST_DAY:  # as seconds they would all lie in 1970
            days, valid = calendar_days(moments)
            if 2 * (valid & ~wrong).sum() > (~wrong).sum():
                midnight = in_utc(pa.array(days), "ms", tables.notation.time_zone).to_numpy(zero_copy_only=False)
                moments, unit, wrong, expected = np.array(midnight), "ms", wrong | ~valid, "a calendar day"
    report_wrong(bad, tables, name, column, wrong=wrong, expected=expected)
    to_ms(moments, unit)
    outside = ~wrong & ((moments < 0) | (moments > LATEST_MS))
    expected = f"a time between 1970 and 2200 in {UNIT_NAMES[unit]}"
    report_wrong(bad, tables, name, column, wrong=outside, expected=expected)
    wrong |= outside
    if not wrong.all() and median(moments, wrong) >= MODERN_MS:
        early = ~wrong & (moments < EARLIEST_MS)
        expected = f"a time in {UNIT_NAMES[unit]} like most others (in that unit it lies in early 1970)"
        report_wrong(bad, tables, name, column, wrong=early, expected=expected)
        wrong |= early
    moments[wrong] = 0
    return moments


def _filled(
    parts: Iterable[pa.Array],
    rows: int,
    parse: Callable[[str], float],
    kind: np.dtype[Any],
    check: Callable[[F64, Bool, slice], None] | None = None,
) -> tuple[AnyArray, Bool]:
    """Numbers of a column `[rows]`, and the mask of those that are none, part by part.

    Args:
        parts: the column.
        rows: of all parts.
        parse: reads a text that is no plain number.
        kind: of the array.
        check: marks more numbers of a part as wrong, given the part's rows.
    """
    filled, wrong = np.empty(rows, dtype=kind), np.zeros(rows, dtype=bool)  # pages of zeros cost nothing until written
    at = 0
    for part in parts:
        place = slice(at, at := at + len(part))
        numbers, none = numbers_of(part, parse, pa.int64() if kind.kind == "i" else pa.float64())
        found = np.zeros(len(part), dtype=bool) if none is None else none
        if check is not None:
            check(numbers, found, place)
        if found.any():
            wrong[place] = found
        with np.errstate(over="ignore"):
            filled[place] = numbers
    return filled, wrong


def _without(numbers: AnyArray, wrong: Bool) -> AnyArray:
    """The numbers, NaN where they are wrong."""
    if wrong.any():
        numbers[wrong] = np.nan
    return numbers


def column_parts(tables: Tables, name: str, column: str) -> Iterator[pa.Array]:
    """The column in parts of at most `tables.step` rows, dictionary representation undone."""
    for part in raw_parts(tables, name, column):
        yield part.dictionary_decode() if pa.types.is_dictionary(part.type) else part


def raw_parts(tables: Tables, name: str, column: str) -> Iterator[pa.Array]:
    """The column as it was read, in parts of at most `tables.step` rows."""
    require_columns(tables, name, [column])
    table = tables.table(name)
    if isinstance(table, StoredTable):
        yield from table.parts(column, tables.step)
        return
    for chunk in _column(tables, name, column).chunks:
        yield from (chunk.slice(start, tables.step) for start in range(0, len(chunk), tables.step))


def _type(tables: Tables, name: str, column: str) -> pa.DataType:
    """Type of the column's values."""
    require_columns(tables, name, [column])
    kind = tables.table(name).schema.field(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _column(tables: Tables, name: str, column: str) -> pa.ChunkedArray:
    """The whole column as it was read."""
    require_columns(tables, name, [column])
    values = tables.table(name).column(column)
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def column_chunks(tables: Tables, name: str, column: str) -> pa.ChunkedArray:
    """The whole column, dictionary representation undone."""
    values = _column(tables, name, column)
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def column_values(tables: Tables, name: str, column: str) -> pa.Array:
    """The column as one contiguous array, dictionary and NaN-for-null representations undone."""
    return column_chunks(tables, name, column).combine_chunks()


def _number_parts(tables: Tables, name: str, column: str) -> Iterable[pa.Array]:
    """The column in parts, its decimals behind a point."""
    parts = column_parts(tables, name, column)
    points = tables.notation.decimal != "." and is_string(_type(tables, name, column))
    return map(_with_points, parts) if points else parts


def _with_points(values: pa.Array) -> pa.Array:
    grouped = pc.match_substring_regex(values, r"^\s*[-+]?[1-9]\d{0,2}(\.\d{3})+\s*$")  # 1.234 may be a thousand
    return pc.if_else(grouped, "", pc.replace_substring_regex(values, r"^(\s*[-+]?\d+),(\d+\s*)$", r"\1.\2"))


def _comma(tables: Tables, name: str, column: str, wrong: Bool) -> str:
    """What to say of wrong values (a mask over the column) that would be numbers with the other decimal mark."""
    if not wrong.any():
        return ""
    values = _values_at(tables, name, column, np.flatnonzero(wrong))
    if not is_text(values):
        return ""
    odd = pc.match_substring_regex(values, r"^\s*[-+]?[\d.,]*\d[.,]\d+\s*$")
    if not pc.any(odd).as_py():
        return ""
    if tables.notation.decimal == ",":
        return ", its decimals behind a comma and its thousands not parted"
    return ', its thousands not parted; where decimals stand behind a comma set decimal = ","'


def report_wrong(bad: BadRows, tables: Tables, name: str, column: str, *, wrong: Bool, expected: str) -> None:
    """Hand the rows that `wrong` (`[rows]`) marks to `bad`, quoting what stands there."""
    if not wrong.any():
        return
    rows = np.flatnonzero(wrong)
    found = [quote(value) for value in _values_at(tables, name, column, rows).to_pylist()]
    bad.add(name, tables.origin[name], rows=rows.tolist(), column=column, found=found, expected=expected)


def _values_at(tables: Tables, name: str, column: str, rows: Ints) -> pa.ChunkedArray:
    """What stands in some rows of a column, int [n] ascending; the parts without any are read and let go."""
    found, at = [], 0
    for part in column_parts(tables, name, column):
        low, high = np.searchsorted(rows, (at, at + len(part)))
        if high > low:
            found.append(part.take(pa.array(rows[low:high] - at)))
        at += len(part)
    return pa.chunked_array(found)
