"""The best k of a stream of score blocks, kept as sortable 64-bit keys.

Selecting k of a wide row costs several times the product that made it. So a block's scores are first reduced to the
maxima of small groups of columns, and only groups whose maximum beats the user's k-th best score so far are looked
into; what survives waits in the reservoir, which is cut back to k when it has grown by about k entries a user.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import DataError

_LOW = 0xFFFFFFFF
_EMPTY = torch.iinfo(torch.int64).min
_SMALL = 1 << 15  # scores of a block that are selected from at once
_DIVERGED = "scores hold NaN; a model that diverged cannot be ranked: lower its learning rate"


class Reservoir:
    """The best k (score, item row) pairs of each user of a block; equal scores go to the lower row."""

    def __init__(self, num_users: int, k: int, device: torch.device) -> None:
        self.k = k
        self.best = torch.full((num_users, k), _EMPTY, dtype=torch.int64, device=device)
        self.floor = torch.full((num_users,), -torch.inf, device=device)
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.num_pending = 0
        self.empty = True

    def add(self, scores: Tensor, first: int) -> None:
        """Take in float [b, n], the scores of the items from row `first` on; earlier calls had lower rows."""
        width = scores.shape[1]
        if scores.numel() <= _SMALL:
            self._add_all(scores, first)
            return
        size = 16 if width >= 64 * self.k else max(1, min(8, width // (4 * self.k)))
        grouped = width - width % size
        self._add_groups(scores, 0, grouped, size, first)
        if grouped < width:
            self._add_groups(scores, grouped, width, 1, first)

    def _add_all(self, scores: Tensor, first: int) -> None:
        """The same for few scores, where looking for the groups costs more than selecting of everything.

        The floor stays where it was: it is a lower bound, and groups of a later block raise it.
        """
        if bool(torch.isnan(scores).any()):
            raise DataError(_DIVERGED)
        self.settle()
        rows = torch.arange(first, first + scores.shape[1], device=scores.device)
        keys = _pack(scores, rows).masked_fill_(scores == -torch.inf, _EMPTY)
        self.best = torch.cat([self.best, keys], dim=1).topk(self.k, dim=1).values
        self.empty = False

    def _add_groups(self, scores: Tensor, begin: int, end: int, size: int, first: int) -> None:
        """Groups of `size` columns lie `count` columns apart, so that their maxima are plain vector maxima."""
        count = (end - begin) // size
        groups = scores[:, begin:end].view(len(scores), size, count)
        top = groups.amax(1)
        if bool(torch.isnan(top).any()):
            raise DataError(_DIVERGED)
        floor = self.floor
        if self.empty and count >= self.k:
            # k groups have a maximum of at least this, so k items do, and no worse item can be among the best.
            bound = top.topk(self.k, dim=1).values[:, -1]
            floor = torch.nextafter(bound, torch.full_like(bound, -torch.inf))
        self.empty = False
        row, group = torch.nonzero(top > floor[:, None], as_tuple=True)
        values = groups[row, :, group]
        pair, member = torch.nonzero(values > floor[row][:, None], as_tuple=True)
        row = row[pair]
        item = begin + member * count + group[pair] + first
        self.pending.append((row, _pack(values[pair, member], item)))
        self.num_pending += len(row)
        if self.num_pending >= self.k * len(self.best):
            self.settle()

    def settle(self) -> None:
        """Cut the reservoir back to the k best of each user and raise the floor."""
        if self.num_pending:
            row = torch.cat([row for row, _ in self.pending])
            key = torch.cat([key for _, key in self.pending])
            count = torch.bincount(row, minlength=len(self.best))
            row, order = torch.sort(row, stable=True)
            place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
            wide = self.best.new_full((len(self.best), self.k + int(count.max())), _EMPTY)
            wide[:, : self.k] = self.best
            wide[row, self.k + place] = key[order]
            self.best = wide.topk(self.k, dim=1).values
            self.floor = _unpack(self.best[:, -1])[0]
        self.pending, self.num_pending = [], 0

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores float [b, k], best first, and item rows int [b, k]; -inf and -1 where there are fewer than k."""
        self.settle()
        return _unpack(self.best)


def clear_best(scores: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """The k best of few scores where their order leaves no choice: what a reservoir gives, without its keys.

    `torch.topk` orders equal scores as it likes. Where the k + 1 best fall strictly, there is one order.

    Args:
        scores: float [b, n] of every item.
        k: length of the lists.

    Returns:
        Scores float [b, k], best first, and columns int64 [b, k]; None where scores are equal, missing (-inf) or NaN,
        which `torch.topk` puts first and which is larger than nothing, or are too many to select from at once.
    """
    width = scores.shape[1]
    if width < k or scores.numel() > _SMALL:
        return None
    best, column = scores.topk(min(k + 1, width), dim=1)
    after = best[:, 1:] if width > k else torch.nn.functional.pad(best[:, 1:], (0, 1), value=-torch.inf)
    best, column = best[:, :k], column[:, :k]
    return (best + 0.0, column) if bool((best > after).all()) else None


def _pack(scores: Tensor, rows: Tensor) -> Tensor:
    """Order-preserving int64 keys: higher score first, then lower row."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) + (_LOW - rows)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and rows of keys; -inf and -1 where a key is empty."""
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    empty = keys == _EMPTY
    return scores.masked_fill(empty, -torch.inf), (_LOW - (keys & _LOW)).masked_fill(empty, -1)
