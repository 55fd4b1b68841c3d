"""Which words of a table stand for nothing: those that part a column of numbers from being one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..reading.tables import Tables
from .names import ITEM_TIERS, USER_TIERS, id_rank, stem

WORDS = (
    "NA",
    "N/A",
    "n/a",
    "na",
    "NULL",
    "null",
    "None",
    "none",
    "NaN",
    "nan",
    "\\N",
    "-",
    "--",
    "?",
    "#N/A",
    "missing",
)
"""What programs and people write where a number is missing."""


def words_for_nothing(tables: Tables) -> tuple[str, ...]:
    """Those of `WORDS` that stand in a column of text whose other values are all numbers, in their order."""
    found: set[str] = set()
    given = (tables.events, tables.users, tables.items)
    for table in (table for table in given if table is not None):
        for name in table.column_names:
            column = table.column(name)
            if stem(name)[1] or id_rank(name, USER_TIERS) or id_rank(name, ITEM_TIERS):
                continue  # among ids a word may be an id
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                found |= _words(pc.unique(column.drop_null()).cast(pa.string()))
    return tuple(word for word in WORDS if word in found)


def _words(distinct: pa.Array) -> set[str]:
    """Words among the different texts of a column, where the others are numbers."""
    named = pc.is_in(distinct, value_set=pa.array(WORDS))
    words = set(distinct.filter(named).to_pylist())
    others = pc.utf8_trim_whitespace(distinct.filter(pc.invert(named)))
    others = others.filter(pc.not_equal(others, ""))
    if not words or not len(others):
        return set()
    try:
        pc.cast(others, pa.float64())
    except pa.ArrowInvalid:
        return set()
    return words
