"""One stacked embedding table for all fields: every vocabulary is a run of rows in a single matrix.

A batch needs one lookup however many fields there are, and the gradient names the touched rows only, so the cost of a
step does not depend on the size of the vocabularies (see `training.sparse`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .at_rest import RowsAtRest, TableDtype
from .rows import new_matrix, take_rows


class _Rows(torch.autograd.Function):
    """Table rows whose gradient is the list of (row, value) pairs, as `F.embedding(sparse=True)` gives them."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return take_rows(weight, rows.flatten()).view(*rows.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        values = grad.reshape(-1, ctx.shape[1])
        return torch.sparse_coo_tensor(rows.reshape(1, -1), values, ctx.shape, check_invariants=False), None


def looked_up(weight: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table, int64 [...] -> float [..., K], with a sparse gradient."""
    found: Tensor = _Rows.apply(weight, rows)  # type: ignore[no-untyped-call]
    return found


class _PooledRows(torch.autograd.Function):
    """Weighted sums of table rows, without the rows themselves ever standing in memory beside each other."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(rows, share)
        ctx.shape = weight.shape
        return F.embedding_bag(rows, weight, mode="sum", per_sample_weights=share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, share = ctx.saved_tensors
        if grad.device.type != "cpu":
            return _summed_without_waiting(rows, share, grad, ctx.shape), None, None
        distinct, sums = summed_by_row(rows, share, grad)
        return torch.sparse_coo_tensor(distinct[None], sums, ctx.shape, check_invariants=False), None, None


def summed_by_row(rows: Tensor, share: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the rows of weighted sums: rows int64 [R, L], shares [R, L] and the sums' gradient [R, K] -> distinct
    rows int64 [U], ascending, and theirs [U, K].
    """
    # Summed row by row here: a gradient entry per element would be many times the size of the output.
    distinct, inverse = rows.flatten().unique(return_inverse=True)
    inverse = inverse.view_as(rows)
    sums = grad.new_zeros(len(distinct), grad.shape[1])
    for column in range(rows.shape[1]):
        used = share[:, column].nonzero().squeeze(1)
        if len(used):
            part = grad if len(used) == len(grad) else grad.index_select(0, used)
            sums.index_add_(0, inverse[used, column], part * share[used, column, None])
    return distinct, sums


def _summed_without_waiting(rows: Tensor, share: Tensor, grad: Tensor, shape: tuple[int, int]) -> Tensor:
    """The same sums in the same order where no shape may depend on a value: an entry per element, most of them zero."""
    distinct, place = numbered(rows.t().flatten())
    parts = (grad.unsqueeze(0) * share.t().unsqueeze(2)).flatten(0, 1)  # [L * R, K], column by column
    sums = grad.new_zeros(parts.shape).index_add_(0, place, parts)
    return torch.sparse_coo_tensor(distinct[None], sums, shape, check_invariants=False)


def numbered(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.unique` of fixed shape: nobody has to know how many distinct rows there are.

    Args:
        rows: int64 [N], N > 0.

    Returns:
        distinct: int64 [N], the distinct rows, ascending, and then zeros.
        place: int64 [N], where each row is among them.
    """
    ordered, order = torch.sort(rows, stable=True)
    fresh = torch.cat([ordered.new_zeros(1), (ordered[1:] != ordered[:-1]).long()])
    segment = fresh.cumsum(0)
    return torch.zeros_like(rows).scatter_(0, segment, ordered), torch.empty_like(rows).scatter_(0, order, segment)


class SpreadRows(Protocol):
    """Rows of a table that lie in several processes, which all ask for rows and move them at the same time."""

    def take(self, rows: Tensor) -> Tensor:
        """Rows of the table, int64 [...] -> float [..., K]; where gradients are kept, they wait here for `update`."""

    def pooled(self, rows: Tensor, share: Tensor) -> Tensor:
        """As `EmbeddingTable.pooled`."""

    def update(self, lr: float) -> None:
        """Move what was looked up since the update before, by its gradients averaged over the processes."""


class EmbeddingTable(nn.Module):
    """Rows of all vocabularies in one matrix `weight` [sum of sizes, K].

    Row 0 of every vocabulary pads: it is zero and stays zero. Row 1 is 'unknown' and is trained.

    Args:
        sizes: vocabulary name -> number of rows, padding and unknown included.
        dim: embedding width K.
        std: standard deviation of the normal initialisation.
        shared: name -> the vocabulary whose rows it has; such a name gets none of its own, whatever `sizes` says.
    """

    pad_rows: Tensor
    still_rows: Tensor
    """int64 [S], ascending: rows that no training moves, the padding rows and frozen ones."""

    def __init__(
        self, sizes: Mapping[str, int], dim: int, std: float = 0.05, shared: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.shared = dict(shared or {})
        self.sizes = {name: rows for name, rows in sizes.items() if name not in self.shared}
        self.dim = dim
        self.std = std
        self.offsets: dict[str, int] = {}
        total = 0
        for name, rows in self.sizes.items():
            self.offsets[name] = total
            total += rows
        self.weight = nn.Parameter(new_matrix(total, dim).normal_().mul_(std))  # in place: never twice in memory
        self.register_buffer("pad_rows", torch.tensor(list(self.offsets.values()), dtype=torch.int64), persistent=False)
        self.register_buffer("still_rows", self.pad_rows, persistent=False)
        self.at_rest: RowsAtRest | None = None
        self.held = dict(self.offsets)
        """First row in `weight` of each vocabulary that lies there: of all of them, unless some are `spread`."""
        self.spread: SpreadRows | None = None
        self.bags: frozenset[str] = frozenset()
        """See `know_bags`."""
        self.zero_padding()

    @property
    def dtype(self) -> torch.dtype:
        """Of looked-up rows."""
        return torch.float32 if self.at_rest is not None else self.weight.dtype

    def settle(self, dtype: TableDtype) -> None:
        """Hold the rows in fewer bytes from here on; they can be looked up and no longer trained."""
        if dtype == "float32" or self.at_rest is not None:
            return
        self.at_rest = RowsAtRest(self.weight, dtype)
        del self.weight

    def wake(self) -> None:
        """Hold the rows as float32 again, such as they are, so that they can be trained."""
        if self.at_rest is None:
            return
        settled, self.at_rest = self.at_rest, None
        self.weight = nn.Parameter(settled.between(0, len(settled.codes)))

    def zero_padding(self) -> None:
        """Put the padding rows back to zero; called after every step that may have moved them."""
        with torch.no_grad():
            self.weight.index_fill_(0, self.pad_rows, 0.0)

    def freeze(self, rows: Tensor) -> None:
        """Let no training move these rows of `weight` (int64 [m]) from where they are."""
        self.still_rows = torch.cat([self.still_rows, rows.to(self.still_rows.device)]).unique()

    def know_bags(self, pooled: Iterable[str], single: Iterable[str]) -> None:
        """Know of which vocabularies nothing but weighted sums will be asked for: `pooled`, where not `single` too."""
        bags, rows = ({self.shared.get(name, name) for name in names} for names in (pooled, single))
        self.bags = frozenset(bags - rows)

    def offsets_of(self, vocabularies: Sequence[str]) -> Tensor:
        """First row of each vocabulary, int64 [F]; add it to vocabulary rows to get rows of `weight`."""
        owners = [self.shared.get(name, name) for name in vocabularies]
        return torch.tensor([self.offsets[name] for name in owners], dtype=torch.int64)

    def rows_of(self, vocabulary: str) -> Tensor:
        """View of one vocabulary's rows, float [V, K]; a copy of rows at rest."""
        start = self.held[vocabulary]
        if self.at_rest is not None:
            return self.at_rest.between(start, start + self.sizes[vocabulary])
        return self.weight[start : start + self.sizes[vocabulary]]

    def write(self, vocabulary: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of one vocabulary, int64 [n], with float [n, K]; in the bytes in which the table is held."""
        at = rows + self.offsets[vocabulary]
        with torch.no_grad():
            if self.at_rest is not None:
                self.at_rest.write(at, values)
            else:
                self.weight[at] = values.to(self.weight.dtype)

    def begin_with(self, other: EmbeddingTable) -> None:
        """Take over the rows of a table of the same vocabularies, of which each may have fewer rows, bit for bit."""
        with torch.no_grad():
            if other.at_rest is not None:
                self.settle(other.at_rest.dtype)
            for name in self.sizes:
                here, there = self.offsets[name], other.offsets[name]
                for own, theirs in zip(self._held(), other._held(), strict=True):
                    if len(own):
                        own[here : here + other.sizes[name]] = theirs[there : there + other.sizes[name]]

    def _held(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.at_rest is None else (self.at_rest.codes, self.at_rest.step, self.at_rest.lowest)

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows of `weight`: int64 [...] -> float [..., K]. The gradient is sparse (rows, values)."""
        if self.at_rest is not None:
            resting: Tensor = self.at_rest(rows)
            return resting
        if self.spread is not None:
            return self.spread.take(rows)
        if self.weight.requires_grad and torch.is_grad_enabled():
            return looked_up(self.weight, rows)
        return F.embedding(rows, self.weight)

    def pooled(self, rows: Tensor, share: Tensor) -> Tensor:
        """Weighted sum of the rows of each line, `sum over j of share[r, j] * weight[rows[r, j]]`.

        The same number as `(self(rows) * share[..., None]).sum(1)`, several times faster for bags and histories: what
        is summed is never written down, neither on the way there nor back. The shares get no gradient.

        Args:
            rows: int64 [R, L] rows of `weight`.
            share: float [R, L]; 0 leaves an element out.

        Returns:
            Float [R, K].
        """
        if self.spread is not None:
            return self.spread.pooled(rows, share)
        if self.at_rest is not None or torch.compiler.is_exporting():  # an exported bag would be a loop over its lines
            summed: Tensor = (self(rows) * share.unsqueeze(2)).sum(1)
            return summed
        if not torch.is_grad_enabled():
            return F.embedding_bag(rows, self.weight, mode="sum", per_sample_weights=share.to(self.weight.dtype))
        found: Tensor = _PooledRows.apply(self.weight, rows, share.to(self.weight.dtype))  # type: ignore[no-untyped-call]
        return found


def mean_share(present: Tensor) -> Tensor:
    """Shares that make `EmbeddingTable.pooled` the mean of what is present: bool [R, L] -> float [R, L]."""
    return present / present.sum(1, keepdim=True).clamp(min=1)


def tables_of(model: nn.Module) -> dict[str, EmbeddingTable]:
    """Embedding tables by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, EmbeddingTable)}


def named_rows(model: nn.Module) -> dict[str, Tensor]:
    """A model's state with every vocabulary by itself, under `<table>/<vocabulary>` in place of `<table>.weight`.

    Tensors are the model's own and not copies. A vocabulary that lies in several processes is left out.
    """
    found: dict[str, Tensor] = model.state_dict()
    for name, table in tables_of(model).items():
        if found.pop(f"{name}.weight" if name else "weight", None) is not None:
            found |= {f"{name}/{vocabulary}": table.rows_of(vocabulary).detach() for vocabulary in table.held}
    return found


def take_rows_named(model: nn.Module, rows: Mapping[str, Tensor]) -> None:
    """Put a state that `named_rows` gave back into the model, bit for bit."""
    with torch.no_grad():
        for name, tensor in named_rows(model).items():
            tensor.copy_(rows[name])


def copy_beside_tables(model: nn.Module, source: nn.Module) -> None:
    """Copy what a model learned besides its tables into another of the same shape."""
    tables = tuple(f"{name}." for name in tables_of(model))
    weights = source.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.startswith(tables) and name in weights:
                tensor.copy_(weights[name])
