"""Work on many blocks that several processes do a share of each, with the arrays that one process would have found.

A block is worked on by one process from beginning to end, so how many there are changes no number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from . import ranks
from .arrays import AnyArray

B = TypeVar("B")
Arrays = dict[str, AnyArray]


def shared_out(
    blocks: Sequence[B],
    work: Callable[[B], Mapping[str, AnyArray]],
    watched: Callable[[list[B]], Iterable[B]] = iter,
) -> Arrays:
    """What `work` finds of all blocks, each array joined along its first axis in the order of the blocks.

    Args:
        blocks: the same ones in every process, at least one; rank r of N works on blocks r, r + N, r + 2N, ...
        work: one block to arrays by name, the same names of every block.
        watched: shows the first process's way through its blocks.

    Returns:
        The arrays of all blocks in the first process; in the others those of their own share, for which a process that
        has none does the first block once more.
    """
    own = list(blocks[ranks.rank() :: ranks.world()]) or [blocks[0]]
    found = [work(block) for block in (watched(own) if ranks.first() else own)]
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    if ranks.world() == 1:
        return joined
    lengths = {name: [len(one[name]) for one in found] for name in joined}
    if not ranks.first():
        if len(blocks) > ranks.rank():
            _send(joined, lengths)
        return joined
    parts, sizes = [joined], [lengths]
    for rank in range(1, min(ranks.world(), len(blocks))):
        part, size = _received(rank)
        parts.append(part)
        sizes.append(size)
    return {name: _woven([part[name] for part in parts], [size[name] for size in sizes]) for name in joined}


def told(text: str) -> str:
    """The first process's text, in every process."""
    if ranks.world() == 1:
        return text
    content = _bytes(text) if ranks.first() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(content)])
    dist.broadcast(size, 0)
    if not ranks.first():
        content = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return content.numpy().tobytes().decode()


def _bytes(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())


def _woven(parts: Sequence[AnyArray], lengths: Sequence[Sequence[int]]) -> AnyArray:
    """The blocks of all ranks in their order.

    Args:
        parts: of each rank, its blocks one behind the other.
        lengths: of each rank, rows of its blocks.
    """
    count = len(parts)
    whole = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
    taken, start = [0] * count, 0
    for block in range(sum(len(one) for one in lengths)):
        rank, nth = block % count, block // count
        rows = lengths[rank][nth]
        whole[start : start + rows] = parts[rank][taken[rank] : taken[rank] + rows]
        taken[rank] += rows
        start += rows
    return whole


def _send(arrays: Arrays, lengths: Mapping[str, list[int]]) -> None:
    """To the first process: what comes, as JSON, and then the bytes of each array."""
    about = {
        name: {"dtype": values.dtype.str, "shape": list(values.shape), "lengths": lengths[name]}
        for name, values in arrays.items()
    }
    text = _bytes(json.dumps(about))
    dist.send(torch.tensor([len(text)]), 0)
    dist.send(text, 0)
    for values in arrays.values():
        if values.nbytes:
            dist.send(torch.from_numpy(np.ascontiguousarray(values).reshape(-1).view(np.uint8)), 0)


def _received(rank: int) -> tuple[Arrays, dict[str, list[int]]]:
    """What `_send` sent."""
    size = torch.zeros(1, dtype=torch.int64)
    dist.recv(size, rank)
    text = torch.empty(int(size), dtype=torch.uint8)
    dist.recv(text, rank)
    about: dict[str, Any] = json.loads(text.numpy().tobytes())
    arrays: Arrays = {}
    for name, one in about.items():
        arrays[name] = np.empty(one["shape"], np.dtype(one["dtype"]))
        if arrays[name].nbytes:
            dist.recv(torch.from_numpy(arrays[name].reshape(-1).view(np.uint8)), rank)
    return arrays, {name: one["lengths"] for name, one in about.items()}
