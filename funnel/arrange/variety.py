"""Variety of one list: which candidate is worth most after those that were taken.

Each kind keeps what it knows of the list so far and says of every candidate what taking it next would be worth. The
candidates stand in the order of their scores; *relevance* is that order as a number from 1 (the best) to 0, so that
scores of any scale weigh the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...base.arrays import F64, Floats

_SINGULAR = 1e-10
"""Determinant's factor below which an item adds no direction to the chosen ones."""
_SMOOTHING = 0.01
"""Weight of the wanted shares within the list's own, so that a value not yet listed costs no infinity (Steck 2018)."""


class Variety(Protocol):
    """What one list still wants."""

    def worth(self) -> F64:
        """Worth of taking each candidate next, float64 [n]; those taken before may have any."""
        ...

    def take(self, candidate: int) -> None:
        """A candidate has been put on the list."""
        ...


def relevance(count: int) -> F64:
    """From 1 for the first candidate to 0 for the last, float64 [count]."""
    return 1.0 - np.arange(count) / max(count - 1, 1)


class MMR:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): (1 - s) relevance - s max cosine to the chosen.

    Args:
        vectors: float [n, D], of unit length or zero.
        strength: s.
    """

    def __init__(self, vectors: Floats, strength: float) -> None:
        self.vectors, self.strength = np.asarray(vectors, dtype=np.float64), strength
        self.relevance = relevance(len(vectors))
        self.nearest = np.full(len(vectors), -np.inf)

    def worth(self) -> F64:
        """See `Variety`; the first item is chosen by relevance alone."""
        near = np.where(np.isfinite(self.nearest), self.nearest, 0.0)
        return np.asarray((1.0 - self.strength) * self.relevance - self.strength * near)

    def take(self, candidate: int) -> None:
        """See `Variety`."""
        self.nearest = np.maximum(self.nearest, self.vectors @ self.vectors[candidate])


class DPP:
    """Greedy MAP of a determinantal point process (Chen, Zhang and Zhou, NeurIPS 2018, algorithm 1 and section 4.2).

    The kernel is L = q_i S_ij q_j with similarity S = (1 + cosine) / 2 and q = exp(a r), a = (1 - s) / 2 s: the log
    determinant of a list then is (1 - s) sum r + s log det S up to a factor. Each step takes the item of the largest
    gain, kept up by an incremental Cholesky factor: O(n D + n k) an item.

    Args:
        vectors: float [n, D], of unit length or zero.
        strength: s, above 0.
    """

    def __init__(self, vectors: Floats, strength: float) -> None:
        self.vectors = np.asarray(vectors, dtype=np.float64)
        self.log_quality = (1.0 - strength) / (2.0 * strength) * relevance(len(vectors))
        self.left = np.ones(len(vectors))
        self.rows: list[F64] = []
        self.relevance = relevance(len(vectors))

    def worth(self) -> F64:
        """See `Variety`: log of the gain; items that add no direction come behind all others, by relevance."""
        fine = self.left > _SINGULAR
        gain = 2.0 * self.log_quality + np.log(np.where(fine, self.left, 1.0))
        behind = float(gain.min(initial=0.0)) - 2.0 + self.relevance + np.log(_SINGULAR)
        return np.asarray(np.where(fine, gain, behind))

    def take(self, candidate: int) -> None:
        """See `Variety`."""
        if self.left[candidate] <= _SINGULAR:
            return
        similar = 0.5 * (1.0 + self.vectors @ self.vectors[candidate])
        similar[candidate] = 1.0
        for row in self.rows:
            similar -= row * row[candidate]
        row = similar / np.sqrt(self.left[candidate])
        self.rows.append(row)
        self.left = np.maximum(self.left - row**2, 0.0)
        self.left[candidate] = 0.0


class Calibrated:
    """Calibrated lists (Steck, RecSys 2018, equations 3 to 6): (1 - s) sum relevance - s KL(history || list).

    Args:
        shares: float [n, V], each candidate's weight of every value, rows of sum 1 or 0.
        wanted: float [V], share of every value in the user's history, of sum 1; all 0 for nobody's history.
        strength: s.
    """

    def __init__(self, shares: Floats, wanted: Floats, strength: float) -> None:
        told = np.asarray(wanted) > 0
        self.wanted = np.asarray(wanted, dtype=np.float64)[told]
        self.shares = np.asarray(shares, dtype=np.float64)[:, told]
        self.strength, self.relevance = strength, relevance(len(shares))
        self.sums, self.total = np.zeros(len(self.wanted)), 0

    def worth(self) -> F64:
        """See `Variety`; mean relevance and divergence of the list with the candidate on it."""
        if not len(self.wanted):
            return self.relevance
        listed = (self.sums + self.shares) / (self.total + 1)
        smoothed = (1.0 - _SMOOTHING) * listed + _SMOOTHING * self.wanted
        divergence = (self.wanted * np.log(self.wanted / smoothed)).sum(1)
        return np.asarray((1.0 - self.strength) * self.relevance - self.strength * divergence)

    def take(self, candidate: int) -> None:
        """See `Variety`."""
        self.sums = self.sums + self.shares[candidate]
        self.total += 1
