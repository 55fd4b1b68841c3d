"""Tables of which every process holds a piece: which rows, and how a checkpoint holds all of them.

A checkpoint of pieces is written by torch.distributed.checkpoint as safetensors, by every process its own, under the
names that a checkpoint of one process has. So it is read by any number of processes, whatever their engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ...base import ranks
from ...nn.rows import new_matrix

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Shard = Literal["auto", "row_wise", "table_wise"]
LARGE = 1 << 22
"""Numbers from which a tensor of a checkpoint has a file to itself: a file is put together in memory."""


@dataclass(frozen=True)
class Piece:
    """The rows of one tensor that this process holds.

    Attributes:
        own: float [n, ...] rows `start` to `start + n`, where the engine keeps them.
        start: the first.
        rows: how many the whole tensor has.
        even: whether the rows are divided evenly over all processes, in their order; else one process holds all.
    """

    own: Tensor
    start: int
    rows: int
    even: bool

    def of(self, whole: Tensor) -> Tensor:
        """This process's rows of a whole tensor, as a copy."""
        return whole[self.start : self.start + len(self.own)].clone()

    def to_save(self, own: Tensor, mesh: DeviceMesh) -> Tensor | None:
        """These rows, such as `own` holds them, as a part of the whole; None where another process holds it."""
        if not self.even:
            return own if len(own) == self.rows else None
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size((self.rows, *own.shape[1:]))
        spread: Tensor = DTensor.from_local(
            own, mesh, [Shard(0)], run_check=False, shape=shape, stride=own[:0].contiguous().stride()
        )
        return spread


@dataclass(frozen=True)
class Pieces:
    """All pieces of a training, by the names that they have in a checkpoint; none where every process holds all.

    Attributes:
        weights: of the model, as `nn.embedding.named_rows` calls them.
        slots: of the optimiser, as `Optimizer.state_dict` calls them.
    """

    weights: Mapping[str, Piece] = field(default_factory=dict)
    slots: Mapping[str, Piece] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.weights)

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors -> what this process holds of them."""
        return {name: piece.of(t) if (piece := self._named(name)) else t for name, t in tensors.items()}

    def to_save(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this process holds of tensors -> what it has to save of them."""
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (ranks.world(),))
        found = {name: piece.to_save(t, mesh) if (piece := self._named(name)) else t for name, t in tensors.items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _named(self, name: str) -> Piece | None:
        return self.weights.get(name) or self.slots.get(name)


def save_pieces(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a checkpoint's tensors, all processes together.

    Args:
        tensors: whole ones, which are alike in all processes, and parts as `Pieces.to_save` makes them.
        folder: exists, and is seen by all.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    sizes: list[dict[str, int]] = [{}] * ranks.world()
    dist.all_gather_object(sizes, {name: tensor.numel() for name, tensor in tensors.items()})
    everything = {name: size for one in sizes for name, size in one.items()}
    writer = HuggingFaceStorageWriter(str(folder), _files(everything), save_distributed=True)
    # A number is a row of one: the format's reader takes no slice of what has no dimension.
    save({name: _with_rows(t) for name, t in tensors.items()}, storage_writer=writer)


def load_pieces(folder: Path, shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """The whole tensors that processes saved in pieces.

    Args:
        folder: that `save_pieces` wrote to.
        shapes: of tensors that are no rows: numbers.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Tensor] = {}
    for name, held in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(held, TensorStorageMetadata)
        dtype = held.properties.dtype
        found[name] = new_matrix(*held.size) if dtype == torch.float32 else torch.empty(held.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as is meant
        load(found, storage_reader=reader, no_dist=True)
    return {name: tensor.reshape(tuple(shapes[name])) if name in shapes else tensor for name, tensor in found.items()}


def numbers_among(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Shapes that `save_pieces` does not keep: of tensors without a dimension."""
    return {name: [] for name, tensor in tensors.items() if tensor.dim() == 0}


def _with_rows(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        return tensor
    whole = tensor.detach().cpu().contiguous()
    return whole.reshape(1) if whole.dim() == 0 else whole


def _files(sizes: Mapping[str, int]) -> dict[str, int]:
    """Number of the file of each tensor: 1 for all small ones."""
    large = sorted(name for name, size in sizes.items() if size >= LARGE)
    return {name: large.index(name) + 2 if name in large else 1 for name in sizes}
