"""The engine `local`: every process holds the whole model, learns from its share of each batch, and averages gradients.

The dense gradients are one flat sum. Of each table every process sends the rows that it looked up
with their summed gradients, padded to the longest, and sums again in the order of the ranks: each then applies the same
update to the same weights, whatever the optimiser, so that the replicas stay equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...base import ranks
from ..sparse import RowGradient, TableOptimizer

Gradients = list[tuple[TableOptimizer, RowGradient]]


def mean_gradients(dense: Iterable[nn.Parameter], tables: Sequence[TableOptimizer]) -> Gradients:
    """The tables' gradients, and in `grad` those of dense parameters, averaged over all processes.

    Args:
        dense: parameters outside the tables, in the same order in every process.
        tables: likewise.

    Returns:
        Of each table that any process looked something up in.
    """
    own = [table.gradient() for table in tables]
    if ranks.world() == 1:
        return [(table, found) for table, found in zip(tables, own, strict=True) if found is not None]
    _mean_dense(list(dense))
    return _mean_rows(tables, own)


def _mean_dense(parameters: Sequence[nn.Parameter]) -> None:
    if not parameters:
        return
    # A parameter that no process has a gradient of stays as it is, which the optimiser knows by its absence.
    there = parameters[0].new_tensor([parameter.grad is not None for parameter in parameters])
    parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
    flat = ranks.summed(torch.cat([there, *parts])).div_(ranks.world())
    start = len(parameters)
    for parameter, present in zip(parameters, flat[:start].tolist(), strict=True):
        stop = start + parameter.numel()
        parameter.grad = flat[start:stop].view_as(parameter) if present else None
        start = stop


def _mean_rows(tables: Sequence[TableOptimizer], own: Sequence[RowGradient | None]) -> Gradients:
    counts = torch.tensor([-1 if found is None else found.rows.numel() for found in own])
    everyone = ranks.gathered(counts)  # [W, tables]
    mean: Gradients = []
    for place, (table, found) in enumerate(zip(tables, own, strict=True)):
        lengths = everyone[:, place].tolist()
        longest = max(lengths)
        if longest < 0:
            continue
        weight = table.table.weight
        width = weight.shape[1]
        gradient = found or RowGradient(torch.empty(0, dtype=torch.int64), weight.new_empty(0, width))
        rows, values = _exchanged(gradient, longest, lengths, width)
        total = table.summed(rows, values)
        mean.append((table, RowGradient(total.rows, total.values.div_(ranks.world()), total.counted)))
    return mean


def _exchanged(found: RowGradient, longest: int, lengths: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
    """Rows and values of all processes, one behind the other."""
    numbers = found.rows.view(found.values.dtype)  # row numbers travel as they are, in the bytes of numbers
    head = 8 // found.values.element_size()
    size = longest * (head + width)
    message = found.values.new_zeros(size + size % head)  # whole row numbers, so that every line begins at one
    message[: numbers.numel()] = numbers
    message[longest * head : longest * head + found.values.numel()] = found.values.flatten()
    everyone = ranks.gathered(message)
    rows, values = [], []
    for line, length in zip(everyone.unbind(), lengths, strict=True):
        count = max(0, length)
        rows.append(line[: count * head].view(torch.int64))
        values.append(line[longest * head : longest * head + count * width].view(count, width))
    return torch.cat(rows), torch.cat(values)
