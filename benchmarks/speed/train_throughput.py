"""Rows per second of MMoE training on Census-Income, loader included, beside a bare loop of the same arithmetic.

The bare loop is what a careful person writes for this one model and data set: plain tensors, offsets added beforehand,
one product for experts and gates, softmax down the columns, a reused buffer for the table's gradient; no loader, no
layers, no masks or checks. Both start from the same weights and see the same batches, and their losses must agree
before anything is timed.

    python benchmarks/speed/train_throughput.py --out throughput.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.benchmarks.harness.provenance import ROOT, write_speed
from recsys.benchmarks.harness.sources import located
from recsys.data.batch import Batch, Block, Layout, SideLayout
from recsys.data.build import load_dataset
from recsys.data.loader import Loader, RowSource
from recsys.data.schema import DataConfig, TaskSpec
from recsys.nn.inputs import InputConfig
from recsys.ranking.losses import LossConfig, multi_task_loss
from recsys.ranking.models.mmoe import MMoEConfig
from recsys.ranking.ranker import Ranker, build_ranker
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import RuntimeConfig, start_runtime

EXPERTS, HIDDEN, TOWER, DIM = 8, 16, 8, 4
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
CONFIG = ROOT / "configs" / "census-income.toml"


@dataclass(frozen=True)
class Data:
    """Training rows of either origin; every column is on the query side."""

    source: RowSource[Batch]
    rows: Tensor
    layout: Layout
    tasks: tuple[TaskSpec, ...]


class SyntheticRows:
    """Random rows in the shape of Census-Income: 31 categories, 7 numbers with their buckets, two labels."""

    def __init__(self, rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor([50] * 31 + [64] * 7)
        self.categorical = (1 + torch.rand(rows, 38, generator=generator) ** 2 * (sizes - 1)).long()
        self.numeric = torch.randn(rows, 7, generator=generator)
        self.numeric[torch.rand(rows, 7, generator=generator) < 0.01] = math.nan
        self.labels = (torch.rand(rows, 2, generator=generator) < 0.3).float()
        names = tuple(f"c{i}" for i in range(38))
        side = SideLayout(categorical=names, numeric=tuple(f"n{i}" for i in range(7)))
        self.layout = Layout(side, SideLayout(), dict(zip(names, sizes.tolist(), strict=True)))

    def batch(self, rows: Tensor) -> Batch:
        """A batch with an empty item side."""
        count = rows.numel()
        query = Block(self.categorical[rows], self.numeric[rows])
        item = Block(torch.empty(count, 0, dtype=torch.int64), torch.empty(count, 0))
        mask = torch.ones(count, 2, dtype=torch.bool)
        return Batch(query=query, item=item, owner=None, labels=self.labels[rows], mask=mask, weight=torch.ones(count))


def load(synthetic: bool, seed: int) -> Data:
    """Census-Income from the configured folder, or random rows of the same shape."""
    if synthetic:
        source = SyntheticRows(199_523, seed)
        return Data(source, torch.arange(199_523), source.layout, (TaskSpec(name="income"), TaskSpec(name="married")))
    config = located(DataConfig.model_validate(tomllib.loads(CONFIG.read_text())["data"]))
    dataset = load_dataset(config, CONFIG.parent, seed)
    return Data(dataset, dataset.rows("train"), dataset.layout, config.tasks)


class Library:
    """The library's own training: `Loader`, `MMoE`, `multi_task_loss`, `Optimizer`, `fit`."""

    def __init__(self, data: Data, batch_size: int, seed: int) -> None:
        config = MMoEConfig(
            num_experts=EXPERTS,
            expert_hidden=(HIDDEN,),
            tower_hidden=(TOWER,),
            input=InputConfig(embedding_dim=DIM),
        )
        self.model: Ranker = build_ranker(config, data.layout, data.tasks, seed)
        self.loader = Loader(data.source, data.rows, batch_size, seed)
        optim = OptimConfig(lr=LR, betas=(BETA1, BETA2), eps=EPS)
        self.optimizer = Optimizer(self.model, optim, total_steps=1)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        losses = multi_task_loss(self.model(batch), batch, self.model.tasks, LossConfig())
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def epoch(self) -> float:
        """One more pass; its mean loss."""
        options = FitOptions(epochs=self.loader.epoch + 1)
        return fit(self.step, self.loader, self.optimizer, options).records[-1]["loss"]


class Bare:
    """The same arithmetic by hand, from the same weights."""

    def __init__(self, data: Data, library: Library) -> None:
        self.loader = library.loader
        whole = data.source.batch(data.rows)
        table = library.model.inputs.encoder.table
        self.place = torch.empty(int(data.rows.max()) + 1, dtype=torch.int64)
        self.place[data.rows] = torch.arange(data.rows.numel())
        self.categorical = whole.query.categorical + table.offsets_of(data.layout.query.categorical)
        self.numeric, self.labels = whole.query.numeric, whole.labels
        self.tasks = len(data.tasks)
        state = {name: tensor.clone() for name, tensor in library.model.state_dict().items()}

        def take(*names: str) -> Tensor:
            return torch.stack([state.pop(name) for name in names]).requires_grad_()

        names = [task.name for task in data.tasks]
        self.table = state.pop("inputs.encoder.table.weight").requires_grad_()
        default = take("inputs.encoder.query.missing.default")
        gates = [state.pop(f"gates.{name}.layers.0.weight") for name in names]
        first = torch.cat([state.pop("experts.weight"), *gates]).requires_grad_()
        bias = state.pop("experts.bias").requires_grad_()
        weight1 = take(*(f"towers.{name}.mlp.0.weight" for name in names))
        bias1 = take(*(f"towers.{name}.mlp.0.bias" for name in names))
        weight2 = take(*(f"towers.{name}.output.weight" for name in names))
        bias2 = take(*(f"towers.{name}.output.bias" for name in names))
        left = [name for name, tensor in state.items() if tensor.numel()]
        if left:
            raise SystemExit(f"the bare loop does not know the weights {left}: bring it up to date with the model")
        self.dense = [default, first, bias, weight1, bias1, weight2, bias2]
        self.adamw = torch.optim.AdamW(self.dense, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=0.0, fused=True)
        self.sums, self.mean, self.square = (torch.zeros_like(self.table) for _ in range(3))
        self.steps = torch.zeros(self.table.shape[0], 1)
        self.epochs = 0

    def loss(self, rows: Tensor) -> Tensor:
        """Sum of the tasks' mean cross-entropies."""
        default, first, bias, weight1, bias1, weight2, bias2 = self.dense
        embedded = F.embedding(self.categorical.index_select(0, rows), self.table, sparse=True)
        numeric = self.numeric.index_select(0, rows)
        numeric = torch.where(torch.isnan(numeric), default, torch.nan_to_num(numeric))
        x = torch.cat([embedded.flatten(1), numeric], 1)
        expert, gate = F.linear(x, first).split([EXPERTS * HIDDEN, self.tasks * EXPERTS], 1)
        experts = torch.relu(expert + bias).view(-1, EXPERTS, HIDDEN)
        down = gate.view(-1, self.tasks, EXPERTS).transpose(0, 2).contiguous()  # [E, T, R]: softmax is slow along 8
        weights = torch.softmax(down, 0).transpose(0, 2)
        mixed = torch.bmm(F.pad(weights, (0, 0, 0, 2)), experts)  # 4 mixtures: a product of 2 is slower
        logits = []
        for task in range(self.tasks):
            hidden = torch.relu(F.linear(mixed[:, task], weight1[task], bias1[task]))
            logits.append(F.linear(hidden, weight2[task], bias2[task]).squeeze(1))
        labels = self.labels.index_select(0, rows)
        losses = F.binary_cross_entropy_with_logits(torch.stack(logits, 1), labels, reduction="none")
        return losses.mean(0).sum()

    @torch.no_grad()
    def update_table(self) -> None:
        """Adam on the rows of the batch."""
        grad, self.table.grad = self.table.grad, None
        rows = grad._indices()[0]
        self.sums.zero_().index_add_(0, rows, grad._values())
        seen = torch.bincount(rows, minlength=self.table.shape[0]).nonzero()[:, 0]
        g = self.sums[seen]
        mean = self.mean[seen].lerp_(g, 1 - BETA1)
        square = self.square[seen].mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        steps = self.steps[seen].add_(1)
        self.mean[seen], self.square[seen], self.steps[seen] = mean, square, steps
        root = square.div_(1 - BETA2**steps).sqrt_().add_(EPS)
        self.table[seen] = self.table[seen].addcdiv_(mean.div_(1 - BETA1**steps), root, value=-LR)

    def epoch(self) -> float:
        """One more pass over the loader's order; its mean loss."""
        order = self.place[self.loader.order(self.epochs)]
        total = 0.0
        for rows in order.split(self.loader.batch_size):
            loss = self.loss(rows)
            loss.backward()
            self.adamw.step()
            self.adamw.zero_grad()
            self.update_table()
            total += float(loss.detach()) * rows.numel()
        self.epochs += 1
        return total / order.numel()


def timed(run: Library | Bare, rows: int) -> float:
    """Rows per second of one pass."""
    start = time.perf_counter()
    run.epoch()
    return rows / (time.perf_counter() - start)


def main() -> None:
    """Parse, check that both learn the same, time them in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--synthetic", action="store_true", help="random rows of the same shape")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7, help="passes of each, in turn")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of both")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runtime = start_runtime(RuntimeConfig(threads=options.threads, precision=options.precision), options.seed)
    data = load(options.synthetic, options.seed)
    library = Library(data, options.batch_size, options.seed)
    bare = Bare(data, library)
    with runtime.arithmetic():
        losses = library.epoch(), bare.epoch()
        if abs(losses[0] - losses[1]) > (1e-2 if runtime.reduced else 1e-4) * losses[1]:
            raise SystemExit(f"the losses of the first pass differ: library {losses[0]:.6f}, bare {losses[1]:.6f}")
        rows = data.rows.numel()
        speeds = [(timed(library, rows), timed(bare, rows)) for _ in range(options.repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratio = statistics.median(a / b for a, b in speeds)
    print(f"{'synthetic rows' if options.synthetic else 'Census-Income'}: {rows} rows, batch {options.batch_size}")
    print(f"library {ours:>10,.0f} rows/s (best {max(a for a, _ in speeds):,.0f})")
    print(f"bare    {theirs:>10,.0f} rows/s (best {max(b for _, b in speeds):,.0f})")
    print(f"ratio   {ratio:>10.3f} (median of {options.repeats} pairs)")
    if options.out:
        result = {
            "threads": runtime.threads,
            "bf16": runtime.reduced,
            "data": "synthetic" if options.synthetic else "census-income",
            "rows": rows,
            "batch_size": options.batch_size,
            "sizes": {"experts": EXPERTS, "expert_hidden": HIDDEN, "tower": TOWER, "embedding": DIM},
            "first_loss": {"library": losses[0], "bare": losses[1]},
            "rows_per_second": {"library": ours, "bare": theirs},
            "ratio": ratio,
            "repeats": [{"library": a, "bare": b} for a, b in speeds],
        }
        write_speed(options.out, "train_throughput", result)


if __name__ == "__main__":
    main()
