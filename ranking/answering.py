"""A trained ranker as it answers requests: the passes over one request's candidates are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ..base.device import device_of
from ..data.batch import Batch, Block
from ..nn.recorded import Recorded
from .requests import RequestBatch, RequestRanker
from .trees.forest import written_parts


class AnsweringModel:
    """A trained model, with or without the listwise task. Threads may ask at the same time.

    Args:
        model: its weights no longer move.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self._device = model, device_of(model)
        self._recordable = self._device.type == "cpu" and not any(written_parts(model))
        self._tasks: tuple[str, ...] = ()
        self._recorded: dict[tuple[int, ...], Recorded] = {}

    def logits(self, requests: RequestBatch) -> dict[str, Tensor]:
        """Every task's logit (or value) of the candidates, task -> float [R], without gradients.

        On a CPU a single request of a usual number of candidates is computed as recorded; what several queries share is
        decided by looking at the rows, and their passes are computed by the model, as are those of boosted trees.
        """
        requests = requests.to(self._device)
        with torch.inference_mode():
            if requests.batch.query.rows != 1 or not self._recordable:
                return _computed(self.model, requests)
            parts = _parts(requests.batch)
            if parts not in self._recorded:
                self._recorded[parts] = Recorded(self.model, partial(self._of_tensors, parts))
            results = self._recorded[parts](_tensors(requests))
            return dict(zip(self._tasks, results, strict=True))

    def _of_tensors(self, parts: tuple[int, ...], model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = _computed(model, _request(parts, iter(tensors)))
        self._tasks = tuple(found)
        return tuple(found.values())


def _computed(model: nn.Module, requests: RequestBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = model(requests if isinstance(model, RequestRanker) else requests.batch)
    return found


def _parts(batch: Batch) -> tuple[int, ...]:
    """How many bags, sequences and vectors the two sides have."""
    return tuple(
        len(part) for block in (batch.query, batch.item) for part in (block.bags, block.sequences, block.vectors)
    )


def _tensors(requests: RequestBatch) -> list[Tensor]:
    """Every tensor of one request, in the order of `_request`."""
    batch, found = requests.batch, []
    for block in (batch.query, batch.item):
        found += [block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors]
    assert batch.owner is not None
    return [*found, batch.owner, requests.features, requests.prior, requests.taken]


def _request(parts: tuple[int, ...], tensors: Iterator[Tensor]) -> RequestBatch:
    """The reverse of `_tensors`."""
    blocks = []
    for start in (0, 3):
        columns = next(tensors), next(tensors)
        bags, sequences, vectors = (tuple(next(tensors) for _ in range(count)) for count in parts[start : start + 3])
        blocks.append(Block(*columns, bags, sequences, vectors))
    batch = Batch(query=blocks[0], item=blocks[1], owner=next(tensors))
    return RequestBatch(batch, *tensors)
