"""Shared fixtures: where the public data sets lie, and quiet determinism."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.configs.run import RunConfig, load_config
from recsys.data.batch import Batch, Block, Layout, SequenceField, SideLayout
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig, TaskSpec
from recsys.data.world.simulate import SimulateConfig, simulate
from recsys.pipeline.train import build_index, train_run
from recsys.ranking.ranker import Ranker, build_ranker, ranker_class

ROOT = Path(__file__).resolve().parent.parent


class Datasets:
    """Finds public data set files; a missing one skips the test that needs it, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __truediv__(self, relative: str) -> Path:
        path = self.root / relative
        if not path.exists():
            pytest.skip(f"needs the public data file {relative} (set RECSYS_DATASETS to its folder)")
        return path


@pytest.fixture(autouse=True)
def _wide_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as a pipe gets them: parallel test runners say how wide their own terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def datasets() -> Datasets:
    """Root of the public data sets: `datasets / "ml-100k/ml-100k.zip"` is a path, or a skip that names the file."""
    return Datasets(Path(os.environ.get("RECSYS_DATASETS", ROOT.parent / "shared" / "datasets")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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
        return Batch(self.query(rows, seed), self.items(rows, seed + 1), labels=labels, mask=mask, weight=weight)

    def requests(self, candidates: int, queries: int = 1, seed: int = 0) -> Batch:
        """`queries` users with `candidates` items each; the query side appears once."""
        owner = torch.arange(queries).repeat_interleave(candidates)
        return Batch(self.query(queries, seed), self.items(queries * candidates, seed + 1), owner)

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


@pytest.fixture(scope="session")
def toy() -> Toy:
    """See `Toy`."""
    return Toy()


class Shop:
    """A hand-made log with a column of every kind, many events of one second, and its schema."""

    USERS, ITEMS, EVENTS, CUTS = 24, 20, 500, (260, 300)

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        users, items, events = self.USERS, self.ITEMS, self.EVENTS
        self.users = pd.DataFrame(
            {
                "user_id": [f"u{u}" for u in range(users)],
                "city": rng.choice(["A", "B", None], users),
                "age": np.where(rng.random(users) < 0.2, np.nan, rng.integers(18, 70, users)),
                "before": [" ".join(f"i{i}" for i in rng.integers(0, items, u % 3)) for u in range(users)],
            }
        )
        self.items = pd.DataFrame(
            {
                "item_id": [f"i{i}" for i in range(items)],
                "genre": rng.choice(["g1", "g2", "g3"], items),
                "tags": ["|".join(rng.choice(list("abcd"), i % 4, replace=False)) for i in range(items)],
                "price": np.where(np.arange(items) % 5 == 0, 0.0, rng.random(items) * 50),
                "text": ["" if i == 3 else "|".join(f"{x:.3f}" for x in rng.normal(size=3)) for i in range(items)],
            }
        )
        click = (rng.random(events) < 0.5).astype(int)
        self.events = pd.DataFrame(
            {
                "user_id": [f"u{u}" for u in rng.integers(0, users, events)],
                "item_id": [f"i{i}" for i in rng.integers(0, items, events)],
                "timestamp": np.sort(rng.integers(0, 340, events)),  # ties on purpose
                "tab": rng.choice(["home", "search", "feed"], events),
                "hour": rng.integers(0, 24, events).astype(float),
                "stars": rng.integers(1, 6, events),
                "click": click,
                "like": np.where(rng.random(events) < 0.1, np.nan, click * rng.integers(0, 2, events)),
                "part": rng.choice(["train", "valid", "test"], events, p=[0.7, 0.15, 0.15]),
            }
        )

    def config(self, kind: str = "time", **changes: Any) -> DataConfig:
        """Schema with the given split; `changes` replace whole keys of it."""
        split = {"kind": kind, "valid_from": str(self.CUTS[0]), "test_from": str(self.CUTS[1]), "column": "part"}
        features: list[dict[str, Any]] = [
            {"name": "user_id", "side": "user"},
            {"name": "city", "side": "user"},
            {"name": "age", "side": "user", "kind": "numeric", "bins": 4},
            {"name": "item_id", "side": "item", "min_count": 2},
            {"name": "genre", "side": "item"},
            {"name": "tags", "side": "item", "kind": "multi", "max_length": 3},
            {"name": "price", "side": "item", "kind": "numeric", "bins": 4},
            {"name": "text", "side": "item", "kind": "vector"},
            {"name": "tab", "side": "context"},
            {"name": "hour", "side": "context", "kind": "numeric", "bins": 5},
            {"name": "stars", "side": "context", "after_event": True},
            {
                "name": "recent",
                "side": "user",
                "kind": "sequence",
                "of": ["item_id", "genre"],
                "matches": ["genre"],
                "properties": ["gap", "click"],
                "length": 4,
            },
            {
                "name": "clicked",
                "side": "user",
                "kind": "sequence",
                "of": ["item_id"],
                "where": "click",
                "prior": "before",
                "length": 6,
            },
        ]
        counts = [
            {"keys": ["item_id"], "tasks": ["click", "like"], "smoothing": 3.0},
            {"keys": ["user_id", "tab"], "tasks": ["click"]},
            {"keys": ["user_id", "genre"], "tasks": ["like"]},
            {"keys": ["tab"], "tasks": []},
        ]
        tasks = [{"name": "click"}, {"name": "like", "where": "click"}]
        whole = {"events": "events", "features": features, "counts": counts, "tasks": tasks, "split": split}
        return DataConfig.model_validate({**whole, **changes})

    def dataset(
        self, kind: str = "time", events: pd.DataFrame | None = None, *, users: bool = True, **changes: Any
    ) -> Dataset:
        """Encode the log, or other events in its place; without `users` the user table is left out."""
        frame = self.events if events is None else events
        tables = read_tables(frame, self.users if users else None, self.items)
        return build_dataset(tables, self.config(kind, **changes), seed=1)


@pytest.fixture(scope="session")
def shop() -> Shop:
    """See `Shop`."""
    return Shop()


TINY = (
    "runtime.threads=1",
    "retrieval.fit.epochs=3",
    "retrieval.tower.dim=8",
    "retrieval.num_candidates=20",
    "ranking.fit.epochs=2",
    "ranking.batch_size=512",
    "ranking.model.num_experts=2",
    "ranking.model.expert_hidden=[16]",
    "ranking.model.dropout=0.2",  # one rate everywhere: each costs a mask
    "ranking.select.dropout=0.2",
    "evaluation.ks=[5, 20]",
    "evaluation.list_k=5",
    "evaluation.draws=40",
)
"""`--set` options that make a training of the tiny world take a second."""


@dataclass(frozen=True)
class TinyRun:
    """A trained run of the tiny world, with its index. Copy the folder before changing it."""

    world: Path
    config_file: Path
    folder: Path

    def config(self, *overrides: str) -> RunConfig:
        """Its configuration, changed."""
        return load_config(self.config_file, [*TINY, *overrides])


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the embedded world, very small, and the demo's configuration `demo.toml`."""
    out = tmp_path_factory.mktemp("world")
    simulate(SimulateConfig(users=120, items=80, sessions=480, days=20, seed=3), out)
    shutil.copy(ROOT / "configs" / "demo.toml", out / "demo.toml")
    return out


@pytest.fixture(scope="session")
def tiny_run(tiny_world: Path) -> TinyRun:
    """See `TinyRun`."""
    run = TinyRun(tiny_world, tiny_world / "demo.toml", tiny_world / "runs" / "tiny")
    threads = torch.get_num_threads()
    train_run(run.config(), run.folder, base=tiny_world)
    build_index(run.folder)
    torch.set_num_threads(threads)
    return run
