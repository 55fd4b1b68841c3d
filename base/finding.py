"""What a check found: how bad it is, what it is about, and one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["problem", "warning", "note", "ok"]
"""`problem`: results must not be believed, or nothing can be done; `warning`: deserves a look; `note`: good to know;
`ok`: what was checked is as it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes:
        level: how bad it is.
        about: what it is about: a column, a package, or the stable short name of a fault, for scripts.
        sentence: what was found, why it matters and what to do.
    """

    level: Level
    about: str
    sentence: str


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by their level, those of one level in the order given."""
    return sorted(findings, key=lambda finding: get_args(Level).index(finding.level))
