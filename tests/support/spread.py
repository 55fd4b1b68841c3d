"""A small model of which every kind of lookup reads tables, trained whole or in pieces, with checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from recsys.base import ranks
from recsys.data.loader import Loader
from recsys.nn.embedding import EmbeddingTable, mean_share, tables_of
from recsys.training.checkpoint import Checkpointer
from recsys.training.engines.pieces import Shard
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import Runtime

ROWS = 96
Found = dict[str, Tensor]


class Reader(nn.Module):
    """Rows of two vocabularies, one of them twice, a small one, a bag of tags, and a table of one number a row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = EmbeddingTable({"user": 40, "tag": 50, "tiny": 4, "item": 23}, 8, std=0.3)
        self.table.bags = frozenset({"tag"})
        self.bias = EmbeddingTable({"item": 23}, 1, std=0.1)
        self.output = nn.Linear(8 * 4, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The score of each row."""
        at = self.table.offsets
        tags = batch["tags"]
        first = self.table(torch.stack([batch["user"] + at["user"], batch["tiny"] + at["tiny"]], 1)).flatten(1)
        again = self.table(batch["item"] + at["item"])
        past = torch.stack([batch["user"] * 7 % 23, batch["user"] % 23], 1)
        share = torch.cat([mean_share(tags > 0), mean_share(past > 0)], 1)
        summed = self.table.pooled(torch.cat([tags + at["tag"], past + at["item"]], 1), share)
        x = torch.cat([first, again, summed], 1)
        return (self.output(x) + self.bias(batch["item"])).squeeze(1)


class Log:
    """Rows with a label; every process sees its share of a batch."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        size = {"user": 40, "item": 23, "tiny": 4}
        self.columns = {name: torch.randint(0, rows, (ROWS,), generator=draw) for name, rows in size.items()}
        self.columns["tags"] = torch.randint(0, 50, (ROWS, 3), generator=draw)
        self.labels = torch.rand(ROWS, generator=draw).round()

    def batch(self, rows: Tensor) -> Found:
        """Of this process."""
        own = ranks.share(rows)
        return {"label": self.labels[own], **{name: column[own] for name, column in self.columns.items()}}


def trained(
    runtime: Runtime, folder: Path | None = None, epochs: int = 3, *, resume: bool = False, metric: str = ""
) -> Found:
    """Weights and moments after a training, and the loss of every step.

    The metric that may choose an epoch looks everything up, as validation does; it prefers the second epoch.
    """
    torch.manual_seed(5)
    model = Reader()
    config = OptimConfig(lr=0.1, table_optimizer="rowwise_adagrad", warmup_steps=2, schedule="cosine")
    loader = Loader(Log(), torch.arange(ROWS), 20, 3)
    optimizer = Optimizer(model, config, 4 * len(loader))
    losses: list[Tensor] = []

    def step(batch: Found) -> Found:
        apart = (model(batch) - batch["label"]).square()
        loss = ranks.whole_mean(apart.sum(), torch.tensor(float(len(apart))))
        losses.append(loss.detach())
        return {"loss": loss}

    def evaluate() -> dict[str, float]:
        with torch.inference_mode():
            seen = model({**Log().columns, "label": Log().labels})
        return {"apart": float(seen.abs().mean()), "second": -abs(loader.epoch - 2.0)}

    keeper = None if folder is None else Checkpointer(folder, every_steps=3, resume=resume, keep=20)
    options = FitOptions(epochs=epochs, metric=metric, patience=0)
    history = fit(step, loader, optimizer, options, evaluate=evaluate, checkpointer=keeper, runtime=runtime)
    assert all(table.spread is None and table.held == table.offsets for table in tables_of(model).values())
    state = {name: tensor.float() for name, tensor in optimizer.state_dict().items()}
    seen = torch.tensor([float(record["apart"]) for record in history.records])
    return {"losses": torch.stack(losses), "seen": seen, **model.state_dict(), **state}


def engine(shard: Shard = "auto") -> Runtime:
    """TorchRec for every vocabulary but the tiny one."""
    return Runtime(1, engine="torchrec", shard=shard, shard_from=10)


def every_way(folder: Path) -> Found:
    """By rows, by tables, with the second of three epochs chosen, and checkpoints of both ways of lying."""
    ways = {
        "whole": trained(Runtime(1)),
        "row_wise": trained(engine("row_wise"), folder / "row_wise", 2),
        "table_wise": trained(engine("table_wise"), folder / "table_wise", 2, metric="second"),
        "chosen": trained(engine(), metric="second"),
        "left alone": trained(engine()),
        "from whole": trained(engine(), folder / "whole", resume=True),
    }
    return {f"{way}: {name}": tensor for way, found in ways.items() for name, tensor in found.items()}


def resumed(folder: Path, shard: Shard) -> Found:
    """The third epoch after a checkpoint of two, in as many processes as there are now."""
    return trained(engine(shard), folder, 3, resume=True, metric="second" if folder.name == "table_wise" else "")
