"""Tables in pieces: large vocabularies lie divided over the processes while a model trains (`runtime.engine`).

A model asks its `EmbeddingTable` for rows as ever. Of a large vocabulary the table fetches each distinct row once from
the process that holds it (`torchrec`), and what was asked for in a step waits with its gradient until the step ends;
each row is then moved once, by the gradients of all processes. So the training is that of whole tables up to the order
of sums, whatever the model. Vocabularies of which only weighted sums are asked for (bags) are summed where they lie.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn.embedding import looked_up, summed_by_row
from ...nn.rows import rest_on_disk
from ..sparse import RowGradient, RowSum, TableOptimizer
from .pieces import Piece, Pieces, Shard
from .torchrec import Collection

if TYPE_CHECKING:
    from ..optim import Optimizer

log = logging.getLogger(__name__)

LANES = 4
"""FBGEMM's rows are whole multiples of so many numbers; tables of another width stay whole in every process."""


@contextmanager
def spread_tables(optimizer: Optimizer, shard: Shard, smallest: int) -> Iterator[Pieces]:
    """Inside, vocabularies of at least `smallest` rows lie in pieces; afterwards every table is whole again.

    All processes enter with equal tables, and look up in step. What fails inside leaves the tables as they are.

    Args:
        optimizer: of the model; its tables keep row-wise Adagrad's sums.
        shard: how a vocabulary is divided: by rows over all processes, or whole to one of them. `auto`: by rows.
        smallest: rows of the smallest vocabulary that is divided.

    Raises:
        RunError: the processes' memory does not hold the tables.
    """
    for name in ("torchrec", "fbgemm_gpu", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    spread: dict[str, _SpreadTable] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchRec's calls have newer names
        for name, one in optimizer.tables.items():
            far = [v for v, rows in one.table.sizes.items() if rows >= smallest]
            if far and one.table.dim % LANES == 0:
                spread[name] = _SpreadTable(one, far, "row_wise" if shard == "auto" else shard)
        weights = {f"{name}/{v}": piece for name, one in spread.items() for v, piece in one.weights().items()}
        slots = {f"table/{name}/{v}/square": p for name, one in spread.items() for v, p in one.slots().items()}
        for name, piece in weights.items():
            log.info("%s: %d of %d rows lie in this process", name, len(piece.own), piece.rows)
        yield Pieces(weights, slots)
        for table in spread.values():
            table.gather()


class _SpreadTable:
    """The rows of one table while they lie in pieces; see `nn.embedding.SpreadRows`."""

    def __init__(self, optimizer: TableOptimizer, far: Sequence[str], shard: str) -> None:
        table = optimizer.table
        self.optimizer, self.table = optimizer, table
        self.whole = table.weight, table.pad_rows, table.still_rows, optimizer.slots
        self.vocabularies = list(table.offsets)
        total = sum(table.sizes.values())
        self.starts = torch.tensor([*table.offsets.values(), total])
        self.pads = table.pad_rows
        self.sum = RowSum(total, table.still_rows)
        single, bags = ([v for v in far if (v in table.bags) is bag] for bag in (False, True))
        self.collections: list[Collection] = []
        if single:
            self.collections.append(Collection(optimizer, single, shard, pooling=False))
        self.bags: Collection | None = None
        if bags:
            self.bags = Collection(optimizer, bags, shard, pooling=True)
            self.collections.append(self.bags)
        self.far = {v: collection for collection in self.collections for v in collection.vocabularies}
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.summed: list[tuple[Tensor, Tensor, Tensor]] = []
        self._keep_near()
        table.spread = self

    def _keep_near(self) -> None:
        """Leave the other vocabularies alone in the table and in the optimiser."""
        table, optimizer = self.table, self.optimizer
        held, rows, first = {}, [], 0
        for v in self.vocabularies:
            if v not in self.far:
                held[v] = first
                rows.append(torch.arange(table.offsets[v], table.offsets[v] + table.sizes[v]))
                first += table.sizes[v]
        self.near = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
        weight, _, _, slots = self.whole
        table.weight = nn.Parameter(weight.detach()[self.near])
        table.held = held
        table.pad_rows = torch.tensor(list(held.values()), dtype=torch.int64)
        table.still_rows = torch.isin(self.near, self.whole[2]).nonzero().squeeze(1)
        optimizer.slots = {slot: values[self.near] for slot, values in slots.items()}
        optimizer.meet_rows()
        self._rest()

    def _rest(self) -> None:
        for matrix in (self.whole[0].detach(), *self.whole[3].values()):
            rest_on_disk(matrix)

    def weights(self) -> dict[str, Piece]:
        """The rows that this process holds, by vocabulary."""
        return {v: one.weights[v] for v, one in self.far.items()}

    def slots(self) -> dict[str, Piece]:
        """The running sums of their squared gradients."""
        return {v: one.slots[v] for v, one in self.far.items()}

    def take(self, rows: Tensor) -> Tensor:
        """See `SpreadRows`."""
        distinct, inverse = rows.unique(return_inverse=True)
        return F.embedding(inverse, self._matrix(distinct))

    def pooled(self, rows: Tensor, share: Tensor) -> Tensor:
        """See `SpreadRows`."""
        share = share.to(self.table.weight.dtype)
        in_bags: Tensor | None = None
        if self.bags is not None:
            places = [self.vocabularies.index(v) for v in self.bags.vocabularies]
            of = torch.bucketize(rows, self.starts[1:], right=True)
            mine = torch.isin(of, torch.tensor(places))
            in_bags = self._pooled_bags(rows, share * mine, of, places)
            rows, share = rows.masked_fill(mine, 0), share * ~mine
        distinct, inverse = rows.unique(return_inverse=True)
        found = F.embedding_bag(inverse, self._matrix(distinct), mode="sum", per_sample_weights=share)
        return found if in_bags is None else found + in_bags

    def _pooled_bags(self, rows: Tensor, share: Tensor, of: Tensor, places: Sequence[int]) -> Tensor:
        assert self.bags is not None
        numbers, lengths, shares = [], [], []
        for place in places:
            used = (of == place) & (share != 0)
            numbers.append(rows[used] - self.starts[place])
            lengths.append(used.sum(1))
            shares.append(share[used])
        with _without_gradient():
            found = self.bags.pooled(*([_plain(t) for t in tensors] for tensors in (numbers, lengths, shares)))
        if torch.is_grad_enabled():
            found.requires_grad_()
            self.summed.append((rows, share, found))
        return found

    def _matrix(self, distinct: Tensor) -> Tensor:
        """Rows of the table, int64 [U] ascending and distinct -> float [U, K], with a gradient that is not lost."""
        parts = self._by_vocabulary(distinct)
        learning = torch.is_grad_enabled()
        found: dict[str, Tensor] = {}
        for collection in self.collections:
            with _without_gradient():
                fetched = collection.rows([_plain(parts[v]) for v in collection.vocabularies])
            for v, rows in zip(collection.vocabularies, fetched, strict=True):
                found[v] = rows.requires_grad_() if learning else rows
                if learning and len(rows):
                    self.asked.append((parts[v] + self.table.offsets[v], rows))
        near = [parts[v] + start for v, start in self.table.held.items()]
        if near:
            weight, rows = self.table.weight, torch.cat(near)
            looked = looked_up(weight, rows) if learning else F.embedding(rows, weight)
            found |= dict(zip(self.table.held, looked.split([len(part) for part in near]), strict=True))
        return torch.cat([found[v] for v in self.vocabularies])

    def _by_vocabulary(self, distinct: Tensor) -> dict[str, Tensor]:
        """Ascending rows of the table as rows of each vocabulary."""
        bounds = torch.searchsorted(distinct, self.starts)
        parts = distinct.split(bounds.diff().tolist())
        return {v: part - self.table.offsets[v] for v, part in zip(self.vocabularies, parts, strict=True)}

    def update(self, lr: float) -> None:
        """See `SpreadRows`."""
        parts = [(rows, found.grad) for rows, found in self.asked if found.grad is not None]
        parts += [summed_by_row(rows, share, s.grad) for rows, share, s in self.summed if s.grad is not None]
        self.asked, self.summed = [], []
        none = self.table.weight.detach().new_empty(0, self.table.dim)
        rows = torch.cat([torch.empty(0, dtype=torch.int64), *(part[0] for part in parts)])
        total: RowGradient = self.sum.sorted(rows, torch.cat([none, *(part[1] for part in parts)]))
        by_vocabulary = self._by_vocabulary(total.rows)
        values = dict(zip(by_vocabulary, total.values.split([len(r) for r in by_vocabulary.values()]), strict=True))
        for collection in self.collections:
            mine = collection.vocabularies
            collection.move([by_vocabulary[v] for v in mine], [values[v] for v in mine], lr)

    def gather(self) -> None:
        """Put the table together again, block by block, where it lay before."""
        table, optimizer = self.table, self.optimizer
        weight, pads, still, slots = self.whole
        with torch.no_grad():
            weight[self.near] = table.weight.detach()
            for slot, values in slots.items():
                values[self.near] = optimizer.slots[slot]
            for v, collection in self.far.items():
                span = slice(table.offsets[v], table.offsets[v] + table.sizes[v])
                collection.gather(v, collection.weights[v].own, weight.detach()[span])
                collection.gather(v, collection.slots[v].own, slots["square"][span])
        table.weight, table.pad_rows, table.still_rows = weight, pads, still
        table.held, table.spread = dict(table.offsets), None
        optimizer.slots = slots
        optimizer.meet_rows()
        self._rest()


@contextmanager
def _without_gradient() -> Iterator[None]:
    """No gradients inside, and no inference mode either: FBGEMM looks up on the CPU where autograd listens, and only
    there.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that was not made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
