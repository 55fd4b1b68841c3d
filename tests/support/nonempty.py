"""Loops that must run at least once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def nonempty(elements: Iterable[T]) -> Iterator[T]:
    """The elements, for a loop that holds a test's assertions.

    Raises:
        AssertionError: there is no element, so that the loop would have asserted nothing.
    """
    count = 0
    for element in elements:
        count += 1
        yield element
    assert count > 0, "nothing to look at: the loop over this iterable asserted nothing"
