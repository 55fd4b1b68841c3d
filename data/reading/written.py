"""Dates as people and programs write them: texts in a format of their own, and which formats a column may have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from ..notation import Notation
from .clock import in_utc, iso_stamp, milliseconds


def written_stamps(values: pa.Array, notation: Notation) -> pa.Array:
    """Texts in the tables' own format as int64 milliseconds; ISO dates where they are not, null where they are none."""
    texts = pc.utf8_trim_whitespace(values)
    stamps = pa.nulls(len(texts), pa.int64())
    if "%f" not in notation.time_format and "%z" not in notation.time_format:  # what Arrow reads as Python does
        read = pc.strptime(texts, format=notation.time_format, unit="ms", error_is_null=True)
        stamps = in_utc(pc.cast(read, pa.int64()), "ms", notation.time_zone)
    unread = pc.and_(pc.is_null(stamps), pc.is_valid(texts))
    read = [_written_stamp(text, notation) for text in texts.filter(unread).to_pylist()]
    return pc.replace_with_mask(stamps, unread, pa.array(read, pa.int64()))


def _written_stamp(text: str, notation: Notation) -> int | None:
    try:
        moment = datetime.strptime(text, notation.time_format)
    except ValueError:
        return iso_stamp(text, notation.time_zone)
    return milliseconds(moment, notation.time_zone)


_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%b %d, %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S")
FORMATS = tuple(day + clock for day in _DAYS for clock in _CLOCKS)
"""Formats of dates that are not ISO's, as people and programs write them."""


def formats_of(texts: Sequence[str], among: Sequence[str] = FORMATS) -> tuple[str, ...]:
    """Those formats that read every text: none where they are no dates, several where they may be either."""
    return tuple(one for one in among if texts and all(_reads(text.strip(), one) for text in texts))


def _reads(text: str, written: str) -> bool:
    try:
        datetime.strptime(text, written)
    except ValueError:
        return False
    return True
