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

from ..base.errors import RunError
from ..nn.embedding import EmbeddingTable

TableKind = Literal["adam", "rowwise_adagrad"]

DENSE_ROWS_PER_LOOKUP = 4  # tables up to this many rows per lookup are summed in a dense buffer: no sort (measured)


@dataclass(frozen=True)
class RowGradient:
    """Gradient of the rows that were looked up.

    Attributes:
        rows: int64 [U] distinct rows, ascending; never a padding or frozen row.
        values: float [U, K] summed gradient of each.
    """

    rows: Tensor
    values: Tensor


class RowSum:
    """Sums duplicate rows of a table's gradient.

    Small tables are summed by one `index_add_` into a buffer as large as the table, which is reused and kept zero;
    large ones after sorting the row numbers, so that nothing as large as the table is touched. Both sums are the same.

    Args:
        num_rows: rows V of the table.
        pad_rows: int64 [P] rows without gradient, ascending.
    """

    def __init__(self, num_rows: int, pad_rows: Tensor) -> None:
        self.num_rows = num_rows
        self.pad_rows = pad_rows
        self._buffer: Tensor | None = None
        self._touched: Tensor | None = None

    def __call__(self, rows: Tensor, values: Tensor) -> RowGradient:
        """Rows int64 [N] and values [N, K], duplicates allowed -> one sum per row."""
        if self.num_rows <= DENSE_ROWS_PER_LOOKUP * rows.numel():
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
        distinct, position = torch.unique(rows, return_inverse=True)
        sums = values.new_zeros(distinct.numel(), values.shape[1]).index_add_(0, position, values)
        if self.pad_rows.numel():
            nearest = torch.searchsorted(self.pad_rows, distinct).clamp_(max=self.pad_rows.numel() - 1)
            kept = (self.pad_rows[nearest] != distinct).nonzero().squeeze(1)
            if kept.numel() < distinct.numel():
                distinct, sums = distinct.index_select(0, kept), sums.index_select(0, kept)
        return RowGradient(distinct, sums)


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
            self.slots = {"mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
            self.slots["steps"] = weight.new_zeros(weight.shape[0])
        else:
            self.slots = {"square": weight.new_zeros(weight.shape[0])}
        self._sum = RowSum(weight.shape[0], table.still_rows)

    def gradient(self) -> RowGradient | None:
        """The table's gradient, duplicates summed, padding and frozen rows left out; None without one."""
        grad = self.table.weight.grad
        if grad is None:
            return None
        if grad.layout == torch.strided:  # the table was also used whole: every row has a gradient
            every = torch.arange(grad.shape[0], device=grad.device)
            return self._sum.sorted(every, grad)
        # the accessors below skip the checks and copies of coalescing
        return self._sum(grad._indices().squeeze(0), grad._values())

    @torch.no_grad()
    def update(self, gradient: RowGradient, lr: float) -> None:
        """Move the rows of `gradient` by one step of size `lr`."""
        rows, grad = gradient.rows, gradient.values
        weight = self.table.weight.index_select(0, rows)
        if self.weight_decay > 0:
            weight.mul_(1.0 - lr * self.weight_decay)
        if self.kind == "adam":
            self._adam(rows, grad, weight, lr)
        else:
            square = self.slots["square"].index_select(0, rows).add_(grad.square().mean(1))
            self.slots["square"].index_copy_(0, rows, square)
            weight.addcdiv_(grad, square.sqrt().add_(self.eps).unsqueeze(1), value=-lr)
        self.table.weight.index_copy_(0, rows, weight)

    def _adam(self, rows: Tensor, grad: Tensor, weight: Tensor, lr: float) -> None:
        beta1, beta2 = self.betas
        mean = self.slots["mean"].index_select(0, rows).lerp_(grad, 1.0 - beta1)
        square = self.slots["square"].index_select(0, rows).mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        steps = self.slots["steps"].index_select(0, rows).add_(1.0)
        for name, moved in (("mean", mean), ("square", square), ("steps", steps)):
            self.slots[name].index_copy_(0, rows, moved)
        # expm1 because 1 - 0.999**n in float32 loses its digits for small n
        unbias1 = torch.expm1(steps * math.log(beta1)).neg_() if beta1 > 0 else torch.ones_like(steps)
        unbias2 = torch.expm1(steps * math.log(beta2)).neg_().sqrt_() if beta2 > 0 else torch.ones_like(steps)
        root = square.sqrt_().div_(unbias2.unsqueeze(1)).add_(self.eps)
        weight.addcdiv_(mean.div_(unbias1.unsqueeze(1)), root, value=-lr)

    def state(self) -> dict[str, Tensor]:
        """Per-row state as `vocabulary/slot` -> [V_v, ...]: rows are found again when other vocabularies grow."""
        found = {}
        for vocabulary, start in self.table.offsets.items():
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
        for vocabulary, start in self.table.offsets.items():
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
