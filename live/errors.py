"""What becomes of a request that is not answered, as exceptions; each is one sentence that quotes no id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import ConfigError, RecsysError


@dataclass(frozen=True)
class Flaw:
    """One mistake of a request.

    Attributes:
        pointer: JSON pointer to the place, such as `/history/3/item`; empty for the whole request.
        detail: one sentence: what was found, what was expected, how to mend it.
    """

    pointer: str
    detail: str


class RequestError(ConfigError):
    """A request that is not what it should be.

    Attributes:
        flaws: every mistake, with its place.
    """

    def __init__(self, flaws: Sequence[Flaw], sentence: str = "") -> None:
        placed = [f"{flaw.pointer}: {flaw.detail}" if flaw.pointer else flaw.detail for flaw in flaws]
        super().__init__(sentence or "; ".join(placed))
        self.flaws = tuple(flaws)


class NotFoundError(RequestError):
    """An item, a user or a run that a request is about does not exist."""


class UnavailableError(RecsysError):
    """Nobody can answer now; asking again later may help."""


class LateError(RecsysError):
    """The deadline of a request passed before it was answered."""
