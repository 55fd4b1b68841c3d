"""Bootstrap over users: how far could each number have fallen elsewhere, had other users come?

Users are drawn with replacement (Efron 1979) and all rows of a user come along, because a user's rows resemble each
other: an interval over rows would be too narrow. A draw is a vector of user weights, so 1,000 draws of any metric
that is made of sums are one matrix product, and the AUC of all draws is one pass over the rows in score order. The
same draws serve every metric, so that differences between metrics, tasks or slices are paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import F64, I64, Bool, Floats, Ints
from ...base.errors import ConfigError, DataError

Interval = tuple[float, float]

_CACHE_BYTES = 1 << 28
_DENSE = 1 << 24  # entries of a matrix of sums that may be dense
_RUN = 64  # rows summed at a time by a blocked running sum


class UserBootstrap:
    """Seeded resampling weights of users, and the sums and intervals made with them.

    Every array of samples has `draws + 1` rows: row 0 is the sample itself (every user once), the others are draws.
    """

    def __init__(self, num_users: int, draws: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        """Prepare the draws.

        Args:
            num_users: U, users to resample.
            draws: number of resamples; 0 gives estimates without intervals.
            seed: equal seeds give equal draws, which makes two runs on the same users paired.
            level: coverage of the intervals.
        """
        if num_users < 1 or draws < 0 or not 0 < level < 1:
            raise ConfigError(
                f"a bootstrap of {num_users} users, {draws} draws, level {level}; "
                "pass 1 or more users, 0 or more draws, a level between 0 and 1"
            )
        self.num_users, self.draws, self.seed, self.level = num_users, draws, seed, level
        self._cached: list[NDArray[np.uint8]] | None = None

    def weights(self) -> Iterator[NDArray[np.uint8]]:
        """How often each user is drawn: blocks uint8 [U, b] that make up [U, draws + 1], the same on every call."""
        if self._cached is not None:
            yield from self._cached
            return
        blocks: list[NDArray[np.uint8]] = []
        small = (self.draws + 1) * self.num_users <= _CACHE_BYTES
        rows = int(np.clip(2**21 // self.num_users, 1, 128))
        for start in range(0, self.draws + 1, rows):
            counts = np.empty((min(rows, self.draws + 1 - start), self.num_users), dtype=np.uint8)
            for row, draw in enumerate(range(start, start + len(counts))):
                counts[row] = self._draw(draw)
            block = np.ascontiguousarray(counts.T)
            if small:
                blocks.append(block)
            yield block
        if small:
            self._cached = blocks

    def sums(self, columns: Floats) -> F64:
        """Weighted sums over users of each column: float [U, M] -> float64 [draws + 1, M]."""
        values = np.asarray(columns, dtype=np.float64)
        if len(values) != self.num_users:
            raise DataError(f"{len(values)} rows of values for {self.num_users} users; pass one row per user")
        return np.concatenate([block.T.astype(np.float64) @ values for block in self.weights()])

    def grouped(self, groups: Ints, users: Ints, values: Floats, num_groups: int) -> Iterator[F64]:
        """Weighted sums over entries, gathered by group.

        Args:
            groups: int [E], group of each entry.
            users: int [E], user row of each entry.
            values: float [E].
            num_groups: G.

        Returns:
            Blocks float64 [G, b] whose columns together are the `draws + 1` samples.
        """
        from scipy.sparse import csr_array

        shape = (num_groups, self.num_users)
        sparse = csr_array((np.asarray(values, dtype=np.float64), (groups, users)), shape=shape)
        sparse.sum_duplicates()
        # A dense product does some 25 multiplications in the time a sparse one takes for one.
        size = num_groups * self.num_users
        matrix = sparse.toarray() if size < min(25 * sparse.nnz, _DENSE) else sparse
        for block in self.weights():
            yield matrix @ block.astype(np.float64)

    def grouped_sums(self, groups: Ints, users: Ints, values: Floats, num_groups: int) -> F64:
        """`grouped` in one piece: float64 [draws + 1, G]."""
        return np.concatenate([block.T for block in self.grouped(groups, users, values, num_groups)])

    def means(self, values: Floats, mask: Floats | None = None) -> F64:
        """Weighted means over users of each column, float64 [draws + 1, M]; NaN where nobody counts.

        Args:
            values: float [U, M]; NaN entries do not count.
            mask: float [U, M], weight of each entry; by default 1.
        """
        known = np.isfinite(values)
        weight = known if mask is None else known * mask
        return ratio(self.sums(np.where(known, values, 0.0) * weight), self.sums(weight.astype(np.float64)))

    def interval(self, samples: F64, pivotal: bool = False) -> list[Interval | None]:
        """The interval of each metric from its samples [draws + 1, M].

        Args:
            samples: row 0 is the estimate.
            pivotal: reflect the quantiles about the estimate. For statistics that noise can only raise, such as a
                calibration error, this takes out the bias that resampling adds; bounds below 0 become 0, and the
                estimate is always inside.

        Returns:
            Per metric (low, high); None when there are no draws, or a tenth of them is undefined: then the number
            hangs on one or two users and no interval can be told.
        """
        tails = np.array([(1 - self.level) / 2, (1 + self.level) / 2])
        intervals: list[Interval | None] = []
        for column in samples.T:
            valid = column[1:][np.isfinite(column[1:])]
            if self.draws == 0 or len(valid) < 0.9 * self.draws or not np.isfinite(column[0]):
                intervals.append(None)
                continue
            low, high = np.quantile(valid, tails)
            if pivotal:
                low, high = (max(2 * column[0] - end, 0.0) for end in (high, low))
                low, high = min(low, column[0]), max(high, column[0])
            intervals.append((float(low), float(high)))
        return intervals

    def _draw(self, draw: int) -> I64:
        if draw == 0:
            return np.ones(self.num_users, dtype=np.int64)
        sample = np.random.default_rng([self.seed, draw]).integers(0, self.num_users, self.num_users, dtype=np.int32)
        return np.bincount(sample, minlength=self.num_users)


def ratio(above: F64, below: F64) -> F64:
    """Elementwise quotient, NaN where the divisor is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=np.broadcast_to(below != 0, out.shape))
    return out


def auc_samples(
    boot: UserBootstrap,
    labels: Floats,
    scores: Floats,
    users: Ints,
    groups: Ints | None = None,
    num_groups: int = 1,
) -> F64:
    """AUC of every draw, of all rows or within each group of rows, from one sort.

    Args:
        boot: the draws; its users are the rows [0, U) that `users` names.
        labels: [R], 0 or 1.
        scores: [R].
        users: int [R], user row of each row.
        groups: int [R], group of each row; by default one group.
        num_groups: G.

    Returns:
        float64 [draws + 1, G]; NaN where a draw has one class only.
    """
    group = np.zeros(len(labels), dtype=np.int64) if groups is None else groups
    order = np.lexsort((scores, group))
    group, label, score, user = group[order], labels[order] == 1, scores[order], users[order]
    segment = _segments(group, label, score)
    count = int(segment[-1]) + 1 if len(segment) else 0
    first_row = np.searchsorted(group, np.arange(num_groups + 1))  # rows of group g: first_row[g] to first_row[g + 1]
    edge = np.append(segment, count)[first_row]
    padded = -(-count // _RUN) * _RUN
    ones = np.ones(len(label))
    positives = boot.grouped(segment[label], user[label], ones[label], padded)
    negatives = boot.grouped(segment[~label], user[~label], ones[~label], padded)
    parts = []
    for positive, negative in zip(positives, negatives, strict=True):
        out = np.full((num_groups, positive.shape[1]), np.nan)
        tied = [np.einsum("sb,sb->b", positive[i:j], negative[i:j]) for i, j in pairwise(edge)]
        _cumulate(negative)
        for one, (i, j) in enumerate(pairwise(edge)):
            if i == j:
                continue
            before = negative[i - 1] if i else 0.0  # negatives of the groups sorted earlier
            total = positive[i:j].sum(0)
            wins = np.einsum("sb,sb->b", positive[i:j], negative[i:j]) - total * before - 0.5 * tied[one]
            out[one] = ratio(wins, total * (negative[j - 1] - before))
        parts.append(out.T)
    return np.concatenate(parts)


def _cumulate(values: F64) -> None:
    """Running sum over the rows of [n * _RUN, b] in place; numpy's own walks down the columns, five times slower."""
    runs = values.reshape(-1, _RUN, values.shape[1])
    for place in range(1, _RUN):
        runs[:, place] += runs[:, place - 1]
    runs[1:] += np.cumsum(runs[:-1, -1], axis=0)[:, None]


def _segments(group: Ints, label: Bool, score: Floats) -> Ints:
    """Number the runs of sorted rows within which order does not matter to the AUC, int [R].

    Rows of equal score are one run; neighbouring ties that are all positive, or all negative, are merged.
    """
    if len(group) == 0:
        return np.empty(0, dtype=np.int64)
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_tie = new_group | np.r_[True, score[1:] != score[:-1]]
    start = np.flatnonzero(new_tie)
    size = np.diff(np.r_[start, len(group)])
    positive = np.add.reduceat(label.astype(np.int64), start)
    kind = np.where(positive == 0, 0, np.where(positive == size, 1, 2))
    opens = np.r_[True, (kind[1:] != kind[:-1]) | (kind[1:] == 2)] | new_group[start]
    return np.repeat(np.cumsum(opens) - 1, size)
