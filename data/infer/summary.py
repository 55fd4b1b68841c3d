"""What stands in a column: its kind, its distinct values, and whether they are numbers, times or lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..reading.kinds import is_list
from ..reading.written import formats_of

ColumnKind = Literal["number", "text", "flag", "moment", "list", "other"]
Summaries = Mapping[str, "ColumnSummary"]
"""Columns of one table by name."""

_SAMPLE = 400
_EPOCH = (631_152_000.0, 2_208_988_800.0)
"""1990 and 2040 in seconds: numbers between them, or 10^3, 10^6, 10^9 times as large, may be times."""
_SCALES = (1.0, 1e3, 1e6, 1e9)
_STRANGE = 0.01
"""Share of a column of times that may hold none, such as 0 in rows whose time got lost."""
_SEPARATORS = "|;, "
_DECIMAL_COMMA = r"^\s*[-+]?\d+(,\d+)?\s*$"
_DAY_FIRST = re.compile(r"^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b|^\d{4}[./]\d{1,2}[./]\d{1,2}\b")


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a table.

    Attributes:
        name: column name.
        values: the column, missing values as null; text stays text.
        kind: `number` (text whose every value is a number, too), `text`, `flag` (bool), `moment` (a date or time
            type), `list`, or `other` (nested types, which no feature reads).
        decimal_comma: the numbers are written with a comma.
        time_format: how times of the table are said to be written.
    """

    name: str
    values: pa.Array
    kind: ColumnKind
    decimal_comma: bool = False
    time_format: str = ""

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.values)

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return int(self.values.null_count)

    @cached_property
    def counts(self) -> dict[object, int]:
        """How often each value stands there, the most frequent first, ties by value; missing ones left out."""
        if self.kind in ("list", "other"):
            return {}
        pairs = pc.value_counts(self.values.drop_null())
        counted = zip(pairs.field("values").to_pylist(), pairs.field("counts").to_pylist(), strict=True)
        return dict(sorted(counted, key=lambda pair: (-pair[1], str(pair[0]))))

    @cached_property
    def distinct(self) -> int:
        """Different values, missing ones not counted."""
        if self.kind in ("list", "other"):
            return self.rows - self.missing
        return int(pc.count_distinct(self.values, mode="only_valid").as_py())

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values as numbers, NaN where missing; of a column of numbers, flags or moments."""
        values = self.values
        if self.kind == "moment":
            values = pc.cast(pc.cast(values, pa.timestamp("ms"), safe=False), pa.int64())
        elif pa.types.is_string(values.type):
            trimmed = pc.utf8_trim_whitespace(values)
            values = pc.replace_substring(trimmed, ",", ".") if self.decimal_comma else trimmed
        numbers: NDArray[np.float64] = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers

    @cached_property
    def known(self) -> NDArray[np.float64]:
        """The numbers that are there."""
        return self.numbers[~np.isnan(self.numbers)]

    @cached_property
    def whole(self) -> bool:
        """Whether every number is a whole one."""
        return self.kind == "number" and bool(np.array_equal(self.known, np.trunc(self.known)))

    @property
    def constant(self) -> bool:
        """Whether there is nothing to tell rows apart by: one value, and none missing, or no value at all."""
        return self.distinct == 0 or (self.distinct == 1 and not self.missing)

    @property
    def flagged(self) -> bool:
        """Whether the values are 0 and 1, or true and false."""
        if self.kind == "flag":
            return self.distinct == 2
        if self.kind == "number":
            return self.distinct == 2 and set(self.known.tolist()) == {0.0, 1.0}
        return self.kind == "text" and {str(value).strip().lower() for value in self.some()} == {"true", "false"}

    @cached_property
    def mean_length(self) -> float:
        """Characters of a text value on average."""
        return float(pc.mean(pc.utf8_length(self.values)).as_py() or 0.0)

    def some(self) -> list[object]:
        """Up to 400 different values, spread evenly over the sorted ones."""
        ordered = pc.unique(self.values.drop_null()).sort()
        step = max(1, len(ordered) // _SAMPLE)
        return list(ordered[::step].to_pylist())

    @cached_property
    def time_kind(self) -> Literal["", "moment", "iso", "written", "epoch", "day"]:
        """How the column may be read as a time; empty when it cannot."""
        if self.kind == "moment":
            return "moment"
        if self.kind == "text" and self.distinct:
            iso = all(_is_iso(str(value)) for value in self.some())
            return "iso" if iso else "written" if self.written_as else ""
        if self.kind != "number" or not self.whole or not len(self.known):
            return ""
        low, high = float(self.known.min()), float(self.known.max())
        if low >= 19700101 and high < 22000101 and _are_days(self.known):
            return "day"
        return "epoch" if self.strange_times <= _STRANGE * len(self.known) else ""

    @cached_property
    def written_as(self) -> str:
        """Format of the dates, where they are no ISO dates; empty where they are none, or of two possible formats."""
        if self.kind != "text":
            return ""
        texts = [str(value) for value in self.some()]
        known = formats_of(texts, (self.time_format,)) if self.time_format else formats_of(texts)
        return known[0] if len(known) == 1 else ""

    @cached_property
    def strange_times(self) -> int:
        """Numbers that are no times since 1970 in the unit that suits most, such as 0 for no time."""
        suits = [
            int(((self.known >= _EPOCH[0] * scale) & (self.known <= _EPOCH[1] * scale)).sum()) for scale in _SCALES
        ]
        return len(self.known) - max(suits)

    @property
    def foreign_date(self) -> bool:
        """Whether the texts are dates in another order than ISO's, such as 31.12.2024."""
        return self.kind == "text" and all(_DAY_FIRST.match(str(value).strip()) for value in self.some())

    @cached_property
    def separator(self) -> str:
        """What parts several values within one text; empty when they are single values."""
        if self.kind != "text":
            return ""
        texts = [str(value) for value in self.some()]
        for mark in _SEPARATORS:
            lists = [[part.strip() for part in text.split(mark)] for text in texts]
            parts = [part for values in lists for part in values if part]
            several = sum(len(values) > 1 for values in lists)
            if several < max(2, 0.2 * len(lists)) or not parts:
                continue
            repeated = len(set(parts)) <= 0.6 * len(parts)
            # Words of a sentence repeat too; numbers between blanks are values, and so are parts of hardly any words.
            tidy = all(part.isdigit() for part in parts) if mark == " " else _are_tags(parts)
            if repeated and tidy:
                return mark
        return ""


def summarise(table: pa.Table, decimal_comma: bool = False, time_format: str = "") -> dict[str, ColumnSummary]:
    """Summaries of a table's columns.

    Args:
        table: as read.
        decimal_comma: whether "3,5" may be a number.
        time_format: how times are said to be written.
    """
    found = {name: _summary(name, table.column(name), decimal_comma) for name in table.column_names}
    return {name: replace(column, time_format=time_format) for name, column in found.items()}


def _summary(name: str, column: pa.ChunkedArray, decimal_comma: bool) -> ColumnSummary:
    values = column.combine_chunks()
    values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_boolean(kind):
        return ColumnSummary(name, values, "flag")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return ColumnSummary(name, values, "moment")
    if is_list(kind):
        return ColumnSummary(name, values, "list")
    if pa.types.is_floating(kind):
        return ColumnSummary(name, pc.if_else(pc.is_nan(values), None, values), "number")
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return ColumnSummary(name, values, "number")
    if pa.types.is_null(kind):
        return ColumnSummary(name, pc.cast(values, pa.string()), "text")
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return ColumnSummary(name, values, "other")
    texts = pc.cast(values, pa.string())
    texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    return _text_summary(name, texts, decimal_comma)


def _text_summary(name: str, texts: pa.Array, decimal_comma: bool) -> ColumnSummary:
    as_text = ColumnSummary(name, texts, "text")
    if texts.null_count == len(texts) or pc.any(pc.match_substring_regex(texts, r"^\s*0\d")).as_py():
        return as_text  # 00123 is a code, of which a number would forget the beginning
    try:
        numbers = pc.cast(pc.utf8_trim_whitespace(texts.drop_null()), pa.float64())
    except pa.ArrowInvalid:
        comma = decimal_comma and pc.all(pc.match_substring_regex(texts, _DECIMAL_COMMA)).as_py()
        return ColumnSummary(name, texts, "number", decimal_comma=True) if comma else as_text
    return ColumnSummary(name, texts, "number") if pc.all(pc.is_finite(numbers)).as_py() else as_text


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def _are_days(numbers: NDArray[np.float64]) -> bool:
    whole = numbers.astype(np.int64)
    month, day = whole // 100 % 100, whole % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def _are_tags(parts: list[str]) -> bool:
    """Whether the parts are short, as tags are and pieces of sentences are not."""
    words = [len(part.split()) for part in parts]
    return max(len(part) for part in parts) <= 60 and sum(words) / len(words) <= 3
