"""Variety of one list: which candidate is worth most after those that were taken.

Each kind keeps what it knows of the list so far and says of every candidate what taking it next would be worth. The
candidates stand in the order of their scores; *relevance* is that order as a number from 1 (the best) to 0, so that
scores of any scale weigh the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...base.arrays import F64, Floats, Ints

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
        weight = (1.0 - strength) / strength
        self.log_quality = weight * relevance(len(vectors))  # twice the logarithm of q
        self.behind = 2.0 * np.log(_SINGULAR) - weight
        self.left = np.ones(len(vectors))
        self.factor = np.empty((16, len(vectors)))
        self.steps = 0

    def worth(self) -> F64:
        """See `Variety`: log of the gain; items that add no direction come behind all others, by relevance."""
        gain = np.full(len(self.left), self.behind)
        np.log(self.left, out=gain, where=self.left > 0)
        return np.asarray(gain + self.log_quality)

    def take(self, candidate: int) -> None:
        """See `Variety`."""
        if self.left[candidate] == 0:
            return
        if self.steps == len(self.factor):
            self.factor = np.concatenate([self.factor, np.empty_like(self.factor)])
        before = self.factor[: self.steps]
        similar = 0.5 * (1.0 + self.vectors @ self.vectors[candidate])
        similar[candidate] = 1.0
        similar -= before[:, candidate] @ before
        row = similar / np.sqrt(self.left[candidate])
        self.factor[self.steps] = row
        self.steps += 1
        self.left -= row**2
        self.left[self.left <= _SINGULAR] = 0.0
        self.left[candidate] = 0.0


class Calibrated:
    """Calibrated lists (Steck, RecSys 2018, equations 3 to 6): (1 - s) sum relevance - s KL(history || list).

    An item changes the list's shares of its own values alone, so that a step costs O(n m + V).

    Args:
        codes: int [n, m] codes of each candidate's values, V pads; the values of one share its weight of 1.
        wanted: float [V], share of every value in the user's history, of sum 1; all 0 for nobody's history.
        strength: s.
    """

    def __init__(self, codes: Ints, wanted: Floats, strength: float) -> None:
        self.codes, self.wanted = codes, np.append(wanted, 0.0)  # a pad is a value that nobody wants
        known = codes < len(wanted)
        self.weights = np.where(known, 1.0 / np.maximum(known.sum(1, keepdims=True), 1), 0.0)
        self.mine = self.wanted[codes]
        self.strength, self.relevance = strength, relevance(len(codes))
        self.sums, self.total = np.zeros(len(self.wanted)), 0

    def worth(self) -> F64:
        """See `Variety`: mean relevance and divergence of the list with the candidate on it."""
        told = self.wanted > 0
        if not told.any():
            return self.relevance
        share = (1.0 - _SMOOTHING) / (self.total + 1)
        smoothed = np.where(told, share * self.sums + _SMOOTHING * self.wanted, 1.0)
        before = (self.wanted[told] * np.log(self.wanted[told] / smoothed[told])).sum()
        own = smoothed[self.codes]
        gained = (self.mine * np.log1p(share * self.weights / own)).sum(1)
        return np.asarray((1.0 - self.strength) * self.relevance - self.strength * (before - gained))

    def take(self, candidate: int) -> None:
        """See `Variety`."""
        np.add.at(self.sums, self.codes[candidate], self.weights[candidate])
        self.total += 1
