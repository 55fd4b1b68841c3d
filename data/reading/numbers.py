"""Values as numbers: whole columns by Arrow's cast, and one by one only the values that resist it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import AnyArray, Bool
from .kinds import is_text

_FLAGS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
_PLAIN = {True: r"^-?\d{1,18}$", False: r"^-?\d{1,15}(\.\d{1,15})?$"}
"""Texts that the cast takes for sure: of whole numbers, and of any."""


def numbers_of(values: pa.Array, parse: Callable[[str], float], target: Any) -> tuple[AnyArray, Bool | None]:
    """Numbers `[rows]`, and the mask of the values that are none (None where all are).

    Nulls are NaN for floats and wrong for integers.
    """
    integer = pa.types.is_integer(target)
    kind = values.type
    if is_text(values):
        try:
            numbers = pc.cast(values, target)
        except pa.ArrowInvalid:
            return _texts(values, parse, target)
    elif pa.types.is_boolean(kind):
        numbers = pc.cast(pc.cast(values, pa.int8()), target)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        try:
            numbers = pc.cast(values, target)
        except pa.ArrowInvalid:  # 1.5 or NaN asked for as integer, or a uint64 beyond int64
            return _texts(pc.cast(values, pa.string()), parse, target)
    else:
        return np.zeros(len(values), np.int64 if integer else np.float64), np.ones(len(values), dtype=bool)
    if not numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False), None
    missing = pc.is_null(numbers).to_numpy(zero_copy_only=False)
    plain = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    return (plain, missing) if integer else (np.where(missing, np.nan, plain), None)


def _texts(values: pa.Array, parse: Callable[[str], float], target: Any) -> tuple[AnyArray, Bool]:
    """The slow path, taken where some value resisted the cast: plain numbers are cast, the others parsed."""
    integer = pa.types.is_integer(target)
    wrong = np.zeros(len(values), dtype=bool)
    plain = pc.fill_null(pc.match_substring_regex(values, _PLAIN[integer]), False)
    numbers = np.array(pc.fill_null(pc.cast(pc.if_else(plain, values, None), target), 0).to_numpy(zero_copy_only=False))
    rows = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    for row, text in zip(rows, values.take(pa.array(rows)).to_pylist(), strict=True):
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


def parse_int(text: str) -> int:
    """A whole number from "12", " 12" or "12.0"; ValueError for anything else."""
    whole, dot, rest = text.strip().partition(".")
    if dot and rest.strip("0"):
        raise ValueError(text)
    return int(whole)


def parse_flag(text: str) -> float:
    """A number, or a word for yes or no as 1 or 0; ValueError for anything else."""
    flag = _FLAGS.get(text.strip().lower())
    return float(text) if flag is None else flag
