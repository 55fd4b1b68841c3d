"""Where a function comes from: its paper as an attribute, as a class has `paper`, so that a listing reads it there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def cited(paper: str) -> Callable[[T], T]:
    """A decorator that sets `paper`, an author, a venue and a year, on a function and changes nothing else."""

    def mark(function: T) -> T:
        vars(function)["paper"] = paper
        return function

    return mark


def paper_of(described: object) -> str:
    """The paper of a class or of a cited function; empty without one."""
    return str(getattr(described, "paper", ""))


def summary_of(described: object) -> str:
    """Its `summary` in a line, else the first sentence of its docstring, without the full stop."""
    return str(getattr(described, "summary", "")) or _first_sentence(described.__doc__ or "")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0].rstrip(".")
