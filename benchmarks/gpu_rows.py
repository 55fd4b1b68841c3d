"""The rows of `gpu.py`: what is measured, on which made-up data, against which floor, and how it is checked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from recsys.base.device import CPU, to_device
from recsys.base.topk import exact_topk
from recsys.data.batch import Batch, Block, Layout, SideLayout
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.loader import Loader
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig, TaskSpec
from recsys.data.split import Part
from recsys.nn.embedding import EmbeddingTable
from recsys.ranking.balance import BalanceConfig, build_balance
from recsys.ranking.losses import LossConfig
from recsys.ranking.ranker import build_ranker, ranker_class
from recsys.ranking.requests import SelectConfig
from recsys.ranking.step import RankingStep
from recsys.retrieval.index import ExactIndex, FaissIndex
from recsys.retrieval.index.families import has_faiss
from recsys.retrieval.index.tuning import build_index
from recsys.retrieval.towers.full_softmax import full_softmax_loss
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.sparse import TableKind

TASKS = (TaskSpec(name="click"), TaskSpec(name="buy"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: is measured.
        shape: of it.
        seconds: median.
        says: what it comes to.
        floor: seconds that memory or multipliers would need alone; None where no floor is known.
        more: for the JSON file.
    """

    what: str
    shape: str
    seconds: float
    says: str = ""
    floor: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        found = {"what": self.what, "shape": self.shape, "ms": self.seconds * 1e3, "says": self.says}
        return found | ({} if self.floor is None else {"floor_ms": self.floor * 1e3}) | self.more


class Bench:
    """A device, sizes and a clock.

    Args:
        device: what is measured.
        small: sizes that show only whether a row works.
    """

    bytes_a_second = 1.0
    operations_a_second = 1.0

    def __init__(self, device: torch.device, small: bool) -> None:
        self.device, self.small = device, small
        self.gpu = device.type == "cuda"
        self.checks: dict[str, float] = {}
        torch.manual_seed(0)

    def size(self, whole: int, small: int) -> int:
        """How large something is."""
        return small if self.small else whole

    def check(self, name: str, holds: bool, error: float, most: float = 0.0) -> None:
        """Refuse to time what is wrong.

        Raises:
            RuntimeError: it does not hold, or the error is larger than `most`.
        """
        self.checks[name] = error
        if not holds or not error <= most:
            raise RuntimeError(f"{name} is wrong, and not timed: largest error {error:.3g}, allowed {most:.3g}")

    def seconds(self, work: Callable[[], object], device: torch.device | None = None, runs: int = 7) -> float:
        """Median of several runs after two that warm up; on a GPU by its own events."""
        on_gpu = (device or self.device).type == "cuda"
        found = []
        for run in range(runs + 2):
            if on_gpu:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                work()
                end.record()
                end.synchronize()
                spent = begin.elapsed_time(end) / 1e3
            else:
                started = time.perf_counter()
                work()
                spent = time.perf_counter() - started
            if run >= 2:
                found.append(spent)
        return float(np.median(found))

    @cached_property
    def dataset(self) -> Dataset:
        """A log of a large catalogue: users with some 40 events each, in time order."""
        events, items = self.size(4_000_000, 4_000), self.size(1_000_000, 200)
        rng = np.random.default_rng(0)
        user = rng.integers(0, max(2, events // 40), events)
        item = np.concatenate([np.arange(items), (items * rng.random(events - items) ** 2).astype(np.int64)])
        columns = {
            "user_id": user,
            "item_id": rng.permutation(item),
            "timestamp": np.arange(events) + 1_700_000_000,
            "click": (rng.random(events) < 0.3).astype(np.int8),
            "buy": (rng.random(events) < 0.1).astype(np.int8),
        }
        config = DataConfig.model_validate(
            {
                "events": "events.parquet",
                "features": [
                    {"name": "user_id", "side": "user"},
                    {"name": "item_id", "side": "item"},
                ],
                "tasks": [{"name": "click"}, {"name": "buy"}],
                "split": {"kind": "time", "valid": 0.05, "test": 0.05},
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.parquet"
            parquet.write_table(pa.table(columns), path)
            return build_dataset(read_tables(path), config, 0)


def sparse(bench: Bench) -> list[Row]:
    """One step of a table: lookups summed by row and the rows moved."""
    fields, batch, width = 26, bench.size(65_536, 512), 16
    lookups = fields * batch
    table_rows, generator = bench.size(20_000_000, 20_000), torch.Generator().manual_seed(1)
    # Every second lookup repeats an earlier one, so that half of them are distinct rows.
    distinct = torch.randperm(table_rows - 1, generator=generator)[: lookups // 2] + 1
    rows = to_device(distinct.repeat(2)[torch.randperm(2 * len(distinct), generator=generator)], bench.device)
    values = torch.randn(len(rows), width, device=bench.device)
    found = []
    kinds: dict[TableKind, int] = {"rowwise_adagrad": 4, "adam": 8}
    for kind, passes in kinds.items():
        table = EmbeddingTable({"id": table_rows}, width)
        optimizer = Optimizer(table, OptimConfig(table_optimizer=kind), 10)
        optimizer.to(bench.device)
        [moved] = optimizer.tables.values()
        before = table.weight.detach().clone()

        def step(table: EmbeddingTable = table, optimizer: Optimizer = optimizer) -> None:
            table.weight.grad = torch.sparse_coo_tensor(
                rows[None], values, table.weight.shape, check_invariants=False, device=bench.device
            )
            optimizer.step()

        step()
        some = rows[:64]
        sums = torch.stack([values[rows == row].double().sum(0) for row in some])
        root = sums.abs() if kind == "adam" else sums.square().mean(1, keepdim=True).sqrt()
        expected = before[some].double() - optimizer.config.lr * sums / root.clamp(min=1e-12)
        error = float((table.weight.detach()[some].double() - expected).abs().max())
        still = float((table.weight.detach()[0] - before[0]).abs().max())
        bench.check(f"sparse {kind}", still == 0.0 and len(moved.slots) > 0, error, 1e-5)
        seconds = bench.seconds(step)
        traffic = 4 * width * (3 * len(rows) + passes * len(distinct))
        shape = f"{fields} x {batch:,} lookups of {width}, half distinct, {table_rows:,} rows"
        found.append(Row(f"sparse step, {kind}", shape, seconds, floor=traffic / bench.bytes_a_second))
        del table, optimizer, moved, before
    return found


def softmax(bench: Bench) -> list[Row]:
    """The loss over a whole catalogue, forth and back."""
    positives, items, width = bench.size(8192, 128), bench.size(30_000, 500), 128
    user, item = (torch.randn(n, width, device=bench.device) * 0.3 for n in (positives, items))
    user.requires_grad_()
    item.requires_grad_()
    targets = torch.randint(items, (positives,), device=bench.device)

    def loss(reduced: bool = False, some: slice = slice(None)) -> Tensor:
        return full_softmax_loss(user[some], item, targets[some], reduced=reduced)

    few = slice(0, 64)
    exact_user, exact_item = user.detach()[few].double().requires_grad_(), item.detach().double().requires_grad_()
    exact = torch.nn.functional.cross_entropy(exact_user @ exact_item.T, targets[few])
    exact.backward()
    item.grad = torch.full_like(item, 7.0)
    item.grad.zero_()
    loss(some=few).backward()
    assert exact_item.grad is not None
    off = float((item.grad - exact_item.grad).abs().max() / exact_item.grad.abs().max())
    bench.check("softmax", bool(torch.isfinite(item.grad).all()), off, 1e-3)
    floor = 6 * positives * items * width / bench.operations_a_second
    shape = f"{positives:,} x {items:,} x {width}"

    def both(reduced: bool) -> None:
        user.grad = item.grad = None
        loss(reduced).backward()

    names = {False: "float32", True: "tf32" if bench.gpu else "bf16"}
    return [
        Row(f"full softmax, {name}", shape, bench.seconds(lambda reduced=reduced: both(reduced)), floor=floor)  # type: ignore[misc]
        for reduced, name in names.items()
    ]


def _fields(bench: Bench, rows: int) -> tuple[Layout, Batch]:
    """26 columns of ids, and a labelled batch of them."""
    names = [f"f{place}" for place in range(26)]
    size = bench.size(100_000, 500)
    sides = SideLayout(tuple(names[:13])), SideLayout(tuple(names[13:]))
    layout = Layout(*sides, dict.fromkeys(names, size))
    generator = torch.Generator().manual_seed(2)
    query, item = (
        Block(torch.randint(1, size, (rows, 13), generator=generator), torch.empty(rows, 0)) for _ in range(2)
    )
    labels = (torch.rand(rows, 2, generator=generator) < 0.3).float()
    return layout, Batch(query=query, item=item, labels=labels, mask=torch.ones(rows, 2, dtype=torch.bool))


def mmoe(bench: Bench) -> list[Row]:
    """A whole step of MMoE from resident data, here and on the same machine's CPU."""
    rows = bench.size(65_536, 256)
    layout, batch = _fields(bench, rows)
    config = ranker_class("mmoe").Config.model_validate(
        {
            "kind": "mmoe",
            "num_experts": 4,
            "expert_hidden": (256, 128),
            "tower_hidden": (64,),
            "dropout": 0.0,
            "input": {"embedding_dim": 16},
        }
    )

    def stepping(device: torch.device) -> tuple[RankingStep, Optimizer]:
        ranker = build_ranker(config, layout, TASKS, 0)
        balance = build_balance(BalanceConfig(), TASKS)
        parts = torch.nn.ModuleDict({"model": ranker, "balance": balance})
        optimizer = Optimizer(parts, OptimConfig(), 100)
        optimizer.to(device)
        return RankingStep(ranker, ranker, balance, LossConfig(), SelectConfig(), None, optimizer, 0), optimizer

    found, losses = [], []
    for device in dict.fromkeys((CPU, bench.device)):
        step, optimizer = stepping(device)
        moved = step.prepare(batch).to(device)

        def work(step: RankingStep = step, optimizer: Optimizer = optimizer, moved: Any = moved) -> Tensor:
            terms = step(moved)
            step.backward(terms)
            optimizer.step()
            optimizer.zero_grad()
            return terms["loss"]

        losses.append([float(work()) for _ in range(3)])
        seconds = bench.seconds(work, device, 7 if device.type == "cuda" else 3)
        found.append(Row(f"MMoE step on {device.type}", f"26 x 16, 4 experts 256-128, {rows:,} rows", seconds))
    bench.check("mmoe", len(losses) > 0, max(abs(a - b) / a for a, b in zip(losses[0], losses[-1], strict=True)), 1e-4)
    first = found[0].seconds
    return [
        Row(row.what, row.shape, row.seconds, f"{rows / row.seconds:,.0f} rows/s, {first / row.seconds:.1f} x CPU")
        for row in found
    ]


def towers(bench: Bench) -> list[Row]:
    """A step of the towers with the mixed loss, batches drawn on the CPU and copied."""
    config = RetrievalConfig.model_validate(
        {"loss": "mixed", "negatives": bench.size(8192, 64), "tower": {"dropout": 0, "history": {"dropout": 0}}}
    )
    data = TowerData.of(bench.dataset, config.tower, "")
    tokens = bench.size(65_536, 500)
    losses, found = [], []
    for device in dict.fromkeys((CPU, bench.device)):
        model = build_two_tower(data, config.tower, 0)
        windows = iter(WindowLoader(data, Part.VALID, tokens, 0))
        optimizer = Optimizer(model, config.optim, 100)
        optimizer.to(device)
        step = RetrievalStep(model, data, config, 0, False, device=device)
        batches = [step.prepare(next(windows)) for _ in range(2)]
        events = int(batches[1].windows.present.sum())

        def work(place: int = 1, step: Any = step, optimizer: Any = optimizer, batches: Any = batches) -> Tensor:
            terms = step(batches[place].to(step.device))
            terms["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            loss: Tensor = terms["loss"].detach()
            return loss

        losses.append([float(work(0)), float(work(1))])
        seconds = bench.seconds(work, device, 7 if device.type == "cuda" else 3)
        shape = f"{data.num_items:,} items, {events:,} events"
        found.append(Row(f"tower step on {device.type}", shape, seconds, f"{events / seconds:,.0f} events/s"))
    bench.check(
        "towers", len(losses) > 0, max(abs(a - b) / a for a, b in zip(losses[0], losses[-1], strict=True)), 1e-4
    )
    return found


def loader(bench: Bench) -> list[Row]:
    """Shuffled batches of logged rows, made on the CPU and copied to the device."""
    rows, size = bench.dataset.rows(Part.TRAIN), bench.size(65_536, 256)
    batches = Loader(bench.dataset, rows, size, 0)
    bench.check("loader", sum(batch.rows for batch in batches) == len(rows), 0.0)

    def work() -> None:
        for place, batch in enumerate(batches):
            batch.to(bench.device)
            if place == 15:
                break
        batches.epoch = batches.position = 0

    batches.epoch = 0
    count = min(16, len(batches))
    seconds = bench.seconds(work, runs=3) / count
    return [Row("loader, streamed", f"{size:,} rows", seconds, f"{size / seconds:,.0f} rows/s")]


def _clusters(items: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(max(2, items // 250), width)).astype(np.float32)
    near = centres[rng.integers(0, len(centres), items + queries)]
    found = near + 0.4 * rng.normal(size=near.shape).astype(np.float32)
    return found[:items], found[items:]


def topk(bench: Bench) -> list[Row]:
    """The exact search: 100 of a million, ties and filters planted."""
    items, width, k = bench.size(1_000_000, 3_000), 64, bench.size(100, 20)
    vectors, queries = _clusters(items, width, bench.size(1024, 40))
    vectors[items // 2 : items // 2 + 2 * k] = vectors[items // 2]
    queries[0] = vectors[items // 2]
    index = ExactIndex(vectors, bench.device)
    rows = index.search(queries, k).rows
    known, _ = exact_topk(queries, vectors, k, device=bench.device)
    bench.check("top-k", True, float((np.sort(rows) != np.sort(known)).any(1).mean()), 0.002)
    seconds = bench.seconds(lambda: index.search(queries, k))
    share = index.proofs.share
    says = f"{len(queries) / seconds:,.0f} queries/s; {share:.2%} searched again in float32"
    floor = 2 * len(queries) * items * width / bench.operations_a_second
    return [Row("exact top-k", f"{len(queries):,} of {items:,} x {width}, k = {k}", seconds, says, floor)]


def crossover(bench: Bench) -> list[Row]:
    """The exact search on the device against the tuned index of the CPU, over sizes and batches."""
    found = []
    for items in (2_000, 4_000) if bench.small else (10_000, 100_000, 1_000_000, 10_000_000):
        vectors, queries = _clusters(items, 64, 1024)
        exact = ExactIndex(vectors, bench.device)
        engines: dict[str, Any] = {f"exact, {bench.device.type}": exact}
        if has_faiss() and items <= 1_000_000:
            factory = "Flat" if items < 10_000 else "IVF,SQ8"
            engines["FAISS, cpu"] = build_index(vectors, queries[512:], factory, 0.98, check_queries=256)[0]
            assert isinstance(engines["FAISS, cpu"], FaissIndex)
        elif bench.gpu and items <= 1_000_000:
            engines["exact, cpu"] = ExactIndex(vectors)
        for name, engine in engines.items():
            for batch in (1, 32, 1024):
                asked, device = queries[:batch], CPU if name.endswith("cpu") else bench.device
                slow = batch == 1024 and device == CPU
                seconds = bench.seconds(lambda: engine.search(asked, 100), device, 3 if slow else 7)  # noqa: B023
                shape = f"{items:,} items, {batch} queries, {name}"
                more = {"line": f"{name}, {batch}", "items": items}
                found.append(Row("crossover", shape, seconds, f"{batch / seconds:,.0f} queries/s", None, more))
        del exact, engines
    return found
