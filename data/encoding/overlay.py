"""Encoded rows and raw values of which some are taken from an earlier data set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from ...base.arrays import I64
from ...base.ragged import spans
from ..batch import Block, SideLayout
from ..packed import Packed
from ..texts import Texts
from .attributes import Attribute, TextColumn


def overlay(block: Block, old: Packed, rows: I64, layout: SideLayout, own: Collection[str]) -> Block:
    """A block with some rows taken from another; columns of `old` beyond the block's are left out.

    Args:
        block: R rows.
        old: the same columns first, and any number of rows.
        rows: int64 [R] row of `old` to take, -1 to keep the block's.
        layout: names of the block's columns.
        own: columns of the block that are kept whatever `rows` says (ids, known of everyone).
    """
    taken = torch.from_numpy(rows >= 0)

    def chosen(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return torch.where(taken.unsqueeze(1), theirs[:, : mine.shape[1]], mine)

    ids = [column for column, name in enumerate(layout.categorical) if name in own]
    merged = block.map(chosen, old.select(np.maximum(rows, 0)))
    merged.categorical[:, ids] = block.categorical[:, ids]
    vectors = zip(layout.vectors, block.vectors, merged.vectors, strict=True)
    return replace(merged, vectors=tuple(mine if name in own else joint for (name, _), mine, joint in vectors))


def overlay_attribute(mine: Attribute, old: Attribute | None, rows: I64) -> Attribute:
    """Raw item values with those of some items taken from an earlier data set, `rows` as in `overlay`."""
    if isinstance(mine, TextColumn) and isinstance(old, TextColumn):
        values = list(dict.fromkeys((*mine.values, *old.values)))
        place = {value: row for row, value in enumerate(values)}
        both = (mine, old)
        codes = [np.array([place[value] for value in one.values], dtype=np.int32)[one.codes] for one in both]
        starts = np.where(rows >= 0, old.ptr[np.maximum(rows, 0)] + len(mine.codes), mine.ptr[:-1])
        lengths = np.where(rows >= 0, np.diff(old.ptr)[np.maximum(rows, 0)], np.diff(mine.ptr))
        entries, ptr = spans(starts, lengths)
        return TextColumn(Texts(values), np.concatenate(codes)[entries], ptr)
    if isinstance(mine, np.ndarray) and isinstance(old, np.ndarray):
        return np.where(rows >= 0, old[np.maximum(rows, 0)], mine)
    return mine
