"""Derived features: one function for rows of the log and for requests, on input columns that stay with the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...base.arrays import F64, I64, AnyArray, Ints
from ..batch import Block, SideLayout
from ..derived_spec import DerivedSpec
from ..feature_spec import Side
from .encoders import Encoders, encode_side, fill_missing, side_layout

DAY, HOUR = 86_400.0, 3_600.0
MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd factor between the hashes of a cross: a combination depends on the order of its values."""


@dataclass(frozen=True)
class Situation:
    """R rows of the log, or R requests or pairs: who, what and when.

    Attributes:
        rows: side -> int64 [R] user, item and event row; -1 where there is none.
        times: float64 [R] the moment in seconds.
        last: float64 [R] time of the user's row before, NaN where there is none.
    """

    rows: Mapping[Side, Ints]
    times: F64
    last: F64

    def take(self, owner: I64, items: I64) -> Situation:
        """Requests spread over pairs: int64 [P] the request of each, and its item row."""
        spread = {side: rows[owner] for side, rows in self.rows.items()}
        return Situation({**spread, "item": items}, self.times[owner], self.last[owner])


@dataclass(frozen=True)
class Derived:
    """A derived feature and what it is computed from.

    Attributes:
        spec: its declaration.
        inputs: of each input one value per user, item or event row: float64 numbers or seconds (NaN where missing), or
            uint64 hashes of texts (0 where missing).
    """

    spec: DerivedSpec
    inputs: tuple[AnyArray, ...]

    def values(self, at: Situation) -> AnyArray:
        """Numbers float32 [R], NaN where missing; of a `cross` uint64 hashes, 0 where a part is missing."""
        taken = zip(self.spec.sources, self.inputs, strict=True)
        found = [_gather(values, at.rows[side]) for (side, _), values in taken]
        if self.spec.kind == "cross":
            return _crossed(found)
        return self._number(found, at).astype(np.float32)

    def _number(self, found: Sequence[AnyArray], at: Situation) -> F64:
        if self.spec.kind == "ratio":
            above, below = found
            quotient: F64 = np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)
            return quotient
        if self.spec.kind == "since":
            return at.times - (found[0] if found else at.last)
        local = (found[0] if found else at.times) + HOUR * self.spec.utc_offset
        if self.spec.kind == "hour":
            return np.floor(local % DAY / HOUR)
        return np.asarray((np.floor(local / DAY) + 3) % 7)  # 1 January 1970 was a Thursday


def _gather(values: AnyArray, rows: Ints) -> AnyArray:
    """Values of the rows [R]; missing where the row is -1."""
    missing = np.uint64(0) if values.dtype == np.uint64 else np.nan
    if not len(values):
        return np.full(len(rows), missing, dtype=values.dtype)
    return np.where(rows >= 0, values[np.maximum(rows, 0)], missing)


def _crossed(parts: Sequence[AnyArray]) -> AnyArray:
    """One hash of each combination, uint64 [R]; 0 where a part is missing."""
    mixed, known = parts[0], parts[0] != 0
    for part in parts[1:]:
        mixed = mixed * MIX + part  # modulo 2**64
        known = known & (part != 0)
    return np.where(known, np.maximum(mixed, np.uint64(1)), np.uint64(0))


def derived_layout(specs: Sequence[DerivedSpec]) -> SideLayout:
    """Columns of the block that `encoded` makes."""
    return side_layout([spec.feature for spec in specs], {})


def request_blocks(
    derived: Sequence[Derived], at: Situation, owner: I64, items: I64, encoders: Encoders
) -> tuple[Block, Block]:
    """Derived features of Q requests, and of P pairs, encoded.

    Args:
        derived: all of the data set.
        at: the requests.
        owner: int64 [P] request of each pair.
        items: int64 [P] item row of each pair.
        encoders: learned on training rows.
    """
    blocks = []
    for of_pair, situation in ((False, at), (True, at.take(owner, items))):
        chosen = [one for one in derived if one.spec.of_pair == of_pair]
        values = {one.spec.name: one.values(situation) for one in chosen}
        blocks.append(encoded(values, [one.spec for one in chosen], encoders, len(situation.times)))
    return blocks[0], blocks[1]


def encoded(values: Mapping[str, AnyArray], specs: Sequence[DerivedSpec], encoders: Encoders, rows: int) -> Block:
    """Computed values by name -> their block of `rows` rows."""
    features = [spec.feature for spec in specs]
    return encode_side(features, {f.name: fill_missing(f, values[f.name]) for f in features}, encoders, rows)
