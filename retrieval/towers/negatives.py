"""Where negatives come from besides the batch: earlier batches, and the items the model itself confuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...base.device import CPU, to_host
from ..index.base import CandidateIndex, SearchPlan
from ..index.exact import ExactIndex
from ..index.faiss import FaissIndex
from ..index.families import has_faiss

EXACT_ITEMS = 20_000
"""Largest catalogue searched exactly for hard negatives."""
SEARCHED_BY = "IVF,SQ8"
SEARCH_EFFORT = {"nprobe": 16}


class InclusionSample:
    """Draws M distinct items, popular ones surely: systematic sampling with unequal probabilities (Madow 1949).

    Item i is among them with probability `pi_i = min(1, c (f_i + 1/N) / 2)`, f its share of the training positives, c
    such that they sum to M. Sums over the catalogue are estimated without bias by weights `1 / pi`. With probabilities
    near what a trained model gives the items on average, the estimate of a softmax's denominator varies least.

    Args:
        frequency: `[N]` shares that sum to 1, on the CPU.
        count: M; all items where there are no more.
    """

    def __init__(self, frequency: Tensor, count: int) -> None:
        shares = (frequency.double() + 1.0 / len(frequency)) / 2
        self.count = min(count, len(shares))
        falling = shares.sort(descending=True)[0]
        rest = falling.flip(0).cumsum(0).flip(0)  # shares from here on
        places = self.count - torch.arange(len(shares), dtype=torch.float64)
        certain = int((places * falling > rest).long().cumprod(0).sum())
        self.probability = shares.new_ones(len(shares))
        if certain < self.count:
            factor = (self.count - certain) / rest[certain]
            self.probability = (factor * shares).clamp_(max=1.0)
        self._until = self.probability.cumsum(0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """int64 `[M]` item rows, ascending; one random number, and nothing as large as the catalogue."""
        start = torch.rand((), dtype=torch.float64, generator=generator)
        points = start + torch.arange(self.count, dtype=torch.float64)
        return torch.searchsorted(self._until, points, right=True).clamp_(max=len(self._until) - 1)


class WeightedSample:
    """Draws M items with replacement, item j with probability `q_j = f_j^a / sum f^a`, f its share of the positives.

    word2vec's sampler (Mikolov et al. 2013, a = 3/4). A softmax's denominator is estimated without bias by
    `sum_j exp(s_j) / (M q_j)` over the items drawn (Bengio and Senecal 2008): the score of each is lowered by
    `log(M q_j)`, the positive's, which was not drawn, is left alone.

    Args:
        frequency: `[N]` shares that sum to 1, on the CPU.
        count: M.
        power: a, from 0 (evenly) to 1.
    """

    def __init__(self, frequency: Tensor, count: int, power: float) -> None:
        weights = frequency.double().pow(power)
        self.count = count
        self.probability = weights / weights.sum()
        self.log_expected = (count * self.probability).log().float()
        self._until = self.probability.cumsum(0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """int64 `[M]` item rows."""
        points = torch.rand(self.count, dtype=torch.float64, generator=generator) * self._until[-1]
        return torch.searchsorted(self._until, points, right=True).clamp_(max=len(self._until) - 1)


class NegativeColumns(NamedTuple):
    """Further columns of a softmax."""

    vectors: Tensor
    """`[M, D]` item vectors, without gradient."""
    ids: Tensor
    """`[M]` int64 item ids."""
    log_q: Tensor
    """`[M]` log probability of each item as a training positive."""


class NegativeMemory:
    """The item vectors of the last batches, kept as negatives (cross-batch memory, Wang et al., CVPR 2020).

    Vectors age: they were made by earlier weights. Use it once the item tower moves slowly.

    Args:
        capacity: vectors kept; the oldest make room.
        width: D.
        device: where they are kept.
    """

    def __init__(self, capacity: int, width: int, device: torch.device = CPU) -> None:
        self._vectors = torch.zeros(capacity, width, device=device)
        self._ids = torch.full((capacity,), -1, dtype=torch.int64, device=device)
        self._log_q = torch.zeros(capacity, device=device)
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, vectors: Tensor, ids: Tensor, log_q: Tensor) -> None:
        """Add a batch; of a batch beyond the capacity, its last vectors.

        Args:
            vectors: `[P, D]`; a copy without gradient is kept.
            ids: `[P]` int.
            log_q: `[P]`.
        """
        capacity = len(self._ids)
        count = min(len(ids), capacity)
        if count == 0:
            return
        places = (torch.arange(count, device=self._ids.device) + self._next) % capacity
        self._vectors[places] = vectors[-count:].detach().to(self._vectors)
        self._ids[places] = ids[-count:].to(self._ids)
        self._log_q[places] = log_q[-count:].detach().to(self._log_q)
        self._next = (self._next + count) % capacity
        self._size = min(self._size + count, capacity)

    def columns(self) -> NegativeColumns:
        """What is kept now, in no particular order; a copy, so that a later `push` leaves a graph intact."""
        size = self._size
        return NegativeColumns(self._vectors[:size].clone(), self._ids[:size].clone(), self._log_q[:size].clone())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on, as tensors."""
        cursor = torch.tensor([self._next, self._size], dtype=torch.int64)
        parts = {"vectors": self._vectors, "ids": self._ids, "log_q": self._log_q}
        return {**{name: part.clone() for name, part in parts.items()}, "cursor": cursor}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; capacity and width follow the state."""
        where = self._ids.device
        self._vectors, self._ids, self._log_q = (state[name].clone().to(where) for name in ("vectors", "ids", "log_q"))
        self._next, self._size = (int(value) for value in state["cursor"])


class HardNegatives:
    """Searches a snapshot of the item vectors for the items the model ranks highest: ANCE's asynchronous index
    (Xiong et al., ICLR 2021), refreshed between steps.

    Up to `EXACT_ITEMS` items, or without FAISS, the search is exact; above it a FAISS index of the snapshot is built at
    each refresh.

    Args:
        count: H, negatives per query.
        skip_top: best remaining items passed over.
        seed: of the index.
    """

    def __init__(self, count: int, skip_top: int = 0, seed: int = 0) -> None:
        self.count = count
        self.skip_top = skip_top
        self.seed = seed
        self._vectors = torch.empty(0, 0)
        self._index: CandidateIndex | None = None

    def refresh(self, vectors: Tensor) -> None:
        """Search these item vectors `[N, D]` from now on; they are copied."""
        self._vectors = vectors.detach().clone()
        if len(vectors) <= EXACT_ITEMS or not has_faiss():
            self._index = ExactIndex(to_host(self._vectors), self._vectors.device)
        else:
            self._index = FaissIndex.build(to_host(self._vectors), SEARCHED_BY, seed=self.seed)
            self._index.use_plan(SearchPlan(k=len(vectors), effort=SEARCH_EFFORT))

    def mine(self, queries: Tensor, exclude: Tensor) -> Tensor:
        """The best-scored items of each query that are not its own; see `mine_hard_negatives`.

        The search is the host's, so it waits for the queries.

        Args:
            queries: `[P, D]` user vectors, anywhere.
            exclude: `[P, X]` int64 ids that are no negatives of the row, padded with -1.

        Returns:
            `[P, H]` int64 on the CPU, best first, -1 where there are no more.
        """
        index = self._index
        assert index is not None, "refresh comes first"

        def search(wanted: Tensor, k: int) -> Tensor:
            return torch.from_numpy(index.search(to_host(wanted), k).rows)

        return mine_hard_negatives(queries, search, exclude.cpu(), self.count, len(self._vectors), self.skip_top)

    def state_dict(self) -> dict[str, Tensor]:
        """The snapshot that is searched; the index is a function of it."""
        return {"vectors": self._vectors.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Search what `state_dict` gave."""
        if state["vectors"].numel():
            self.refresh(state["vectors"])


def mine_hard_negatives(
    query: Tensor,
    search: Callable[[Tensor, int], Tensor],
    exclude: Tensor,
    count: int,
    num_items: int,
    skip_top: int = 0,
) -> Tensor:
    """The best-scored items of each query that are not its own: the negatives a model has most to learn from.

    Args:
        query: `[P, D]` user vectors.
        search: `(queries [P, D], k) -> item ids [P, k]`, best first, -1 where nothing was found: an index or exact.
        exclude: `[P, X]` int64 ids that are positives (or seen) for the row, padded with -1.
        count: negatives wanted per row.
        num_items: N, ids are below it.
        skip_top: pass over this many of the best remaining items, which are likely to be unlabelled positives.

    Returns:
        `[P, count]` int64 ids, best first, -1 where the search found no more.
    """
    fetch = min(num_items, count + skip_top + exclude.shape[1])
    with torch.no_grad():
        found = search(query, fetch).to(torch.int64)
    row = torch.arange(len(found), device=found.device)[:, None] * num_items
    own = torch.where(exclude >= 0, exclude + row, -1)
    usable = (found >= 0) & ~torch.isin(found + row, own)
    rank = usable.cumsum(1) - 1 - skip_top
    kept = usable & (rank >= 0) & (rank < count)
    mined = found.new_full((len(found), count), -1)
    mined[kept.nonzero()[:, 0], rank[kept]] = found[kept]
    return mined
