"""A small world with every kind of column, and rankers on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..data.batch import Batch, Block, Layout, SequenceField, SideLayout
from ..data.schema import TaskSpec
from ..ranking.ranker import Ranker, build_ranker, ranker_class

TOY_TASKS = (
    TaskSpec(name="click"),
    TaskSpec(name="conversion", where="click"),
    TaskSpec(name="watch", kind="regression", log1p=True),
)


class Toy:
    """A small world with every kind of column, and rankers on it: what the tests of both rooms of networks share."""

    tasks = TOY_TASKS
    layout = Layout(
        query=SideLayout(
            categorical=("user", "tab"),
            numeric=("age", "activity"),
            sequences=(SequenceField("history", of=("item", "category"), properties=("gap",), length=4),),
        ),
        item=SideLayout(categorical=("item", "category"), numeric=("price",), bags=("tag",), vectors=(("text", 3),)),
        sizes={"user": 9, "tab": 4, "item": 12, "category": 5, "gap": 6, "tag": 7},
    )

    def query(self, rows: int, seed: int = 0) -> Block:
        """Users and moments: missing numbers, histories of 0 to 4 events."""
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.arange(rows) % 5
        events = torch.stack([self._rows(rows, 4, name, generator) for name in ("item", "category", "gap")], dim=2)
        events = events * (torch.arange(4) < lengths[:, None]).unsqueeze(2)
        categorical = torch.cat([self._rows(rows, 1, name, generator) for name in ("user", "tab")], dim=1)
        return Block(categorical, self._numbers(rows, 2, generator), sequences=(events,))

    def items(self, rows: int, seed: int = 1) -> Block:
        """Items: a bag that may be empty, a vector."""
        generator = torch.Generator().manual_seed(seed)
        categorical = torch.cat([self._rows(rows, 1, name, generator) for name in ("item", "category")], dim=1)
        tags = self._rows(rows, 3, "tag", generator) * (torch.arange(3) < torch.arange(rows)[:, None] % 4)
        vectors = torch.randn(rows, 3, generator=generator)
        return Block(categorical, self._numbers(rows, 1, generator), bags=(tags,), vectors=(vectors,))

    def batch(self, rows: int = 32, seed: int = 0) -> Batch:
        """Rows with labels; a label outside its sample space is NaN."""
        generator = torch.Generator().manual_seed(seed + 99)
        click = (torch.rand(rows, generator=generator) < 0.5).float()
        bought = (torch.rand(rows, generator=generator) < 0.5).float()
        watch = torch.rand(rows, generator=generator) * 20
        mask = torch.ones(rows, 3, dtype=torch.bool)
        mask[:, 1] = click > 0
        labels = torch.where(mask, torch.stack([click, bought, watch], dim=1), torch.nan)
        weight = torch.rand(rows, generator=generator) + 0.5
        return Batch(
            query=self.query(rows, seed), item=self.items(rows, seed + 1), labels=labels, mask=mask, weight=weight
        )

    def requests(self, candidates: int, queries: int = 1, seed: int = 0) -> Batch:
        """`queries` users with `candidates` items each; the query side appears once."""
        owner = torch.arange(queries).repeat_interleave(candidates)
        return Batch(query=self.query(queries, seed), item=self.items(queries * candidates, seed + 1), owner=owner)

    @staticmethod
    def spread(batch: Batch) -> Batch:
        """The same rows with the query side repeated."""
        assert batch.owner is not None
        return replace(batch, query=batch.query.select(batch.owner), owner=None)

    def config(self, kind: str, **keys: Any) -> Any:
        """The configuration of a ranker, small: `input` keys are merged with a small embedding and history."""
        history: dict[str, Any] = {"hidden": 8, "attention_hidden": 4, "dropout": 0.0, "fast": False}
        history["encoder"] = "dupn" if kind == "dupn" else "mean"
        given = keys.pop("input", {})
        inputs = {"embedding_dim": 4, "init_std": 0.5, **given, "history": {**history, **given.get("history", {})}}
        return ranker_class(kind).Config.model_validate({"kind": kind, "input": inputs, **keys})

    def ranker(self, kind: str, *, tasks: Sequence[TaskSpec] = TOY_TASKS, seed: int = 0, **keys: Any) -> Ranker:
        """A ranker on this world."""
        return build_ranker(self.config(kind, **keys), self.layout, tasks, seed)

    def _rows(self, rows: int, columns: int, vocabulary: str, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(1, self.layout.sizes[vocabulary], (rows, columns), generator=generator)

    @staticmethod
    def _numbers(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
        numbers = torch.randn(rows, columns, generator=generator)
        return numbers.masked_fill(torch.rand(rows, columns, generator=generator) < 0.2, torch.nan)
