"""How the texts of the tables are written: decimals, times, and the words for nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notation:
    """The keys of the same names in `[data]`.

    Attributes:
        decimal: what stands before the decimals of numbers.
        time_format: of times, in the directives of `datetime.strptime`; ISO dates when empty.
        time_zone: IANA name of the zone of times that name none; UTC when empty.
        missing: texts that stand for nothing.
    """

    decimal: str = "."
    time_format: str = ""
    time_zone: str = ""
    missing: tuple[str, ...] = ()
