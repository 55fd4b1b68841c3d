"""What of a run is exported: its networks, examples of what they answer, and the arrays of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import AnyArray
from ...base.errors import RunError
from ...data.dataset import NOW
from ...data.encoding.counts import statistic_names
from ...data.split import Part
from ...ranking.blend import blend
from ...ranking.probabilities import task_probabilities
from ...ranking.requests import RequestBatch, request_batch
from ...ranking.trees.forest import written_parts
from ...retrieval.retriever import Retriever
from ...retrieval.towers.inputs import Windows
from ..ranked import effective_blend
from ..run import TrainedRun
from .networks import ItemNetwork, Network, RankerNetwork, UserNetwork, as_arrays

BLOCK = 8192
"""Items encoded and written at once."""
ITEMS = 64
"""Items of an example of the item tower, at most."""


@dataclass(frozen=True)
class Example:
    """A request and what the run answers.

    Attributes:
        inputs: of all networks by name; those of the item tower begin with `tower.`.
        answers: by output, task or `score`.
    """

    inputs: dict[str, AnyArray]
    answers: dict[str, AnyArray]

    def arrays(self) -> dict[str, AnyArray]:
        """Both in one table."""
        return self.inputs | {f"answer.{name}": values for name, values in self.answers.items()}


class Parts:
    """The networks of a run, on the CPU.

    Args:
        trained: the run in memory; its models no longer train.
        seed: of the examples.
    """

    def __init__(self, trained: TrainedRun, seed: int = 0) -> None:
        if trained.model is None and trained.retriever is None:
            raise RunError("this run has neither a retriever nor a ranker, so there is nothing to export")
        if trained.model is not None and any(written_parts(trained.model)):
            raise RunError(
                "boosted trees are no network; take --format parquet, or their texts in the run's ranking/trees"
            )
        self.trained, self.dataset = trained, trained.dataset
        self._rng = np.random.default_rng(seed)
        for model in (trained.model, None if trained.retriever is None else trained.retriever.model):
            if model is not None:
                model.to("cpu").eval()

    @cached_property
    def networks(self) -> list[Network]:
        """Those that the run has."""
        found = [] if self._towers is None else [part.network for part in self._towers]
        return found if self.ranker is None else [*found, self.ranker.network]

    @property
    def _retriever(self) -> Retriever:
        assert self.trained.retriever is not None
        return self.trained.retriever

    @cached_property
    def _towers(self) -> tuple[UserNetwork, ItemNetwork] | None:
        if self.trained.retriever is None:
            return None
        model, data = self._retriever.model, self._retriever.data
        windows, content = self._window(0)
        properties = model.layout.events
        items = data.items.select(torch.arange(max(2, min(ITEMS, data.num_items))) % data.num_items)
        return UserNetwork(model, windows, content, properties), ItemNetwork(model, items)

    @cached_property
    def ranker(self) -> RankerNetwork | None:
        if self.trained.model is None:
            return None
        layout = self.dataset.layout
        names = () if self.trained.retriever is None else self._retriever.feature_names
        return RankerNetwork(self.trained.model, layout.query, layout.item, names, self._request(5))

    def _window(self, user: int) -> tuple[Windows, Tensor]:
        """A user's window as it is now, of the longest length, and the content of its items."""
        data = self._retriever.data
        windows = data.window(user, int(data.ends(NOW)[user]), data.max_length)
        return windows, self._retriever.content[windows.items]

    def _request(self, count: int, user: int = 0) -> RequestBatch:
        """A user's best candidates of the towers, as a request; logged rows of a run that only ranks."""
        if self.trained.retriever is None:
            rows = self.dataset.rows(Part.TRAIN)
            chosen = rows[torch.from_numpy(self._rng.integers(0, len(rows), count))]
            return RequestBatch(
                self.dataset.batch(chosen),
                torch.empty(count, 0),
                torch.zeros(count),
                torch.zeros(count, dtype=torch.bool),
            )
        users, retriever = np.array([user]), self._retriever
        histories, queries = retriever.histories(users, NOW), retriever.queries(users, NOW)
        items = self._rng.permutation(retriever.data.num_items)[None, :count]
        found = retriever.describe(items, queries, histories, np.zeros((*items.shape, 1), dtype=np.int32))
        return request_batch(self.dataset, NOW, users, items, found.features, found.prior)

    def examples(self, count: int) -> Iterator[Example]:
        """Requests of random users with random numbers of random candidates, and the run's answers."""
        most = 200 if self.trained.retriever is None else self._retriever.data.num_items
        for number in range(count):
            user = int(self._rng.integers(max(self.dataset.num_users, 1)))
            inputs: dict[str, AnyArray] = {}
            answers: dict[str, AnyArray] = {}
            if self._towers is not None:
                of_user, of_items = self._towers
                windows, content = self._window(user)
                inputs |= as_arrays(of_user.network, of_user.tensors(windows, content))
                answers["user.vector"] = self._retriever.queries(np.array([user]), NOW)[0]
                size = self._retriever.data.num_items
                rows = self._rng.permutation(size)[: 1 + number % ITEMS]
                block = self._retriever.data.items.select(torch.from_numpy(rows))
                of_tower = as_arrays(of_items.network, of_items.item.tensors(block))
                inputs |= {f"tower.{name}": values for name, values in of_tower.items()}
                answers["item.embedding"] = self._retriever.item_vectors[rows]
            if self.ranker is not None:
                width = 1 if number == 0 else int(self._rng.integers(1, min(most, 500) + 1))
                request = self._request(width, user)
                inputs |= as_arrays(self.ranker.network, self.ranker.tensors(request))
                answers |= self._answer(request)
            yield Example(inputs, answers)

    def _answer(self, request: RequestBatch) -> dict[str, AnyArray]:
        """What the run says of one request: `score` and every task, [C]."""
        assert self.trained.model is not None
        assert self.ranker is not None
        with torch.inference_mode():
            logits = self.trained.model(request if self.ranker.selects else request.batch)
        values = {name: one.numpy()[None] for name, one in logits.items()}
        tasks = task_probabilities(values, self.dataset.config.tasks, self.trained.calibrators)
        found: dict[str, AnyArray] = {name: one[0] for name, one in tasks.items()}
        found |= {f"logit.{name}": one[0] for name, one in values.items()}
        return found | {"score": blend(tasks, effective_blend(self.trained))[0]}

    def write_catalogue(self, folder: Path) -> None:
        """`item_vectors.npy`, `item_content.npy`, and the item columns of the ranker for the whole catalogue."""
        if self._towers is None:
            return
        np.save(folder / "item_vectors.npy", np.asarray(self._retriever.item_vectors), allow_pickle=False)
        np.save(folder / "item_content.npy", self._retriever.content.numpy(), allow_pickle=False)
        if self.ranker is None:
            return
        size = self.dataset.num_catalogue
        for start in range(0, size, BLOCK):
            rows = np.arange(start, min(start + BLOCK, size))
            block = self.dataset.candidates(np.zeros(1, dtype=np.int64), rows[None], NOW).item
            for one, tensor in zip(self.ranker.item.inputs, self.ranker.item.tensors(block), strict=True):
                file = folder / f"{one.name}.npy"
                shape = (size, *tensor.shape[1:])
                if start == 0:
                    np.lib.format.open_memmap(file, "w+", tensor.numpy().dtype, shape).flush()
                np.lib.format.open_memmap(file, "r+")[rows] = tensor.numpy()

    @cached_property
    def pair_columns(self) -> list[str]:
        """Item columns of the ranker that depend on the user as well."""
        sides = {spec.name: spec.side for spec in self.dataset.config.features}
        counted = [
            name
            for table in self.dataset.counts
            if {"item"} < {sides[key] for key in table.spec.keys}
            for name in statistic_names(table.spec)
        ]
        derived = [one.spec.name for one in self.dataset.derived if one.spec.of_pair]
        matches = [f"{s.name}.{name}.matches" for s in self.dataset.sequence_specs for name in s.matches]
        return [*counted, *derived, *matches]
