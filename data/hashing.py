"""Raw values <-> a fixed number of table rows: the hash of a value names its row, and some values share one.

Row 0 pads, row 1 is 'unknown' (missing values, and those the frequency filter left out), later rows are the buckets.
The hash is of the text alone, so a value has the same row in every run, on every day and on every machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..base.arrays import F64, I64
from .vocabulary import FIRST, MISSING, PAD, UNKNOWN

U64 = NDArray[np.uint64]
BLOCK = 65_536


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """What sharing rows costs, counted on training rows.

    Attributes:
        values: distinct values that have a row.
        rare: distinct values that the frequency filter left to the unknown row.
        buckets: rows there are.
        used: rows that some value has.
        sharing: values that share their row with another one.
        rows_sharing: share of the training rows whose value does.
    """

    values: int
    rare: int
    buckets: int
    used: int
    sharing: int
    rows_sharing: float

    def __str__(self) -> str:
        share = self.sharing / max(self.values, 1)
        rare = f", {self.rare:,} rarer ones are unknown" if self.rare else ""
        return (
            f"{self.values:,} values in {self.buckets:,} rows, {self.sharing:,} of them ({share:.0%}, "
            f"{self.rows_sharing:.0%} of the training rows) share a row with another{rare}"
        )


@dataclass(frozen=True)
class HashedVocabulary:
    """Values by the hash of their text.

    Attributes:
        buckets: rows behind the padding and the unknown one.
        collisions: of the training values.
        kept: ascending uint64 hashes of the values that passed the frequency filter; None where there is none, and
            every value has a row, also one that no training row has.
    """

    buckets: int
    collisions: Collisions
    kept: U64 | None = None

    def __len__(self) -> int:
        """Table rows, padding and unknown included."""
        return self.buckets + FIRST

    @classmethod
    def fit(
        cls,
        values: pa.Array | U64,
        weights: I64,
        buckets: int,
        min_count: int = 1,
        before: HashedVocabulary | None = None,
    ) -> HashedVocabulary:
        """Count the values, and keep those seen at least `min_count` times where that is more than once.

        Args:
            values: text [n], null and empty text are missing; or hashes uint64 [n], 0 is missing.
            weights: int [n] training rows each entry stands for.
            buckets: rows.
            min_count: rarer values get the unknown row, which they train.
            before: of an earlier data set; what it kept stays.
        """
        hashes, _, counts = _counted(values, weights)
        frequent = counts >= min_count
        kept: U64 | None = None
        if min_count > 1:
            earlier = np.empty(0, np.uint64) if before is None or before.kept is None else before.kept
            kept = np.union1d(hashes[frequent], earlier)
            frequent = np.isin(hashes, kept)
        rows = (hashes[frequent] % np.uint64(buckets)).astype(np.int64)
        in_row = np.bincount(rows, minlength=1)
        shared = in_row[rows] > 1 if len(rows) else np.zeros(0, dtype=bool)
        whole = max(float(counts.sum()), 1.0)
        collisions = Collisions(
            values=len(rows),
            rare=int((~frequent).sum()),
            buckets=buckets,
            used=int((in_row > 0).sum()),
            sharing=int(shared.sum()),
            rows_sharing=float(counts[frequent][shared].sum()) / whole,
        )
        return cls(buckets, collisions, kept)

    def rows(self, values: pa.Array | U64) -> I64:
        """Rows of raw values, or of their hashes, int64 [n]."""
        hashes, place, _ = _counted(values, None)
        found = (hashes % np.uint64(self.buckets)).astype(np.int64) + FIRST
        if self.kept is not None:
            found = np.where(np.isin(hashes, self.kept), found, UNKNOWN)
        return np.append(found, UNKNOWN)[place]  # a missing value stands behind the others

    def pairs(self, values: pa.Array | U64) -> I64:
        """Two rows of raw values, by two hashes that know nothing of each other, int64 [n, 2].

        A value that has no row of its own has the unknown row and a pad.
        """
        hashes, place, _ = _counted(values, None)
        first = self.rows(values)
        second = (_mixed(hashes) % np.uint64(self.buckets)).astype(np.int64) + FIRST
        second = np.append(second, PAD)[place]
        return np.stack([first, np.where(first == UNKNOWN, PAD, second)], axis=1)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        kept = None if self.kept is None else self.kept.tolist()
        return {"buckets": self.buckets, "collisions": asdict(self.collisions), "kept": kept}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> HashedVocabulary:
        """From JSON."""
        kept = None if state["kept"] is None else np.array(state["kept"], dtype=np.uint64)
        return cls(state["buckets"], Collisions(**state["collisions"]), kept)


def _mixed(hashes: U64) -> U64:
    """A second hash of the first one (the finaliser of SplitMix64, OOPSLA 2014): uint64 [m]."""
    z = hashes + np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _counted(values: pa.Array | U64, weights: I64 | None) -> tuple[U64, I64, F64]:
    """Distinct hashes [m], the place of each entry among them (m where missing), and rows of each of them [m]."""
    if isinstance(values, np.ndarray):
        hashes, place = np.unique(values, return_inverse=True)
        missing = int(bool(len(hashes)) and hashes[0] == 0)
        hashes = hashes[missing:]
        place = np.where(place >= missing, place - missing, len(hashes))
    else:
        plain = pc.if_else(pc.equal(values, MISSING), None, values)
        encoded = plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain
        encoded = encoded.dictionary_encode()
        hashes = text_hashes(encoded.dictionary)
        place = pc.fill_null(encoded.indices, len(hashes)).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(place, weights=weights, minlength=len(hashes) + 1)[: len(hashes)]
    return hashes, place, counts.astype(np.float64)


def hash_column(values: pa.Array) -> U64:
    """Hash of each text, uint64 [n]; 0 where it is missing."""
    hashes, place, _ = _counted(values, None)
    return np.append(np.maximum(hashes, np.uint64(1)), np.uint64(0))[place]


def text_hashes(texts: pa.Array) -> U64:
    """64-bit hash of each text (SipHash with a fixed key): uint64 [n]."""
    import pandas as pd

    found = np.empty(len(texts), dtype=np.uint64)
    for start in range(0, len(texts), BLOCK):  # so many stand in memory as Python strings
        block = texts.slice(start, BLOCK).to_numpy(zero_copy_only=False)
        found[start : start + BLOCK] = pd.util.hash_array(block, categorize=False)
    return found
