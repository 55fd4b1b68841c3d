"""A model input in two parts, `x = [query | item]`, so that the query part is computed once per request.

Every first dense layer of a ranker reads a `SplitInput`. When one query meets many candidates its weight is split,
`W x = W_q q + W_i i`, and `W_q q` is computed once; when every row has its own query the two parts are concatenated
and multiplied at once. Both are the same function, up to the rounding of float addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


def even_rows(owner: Tensor, queries: int, rows: int) -> bool:
    """Whether every query has equally many rows, one query behind the other.

    Args:
        owner: int64 [R] query row of each row.
        queries: Q.
        rows: R.
    """
    if queries <= 1 or rows % queries:  # a single query has all rows: nothing to look at
        return queries == 1
    return bool(torch.equal(owner, torch.arange(queries, device=owner.device).repeat_interleave(rows // queries)))


@dataclass(frozen=True)
class SplitInput:
    """Flat input of `R` rows and width `D = Dq + Di`.

    Attributes:
        query: float [Q, Dq].
        item: float [R, Di].
        owner: int64 [R] query row of each row, or None when Q = R.
    """

    query: Tensor
    item: Tensor
    owner: Tensor | None = None

    @property
    def width(self) -> int:
        """D = Dq + Di."""
        return self.query.shape[1] + self.item.shape[1]

    @property
    def rows(self) -> int:
        """R."""
        return self.item.shape[0]  # as it is: int() would fix the number of rows of an exported program

    def spread(self, per_query: Tensor) -> Tensor:
        """Values per query [Q, ...] repeated for every row -> [R, ...] (a broadcast view [1, ...] when Q = 1)."""
        if self.owner is None or per_query.shape[0] == 1:
            return per_query
        return per_query.index_select(0, self.owner)

    def flat(self) -> Tensor:
        """The concatenation, [R, D]; made once however many layers ask for it."""
        return self._flat

    @cached_property
    def _flat(self) -> Tensor:
        if self.query.shape[1] == 0:
            return self.item
        query = self.spread(self.query)
        if query.shape[0] != self.rows:
            query = query.expand(self.rows, -1)
        return query if self.item.shape[1] == 0 else torch.cat([query, self.item], dim=1)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x W^T + b` -> [R, H].

        Args:
            weight: [H, D].
            bias: [H] or None.
        """
        if self.owner is None:
            return F.linear(self.flat(), weight, bias)
        width = self.query.shape[1]
        once = F.linear(self.query, weight[:, :width], bias)
        if once.shape[0] == 1:  # one query's part is a bias of its items: added within the product, not after it
            return F.linear(self.item, weight[:, width:], once[0])
        product = F.linear(self.item, weight[:, width:])
        if not torch.is_grad_enabled() and self._even:  # added to a query's rows without being written out for each
            product.view(once.shape[0], -1, once.shape[1]).add_(once.unsqueeze(1))
            return product
        return product.add_(self.spread(once))

    @cached_property
    def _even(self) -> bool:
        """Whether every query has equally many rows, one query behind the other."""
        return self.owner is not None and even_rows(self.owner, self.query.shape[0], self.item.shape[0])

    def linears(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
        """Several layers of the same input, `[x W^T + b for W, b]`, each [R, H_j].

        Where every row has its own query they are one product with the weights side by side. Where queries are shared
        the products are small, and copying the weights together would cost more than it saves; but in inference mode,
        where a recorded pass has copied them once and a block of requests has many rows.

        Args:
            weights: [H_j, D] each.
            biases: [H_j] or None, one per weight.
        """
        if self.owner is not None and not torch.is_inference_mode_enabled():
            return [self.linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        bias = None
        if any(b is not None for b in biases):
            filled = [w.new_zeros(w.shape[0]) if b is None else b for w, b in zip(weights, biases, strict=True)]
            bias = torch.cat(filled)
        return list(torch.split(self.linear(torch.cat(list(weights)), bias), [w.shape[0] for w in weights], dim=1))

    @staticmethod
    def of(flat: Tensor) -> SplitInput:
        """A flat tensor [R, D] as an input without a query part."""
        return SplitInput(flat.new_empty(flat.shape[0], 0), flat)
