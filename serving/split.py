"""Which of several runs answers whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ..base.errors import ConfigError

MAIN = "main"
"""The run that answers where nothing else is said."""


def chosen_run(split: Mapping[str, float], who: str) -> str:
    """The run that a user falls to: the same one in every process and on every day.

    Args:
        split: name -> share.
        who: raw id of the user, or of the request.
    """
    digest = hashlib.sha256(f"recsys split {who}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(split.values())
    for name, share in split.items():
        point -= share
        if point < 0:
            return name
    return [name for name, share in split.items() if share > 0][-1]


def check_split(split: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse a split that cannot be served.

    Raises:
        ConfigError: it names a run that is not served, or shares nothing out.
    """
    if odd := [name for name in split if name not in names]:
        there = ", ".join(names)
        raise ConfigError(f'split names the run "{odd[0]}"; served are {there}; add --also {odd[0]}=DIR')
    if split and sum(split.values()) <= 0:
        raise ConfigError("split gives every run a share of 0; give one of them more")
