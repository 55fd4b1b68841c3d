"""Keys that earlier versions had: a run that stores one still loads, a file that sets one is told that it is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RETIRED: Mapping[str, str] = {
    "ranking.calibration.weight": "was removed in 0.2, because the weights used in training are taken; take it out",
}
"""Dotted key -> the rest of the sentence: the version that removed it, why, and how to mend the file."""


def without_retired(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`table` without the keys of `RETIRED`, those of its sub-tables included.

    Args:
        table: the table of a configuration file.
        prefix: dotted key of the table, with a dot at its end; empty for the whole file.
    """
    return {
        key: without_retired(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in table.items()
        if prefix + key not in RETIRED
    }
