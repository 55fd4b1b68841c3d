"""Row-sparse optimisers for `EmbeddingTable`: only rows that the batch looked up are read and written.

A lookup's gradient is a list of (row, value) pairs with many duplicates. They are summed per row, then Adam or row-wise
Adagrad runs on those rows alone, so a step costs the same on a thousand rows as on a hundred million.

Adam (arXiv 1412.6980) is lazy: a row that was not looked up keeps its moments, and its bias correction counts the row's
own steps. A row thus sees exactly Adam over the steps that touched it, also when it joins a grown vocabulary late.
Row-wise Adagrad keeps one number per row: the running sum of the mean squared gradient (arXiv 1906.00091).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.errors import RunError
from ..nn.embedding import EmbeddingTable
from ..nn.rows import new_matrix, put_rows, take_rows

TableKind = Literal["adam", "rowwise_adagrad"]

DENSE_ROWS_PER_LOOKUP = 4
"""Tables up to this many rows per lookup are summed in a dense buffer, without a sort,"""
DENSE_ENTRIES = 1 << 19
"""and only gradients of so few numbers, which fit a cache: beyond, sums in sorted order are faster (measured)."""

UPDATE_ENTRIES = 1 << 18
"""Weights updated at a time on the CPU: a row is still in the cache when its new value is written (measured)."""


@dataclass(frozen=True)
class RowGradient:
    """Gradient of the rows that were looked up.

    Attributes:
        rows: int64 [U] distinct rows, ascending; never a padding or frozen row.
        values: float [U, K] summed gradient of each.
        counted: float [U], 1 for such a row and 0 for a filler, whose row is 0, the first padding row, and whose
            gradient is zero; None where nothing is filled up.
    """

    rows: Tensor
    values: Tensor
    counted: Tensor | None = None

    def blocks(self) -> list[RowGradient]:
        """The same rows as gradients that fit a cache; on anything but a CPU one only."""
        rows = max(1, UPDATE_ENTRIES // max(1, self.values.shape[1]))
        if self.rows.device.type != "cpu" or self.rows.numel() <= rows:
            return [self]
        counted = [None] * (-(-self.rows.numel() // rows)) if self.counted is None else self.counted.split(rows)
        return [
            RowGradient(*part) for part in zip(self.rows.split(rows), self.values.split(rows), counted, strict=True)
        ]


class RowSum:
    """Sums duplicate rows of a table's gradient, in the order in which they were looked up.

    On the CPU, few lookups in a small table are summed by one `index_add_` into a buffer as large as the table, which
    is reused and kept zero; others after sorting the row numbers, so that nothing as large as the table is touched.
    Both end with the rows that were found, and how many they are is read back. Elsewhere reading back would make the
    host wait for the device, so that as many rows come out as were looked up, filled up with the first padding row. All
    three sums are the same; on a GPU, `index_add_` adds in a fixed order only under
    `torch.use_deterministic_algorithms`.

    Args:
        num_rows: rows V of the table.
        pad_rows: int64 [P] rows without gradient, ascending; for `fixed`, row 0 is one of them.
    """

    def __init__(self, num_rows: int, pad_rows: Tensor) -> None:
        self.num_rows = num_rows
        self.pad_rows = pad_rows
        self._buffer: Tensor | None = None
        self._touched: Tensor | None = None

    def __call__(self, rows: Tensor, values: Tensor) -> RowGradient:
        """Rows int64 [N] and values [N, K], duplicates allowed -> one sum per row."""
        if rows.device.type != "cpu":
            return self.fixed(rows, values)
        if self.num_rows <= DENSE_ROWS_PER_LOOKUP * rows.numel() and values.numel() <= DENSE_ENTRIES:
            return self.dense(rows, values)
        return self.sorted(rows, values)

    def dense(self, rows: Tensor, values: Tensor) -> RowGradient:
        """By a buffer [V, K]."""
        if self._buffer is None or self._touched is None or self._buffer.shape[1] != values.shape[1]:
            self._buffer = values.new_zeros(self.num_rows, values.shape[1])
            self._touched = torch.zeros(self.num_rows, dtype=torch.bool, device=values.device)
        self._buffer.index_add_(0, rows, values)
        self._touched.index_fill_(0, rows, True).index_fill_(0, self.pad_rows, False)
        distinct = self._touched.nonzero().squeeze(1)
        sums = self._buffer.index_select(0, distinct)
        self._buffer.index_fill_(0, distinct, 0.0).index_fill_(0, self.pad_rows, 0.0)
        self._touched.index_fill_(0, distinct, False)
        return RowGradient(distinct, sums)

    def sorted(self, rows: Tensor, values: Tensor) -> RowGradient:
        """By sorting the row numbers."""
        if not rows.numel():
            return RowGradient(rows, values)
        ordered, order, first = self._ordered(rows)
        starts = first.nonzero().squeeze(1)
        distinct = ordered.index_select(0, starts)
        sums = F.embedding_bag(order, values, starts, mode="sum")
        place, met = self._still(distinct)
        if met.any():
            moving = torch.ones_like(distinct, dtype=torch.bool).index_fill_(0, place[met], False)
            kept = moving.nonzero().squeeze(1)
            distinct, sums = distinct.index_select(0, kept), sums.index_select(0, kept)
        return RowGradient(distinct, sums)

    def fixed(self, rows: Tensor, values: Tensor) -> RowGradient:
        """By sorting too, in shapes that depend on the number of lookups alone: U = N."""
        if not rows.numel():
            return RowGradient(rows, values)
        ordered, order, first = self._ordered(rows)
        segment = first.cumsum(0) - 1
        sums = torch.zeros_like(values).index_add_(0, segment, values.index_select(0, order))
        distinct = torch.full_like(ordered, self.num_rows).scatter_(0, segment, ordered)
        place, met = self._still(distinct)
        still = (distinct == self.num_rows).int().index_add_(0, place, met.int()) > 0
        sums.masked_fill_(still.unsqueeze(1), 0.0)
        return RowGradient(distinct.masked_fill_(still, 0), sums, (~still).to(values.dtype))

    def _ordered(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers int64 [N] ascending, which lookup each comes from, and whether it is the first of its row."""
        narrow = rows.int() if self.num_rows < 1 << 31 else rows  # half the bytes to sort
        ordered, order = narrow.sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        return ordered.long(), order, first

    def _still(self, distinct: Tensor) -> tuple[Tensor, Tensor]:
        """Where in ascending rows each row without gradient stands, int64 [P], and whether it does, bool [P]."""
        place = torch.searchsorted(distinct, self.pad_rows).clamp_(max=distinct.numel() - 1)
        return place, distinct.index_select(0, place) == self.pad_rows


class TableOptimizer:
    """Optimiser of one table's rows.

    Args:
        table: the table; its `weight` is updated in place.
        kind: `adam` (two numbers per weight) or `rowwise_adagrad` (one per row).
        betas: decay rates of Adam's moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, on the rows of the batch.
    """

    def __init__(
        self, table: EmbeddingTable, kind: TableKind, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self.table = table
        self.kind = kind
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        weight = table.weight.detach()
        self.slots: dict[str, Tensor] = {}  # per-row state: [V, K] or [V]
        if kind == "adam":
            self.slots = {"mean": _zeros(weight), "square": _zeros(weight), "steps": _zeros(weight[:, 0])}
        else:
            self.slots = {"square": _zeros(weight[:, 0])}
        self.meet_rows()

    def meet_rows(self) -> None:
        """Know the rows that the table has now, and those that stay still."""
        self._sum = RowSum(self.table.weight.shape[0], self.table.still_rows)

    def gradient(self) -> RowGradient | None:
        """The table's gradient, duplicates summed, padding and frozen rows left out; None without one."""
        grad = self.table.weight.grad
        if grad is None:
            return None
        if grad.layout == torch.strided:  # the table was also used whole: every row has a gradient
            every = torch.arange(grad.shape[0], device=grad.device)
            return self._sum.sorted(every, grad) if grad.device.type == "cpu" else self._sum.fixed(every, grad)
        # the accessors below skip the checks and copies of coalescing
        return self._sum(grad._indices().squeeze(0), grad._values())

    def summed(self, rows: Tensor, values: Tensor) -> RowGradient:
        """Rows int64 [N] and values [N, K] of several gradients as one; padding and frozen rows are left out."""
        return self._sum(rows, values)

    @torch.no_grad()
    def update(self, gradient: RowGradient, lr: float) -> None:
        """Move the rows of `gradient` by one step of size `lr`."""
        for part in gradient.blocks():
            self._update(part, lr)

    def _update(self, gradient: RowGradient, lr: float) -> None:
        rows, grad = gradient.rows, gradient.values
        weight = take_rows(self.table.weight, rows)
        if self.weight_decay > 0:
            weight.mul_(1.0 - lr * self.weight_decay)
        if self.kind == "adam":
            self._adam(gradient, weight, lr)
        else:
            square = self.slots["square"].index_select(0, rows).add_(grad.square().mean(1))
            self.slots["square"].index_copy_(0, rows, square)
            weight.addcdiv_(grad, square.sqrt().add_(self.eps).unsqueeze(1), value=-lr)
        put_rows(self.table.weight, rows, weight)

    def _adam(self, gradient: RowGradient, weight: Tensor, lr: float) -> None:
        rows, grad = gradient.rows, gradient.values
        beta1, beta2 = self.betas
        mean = take_rows(self.slots["mean"], rows).lerp_(grad, 1.0 - beta1)
        square = take_rows(self.slots["square"], rows).mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        steps = self.slots["steps"].index_select(0, rows).add_(1.0 if gradient.counted is None else gradient.counted)
        put_rows(self.slots["mean"], rows, mean)
        put_rows(self.slots["square"], rows, square)
        self.slots["steps"].index_copy_(0, rows, steps)
        if gradient.counted is not None:  # a filler has made no step, and 0 / 0 is no zero
            steps.clamp_(min=1.0)
        # expm1 because 1 - 0.999**n in float32 loses its digits for small n
        unbias1 = torch.expm1(steps * math.log(beta1)).neg_() if beta1 > 0 else torch.ones_like(steps)
        unbias2 = torch.expm1(steps * math.log(beta2)).neg_().sqrt_() if beta2 > 0 else torch.ones_like(steps)
        root = square.sqrt_().div_(unbias2.unsqueeze(1)).add_(self.eps)
        weight.addcdiv_(mean.div_(unbias1.unsqueeze(1)), root, value=-lr)

    def state(self) -> dict[str, Tensor]:
        """Per-row state as `vocabulary/slot` -> [V_v, ...]: rows are found again when other vocabularies grow."""
        found = {}
        for vocabulary, start in self.table.held.items():
            stop = start + self.table.sizes[vocabulary]
            for slot, values in self.slots.items():
                found[f"{vocabulary}/{slot}"] = values[start:stop].clone()
        return found

    def load(self, state: dict[str, Tensor], *, grown: bool) -> None:
        """Take up `state`.

        Args:
            state: what `state()` of an equal table gave, or of a smaller one when `grown`.
            grown: vocabularies may have more rows than in `state`, or be new; such rows start without history.

        Raises:
            RunError: the state does not fit the table.
        """
        for vocabulary, start in self.table.held.items():
            size = self.table.sizes[vocabulary]
            for slot, values in self.slots.items():
                saved = state.get(f"{vocabulary}/{slot}", values.new_empty(0, *values.shape[1:]))
                rows = saved.shape[0]
                if rows > size or (rows < size and not grown) or saved.shape[1:] != values.shape[1:]:
                    raise RunError(
                        f'optimiser state "{slot}" of vocabulary "{vocabulary}" has shape {list(saved.shape)}, not '
                        f"{[size, *values.shape[1:]]}; it belongs to another table or table_optimizer: start without it"
                    )
                values[start : start + rows].copy_(saved)


def _zeros(like: Tensor) -> Tensor:
    """Zeros of the shape, type and device of `like`; as a table's weights, in memory made for row passes."""
    return new_matrix(*like.shape).zero_() if like.device.type == "cpu" else torch.zeros_like(like)
