"""The networks of a run as functions of named tensors: user tower, item tower, ranker.

A network takes one request. What a request has once (user, moment, history) is a row; its candidates, and the items of
the item tower, are any number of rows. A column block without columns is no input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ...base.arrays import AnyArray
from ...data.batch import Batch, Block, SideLayout
from ...ranking.requests import RequestBatch, RequestRanker
from ...retrieval.towers.inputs import Windows
from ...retrieval.towers.two_tower import TwoTower

ROWS = "rows"
"""What a shape calls the number of candidates or items."""


@dataclass(frozen=True)
class Input:
    """One tensor that a network takes.

    Attributes:
        name: such as `query.categorical`.
        dtype: as numpy calls it.
        shape: `rows` stands for any number.
        columns: what each number along the last axis is; empty where it has no columns.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Network:
    """A part of a run.

    Attributes:
        name: file name without suffix.
        program: called with the tensors in the order of `inputs`; gives those of `outputs`.
        inputs: what it takes.
        outputs: names of what it gives.
        example: tensors to export it with.
    """

    name: str
    program: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]

    def exported(self) -> ExportedProgram:
        """The operations of one pass, for any number of rows."""
        rows = Dim(ROWS, min=2)
        shapes = tuple({0: rows} if one.shape[0] == ROWS else {} for one in self.inputs)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The tensor attributes")  # PyTorch's LSTM lists its weights anew
            return torch.export.export(self.program, self.example, dynamic_shapes=(shapes,), strict=False)

    def arrays(self, tensors: Sequence[Tensor]) -> dict[str, AnyArray]:
        """Tensors in the order of `inputs` by name."""
        return {one.name: tensor.numpy() for one, tensor in zip(self.inputs, tensors, strict=True)}


class BlockInputs:
    """The columns of one side as inputs.

    Args:
        prefix: of their names, such as `query`.
        layout: of the block.
        block: one with any rows, for the widths of lists.
        rows: number of rows, or `ROWS`.
    """

    def __init__(self, prefix: str, layout: SideLayout, block: Block, rows: int | str) -> None:
        found: list[Input | None] = []
        for name, dtype, columns in (
            ("categorical", "int64", layout.categorical),
            ("numeric", "float32", layout.numeric),
        ):
            found.append(Input(f"{prefix}.{name}", dtype, (rows, len(columns)), columns) if columns else None)
        for name, bag in zip(layout.bags, block.bags, strict=True):
            found.append(Input(f"{prefix}.list.{name}", "int64", (rows, bag.shape[1]), (name,)))
        for sequence in layout.sequences:
            columns = (*sequence.of, *sequence.properties)
            shape = (rows, sequence.length, len(columns))
            found.append(Input(f"{prefix}.sequence.{sequence.name}", "int64", shape, columns))
        for name, width in layout.vectors:
            found.append(Input(f"{prefix}.vector.{name}", "float32", (rows, width), (name,)))
        self._found = found
        self._counts = len(layout.bags), len(layout.sequences), len(layout.vectors)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Those that have columns, in order."""
        return tuple(one for one in self._found if one is not None)

    def tensors(self, block: Block) -> list[Tensor]:
        """Of a block, in the order of `inputs`."""
        every = (block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors)
        return [tensor for one, tensor in zip(self._found, every, strict=True) if one is not None]

    def block(self, tensors: Iterator[Tensor], like: Tensor) -> Block:
        """The reverse of `tensors`; a block without codes or numbers has as many rows as `like`."""
        codes, numbers = (
            like.new_empty(like.shape[0], 0, dtype=kind) if one is None else next(tensors)
            for one, kind in zip(self._found[:2], (torch.int64, torch.float32), strict=True)
        )
        bags, sequences, vectors = (tuple(next(tensors) for _ in range(count)) for count in self._counts)
        return Block(codes, numbers, bags, sequences, vectors)


class Program(nn.Module):
    """A model behind a function of tensors.

    Args:
        model: its weights are the program's.
        run: model and tensors -> tensors.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `Network`."""
        return self._run(self.model, tensors)


class RankerNetwork:
    """The ranker over one request: query columns once, candidates any number of times.

    Where the rows of the example have a query each, it is a function of any number of such rows.

    Args:
        model: with or without the head for requests.
        query: layout of the query side.
        item: layout of the item side.
        opinions: names of the retrievers' opinions; empty where the model reads none.
        example: a request of two candidates or more.
    """

    def __init__(
        self, model: nn.Module, query: SideLayout, item: SideLayout, opinions: Sequence[str], example: RequestBatch
    ) -> None:
        self.selects, self._shared = isinstance(model, RequestRanker), example.batch.owner is not None
        self.query = BlockInputs("query", query, example.batch.query, 1 if self._shared else ROWS)
        self.item = BlockInputs("item", item, example.batch.item, ROWS)
        told: tuple[Input, ...] = ()
        if self.selects:
            told = (Input("candidate.opinions", "float32", (ROWS, len(opinions)), tuple(opinions)),)
            told += (Input("candidate.prior", "float32", (ROWS,)),)
        with torch.no_grad():
            outputs = tuple(f"logit.{task}" for task in model(example if self.selects else example.batch))
        self.network = Network(
            name="ranker",
            program=Program(model, self._of_tensors),
            inputs=(*self.query.inputs, *self.item.inputs, *told),
            outputs=outputs,
            example=self.tensors(example),
        )

    def tensors(self, request: RequestBatch) -> tuple[Tensor, ...]:
        """Of one request, in the order of the inputs."""
        told = (request.features, request.prior) if self.selects else ()
        return (*self.query.tensors(request.batch.query), *self.item.tensors(request.batch.item), *told)

    def _of_tensors(self, model: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        last = tensors[-1]  # of the rows: no request is ranked without an item column or an opinion
        left = iter(tensors)
        query = self.query.block(left, last.new_empty(1, 0) if self._shared else last)
        item = self.item.block(left, last)
        owner = torch.zeros(last.shape[0], dtype=torch.int64, device=last.device) if self._shared else None
        batch = Batch(query=query, item=item, owner=owner)
        if not self.selects:
            return tuple(model(batch).values())
        features, prior = left
        taken = torch.zeros_like(prior, dtype=torch.bool)
        return tuple(model(RequestBatch(batch, features, prior, taken)).values())


class UserNetwork:
    """The user tower over one window of a fixed length, padded at the end.

    Args:
        model: the towers.
        example: a window of one user.
        history: float [1, L, D] content of its items.
        properties: names of the event features.
    """

    def __init__(self, model: TwoTower, example: Windows, history: Tensor, properties: Sequence[str]) -> None:
        self.user = BlockInputs("user", model.layout.user, example.users, 1)
        length = history.shape[1]
        self.described = bool(properties)
        of_events = (Input("event.properties", "int64", (1, length, len(properties)), tuple(properties)),)
        self.network = Network(
            name="user_tower",
            program=Program(model, self._of_tensors),
            inputs=(
                *self.user.inputs,
                *(of_events if self.described else ()),
                Input("event.present", "bool", (1, length)),
                Input("event.times", "float64", (1, length)),
                Input("event.content", "float32", (1, length, history.shape[2])),
            ),
            outputs=("user.vector",),
            example=self.tensors(example, history),
        )

    def tensors(self, windows: Windows, history: Tensor) -> tuple[Tensor, ...]:
        """Of one window and the content of its items, in the order of the inputs."""
        properties = (windows.properties,) if self.described else ()
        return (*self.user.tensors(windows.users), *properties, windows.present, windows.times, history)

    def _of_tensors(self, model: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(model, TwoTower)
        left = iter(tensors)
        history = tensors[-1]
        users = self.user.block(left, history)
        length = history.shape[1]
        items = torch.zeros(1, length, dtype=torch.int64, device=history.device)
        properties = next(left) if self.described else items.new_empty(1, length, 0)
        present, times, _ = left
        windows = Windows(
            users=users,
            items=items,
            properties=properties,
            present=present,
            from_start=present[:, 0],
            times=times,
        )
        return (model.user_vectors(windows, history),)


class ItemNetwork:
    """The item tower over any number of items.

    Args:
        model: the towers.
        example: two items or more.
    """

    def __init__(self, model: TwoTower, example: Block) -> None:
        self.item = BlockInputs("item", model.layout.item, example, ROWS)
        self.network = Network(
            name="item_tower",
            program=Program(model, self._of_tensors),
            inputs=self.item.inputs,
            outputs=("item.embedding", "item.content"),
            example=tuple(self.item.tensors(example)),
        )

    def _of_tensors(self, model: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(model, TwoTower)
        items = self.item.block(iter(tensors), tensors[0])
        content = model.embed_content(items)
        return model.item_vectors(items, content), content


def as_arrays(network: Network, tensors: Sequence[Tensor]) -> dict[str, AnyArray]:
    """Inputs by name, contiguous."""
    return {name: np.ascontiguousarray(array) for name, array in network.arrays(tensors).items()}
