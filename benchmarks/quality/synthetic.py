"""Related and unrelated tasks: MMoE over one gate, PLE over MMoE, and how much luck decides (MMoE paper, section 3).

Two regression tasks whose weights have a set cosine p (`synthetic_tasks`). Every run draws new tasks, new rows
and new weights; all models of a run see the same rows in the same order, and nothing is seen twice, so there is nothing
to overfit. MMoE and OMoE have 8 experts of 16 units and towers of 8, as in the paper; the shared bottom (113 units) and
the others are sized to the same number of parameters. Adam, constant learning rate. Reported: mean squared error on
fresh rows, beside the noise's own variance of 0.01, which no model can go below.

Expected from the papers, as shapes and not as numbers: all models get worse as p falls; the gap between MMoE and OMoE
is about nothing at p = 1 and grows as p falls; the shared bottom varies most between runs; PLE is at or below MMoE.

    python benchmarks/quality/synthetic.py --seeds 1-20
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.base.arrays import F32
from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.finished import Arrays, Done, of_seeds
from recsys.benchmarks.harness.lab import fill, paragraphs
from recsys.benchmarks.harness.paired import half_interval
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.quality.synthetic_tasks import SyntheticConfig, SyntheticTasks
from recsys.data.batch import Batch, Block, Layout, SideLayout
from recsys.data.schema import TaskSpec
from recsys.ranking.losses import LossConfig
from recsys.ranking.ranker import Ranker, RankerConfig, build_ranker, ranker_class
from recsys.training.loop import evaluation_mode
from recsys.training.optim import OptimConfig, Optimizer

TASKS = (TaskSpec(name="first", kind="regression"), TaskSpec(name="second", kind="regression"))
WIDTH, EXPERTS, EXPERT, TOWER = 100, 8, 16, 8
TEST_ROWS = 20_000
MODELS = ("single_task", "shared_bottom", "omoe", "mmoe", "ple")
LABELS = {"single_task": "single-task", "shared_bottom": "shared bottom", "omoe": "OMoE", "mmoe": "MMoE", "ple": "PLE"}
FIGURE = "synthetic.png"
INPUT = {"embedding_dim": 1}


@dataclass(frozen=True)
class Plan:
    """How long to train.

    Attributes:
        steps: number of updates.
        batch: rows of each, all fresh.
        lr: constant learning rate.
    """

    steps: int
    batch: int
    lr: float


def layout() -> Layout:
    """Numbers only."""
    return Layout(SideLayout(numeric=tuple(f"x{i}" for i in range(WIDTH))), SideLayout(), {})


def model_config(name: str) -> RankerConfig:
    """Configuration of a model at about MMoE's size."""
    kind = "moe" if name == "omoe" else name

    def config(width: int) -> RankerConfig:
        keys: dict[str, dict[str, Any]] = {
            "single_task": {"hidden": [width]},
            "shared_bottom": {"bottom_hidden": [width]},
            "moe": {"num_experts": EXPERTS, "expert_hidden": [width]},
            "mmoe": {"num_experts": EXPERTS, "expert_hidden": [width]},
            "ple": {"levels": [{"task_experts": 2, "shared_experts": 4}] * 2, "expert_hidden": [width]},
        }
        table = {"kind": kind, "tower_hidden": [TOWER], "input": INPUT, **keys[kind]}
        return ranker_class(kind).Config.model_validate(table)

    if name == "mmoe":
        return config(EXPERT)
    target = parameters(build_ranker(model_config("mmoe"), layout(), TASKS, 0))
    sizes = {width: parameters(build_ranker(config(width), layout(), TASKS, 0)) for width in range(4, 130)}
    return config(min(sizes, key=lambda width: abs(sizes[width] - target)))


def parameters(ranker: Ranker) -> int:
    """Trainable numbers, the value for missing numbers left out: none is missing."""
    return sum(p.numel() for name, p in ranker.named_parameters() if "missing" not in name)


def as_batch(x: F32, y: F32) -> Batch:
    """Rows as a batch of numbers with two labels."""
    rows = len(x)
    query = Block(torch.empty(rows, 0, dtype=torch.int64), torch.from_numpy(x))
    item = Block(torch.empty(rows, 0, dtype=torch.int64), torch.empty(rows, 0))
    labels = torch.from_numpy(y)
    return Batch(
        query=query,
        item=item,
        owner=None,
        labels=labels,
        mask=torch.ones_like(labels, dtype=torch.bool),
        weight=torch.ones(rows),
    )


def train(ranker: Ranker, correlation: float, seed: int, plan: Plan) -> tuple[F32, F32]:
    """Draw two tasks and train on fresh rows; numbers and labels of fresh rows to measure on."""
    tasks = SyntheticTasks.build(SyntheticConfig(width=WIDTH, correlation=correlation, seed=seed))
    optimizer = Optimizer(ranker, OptimConfig(lr=plan.lr), plan.steps)
    rng = np.random.default_rng([seed, 1])
    loss_config = LossConfig()
    for _ in range(plan.steps):
        losses = ranker.losses(as_batch(*tasks.draw(plan.batch, rng)), loss_config)
        torch.autograd.backward(list(losses.values()))
        optimizer.step()
        optimizer.zero_grad()
    return tasks.draw(TEST_ROWS, np.random.default_rng([seed, 2]))


def measure(config: RankerConfig, correlation: float, seed: int, plan: Plan) -> dict[str, float]:
    """One run: draw tasks, train on fresh rows, measure on fresh rows."""
    started = time.perf_counter()
    ranker = build_ranker(config, layout(), TASKS, seed)
    x, y = train(ranker, correlation, seed, plan)
    with evaluation_mode(ranker):
        out = ranker(as_batch(x, y))
    errors = {task.name: float(np.mean((out[task.name].numpy() - y[:, i]) ** 2)) for i, task in enumerate(TASKS)}
    return {
        "mse": float(np.mean(list(errors.values()))),
        **{f"mse/{name}": value for name, value in errors.items()},
        "label_correlation": float(np.asarray(np.corrcoef(y.T))[0, 1]),
        "parameters": float(parameters(ranker)),
        "seconds": time.perf_counter() - started,
    }


def name_of(model: str, correlation: float) -> str:
    """Name of a row."""
    return f"{model} p={correlation:g}"


def record(session: Session, done: Done, model: str, correlation: float, plan: Plan) -> Record:
    """All runs of a model at a correlation."""
    config = model_config(model)
    settings: Json = {"model": config.model_dump(mode="json"), "correlation": correlation, **vars(plan)}
    found = {}
    for seed in session.seeds:

        def now(seed: int = seed) -> tuple[dict[str, float], Arrays]:
            session.runtime(seed)
            return measure(config, correlation, seed, plan), {}

        found[seed] = done.seed(name_of(model, correlation), seed, settings, now, session.args.again)
    errors = [about["metrics"]["mse"] for about, _ in found.values()]
    say(f"  mean squared error {np.mean(errors):.4f} over {len(errors)} runs")
    return Record(
        variant=name_of(model, correlation),
        group=f"cosine of the tasks' weights {correlation:g}",
        about=LABELS[model],
        command=session.command_of(f'"{name_of(model, correlation)}"'),
        seeds=session.seeds,
        data="generated",
        settings=settings,
        extra={"quantiles": dict(zip(("10", "50", "90"), np.quantile(errors, [0.1, 0.5, 0.9]).tolist(), strict=True))},
        **of_seeds(found),
    )


def draw(records: Mapping[str, Json], correlations: Sequence[float], file: Path) -> None:
    """Error and spread of every model over the correlations; MMoE's gain over OMoE, and PLE's over MMoE."""
    with panels(file, 2, (11, 4.2)) as (left, right):

        def runs(model: str, p: float) -> dict[str, float]:
            return {seed: table["mse"] for seed, table in records[name_of(model, p)]["per_seed"].items()}

        there = [m for m in MODELS if all(name_of(m, p) in records for p in correlations)]
        for model in there:
            values = [np.array(list(runs(model, p).values())) for p in correlations]
            (line,) = left.plot(correlations, [v.mean() for v in values], marker="o", label=LABELS[model])
            low, high = ([float(np.quantile(v, q)) for v in values] for q in (0.1, 0.9))
            left.fill_between(correlations, low, high, alpha=0.12, color=line.get_color())
        left.axhline(0.01, color="grey", linewidth=0.8, linestyle=":", label="noise")
        left.set(
            xlabel="cosine of the tasks' weights", ylabel="mean squared error", title="mean, and 10-90 % of the runs"
        )
        left.legend(fontsize=8)
        for better, worse in (("mmoe", "omoe"), ("ple", "mmoe")):
            if better not in there or worse not in there:
                continue
            gains, errors = [], []
            for p in correlations:
                a, b = runs(better, p), runs(worse, p)
                gap = np.array([b[seed] - a[seed] for seed in a if seed in b])
                gains.append(gap.mean())
                errors.append(half_interval(gap))
            right.errorbar(
                correlations, gains, errors, marker="o", capsize=3, label=f"{LABELS[worse]} - {LABELS[better]}"
            )
        right.axhline(0.0, color="grey", linewidth=0.8)
        right.set(xlabel="cosine of the tasks' weights", ylabel="error saved", title="paired over runs, 95 % interval")
        right.legend(fontsize=8)


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [], seeds="1-20")
    options.add_argument("--correlations", default="0,0.5,0.9,1", help="cosines (default: %(default)s)")
    options.add_argument("--steps", type=int, default=6000, help="updates (default: %(default)s)")
    options.add_argument("--batch", type=int, default=128, help="fresh rows of each (default: %(default)s)")
    options.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    session = start(options)
    args = session.args
    correlations = [float(part) for part in args.correlations.split(",")]
    plan = Plan(100 if session.smoke else args.steps, args.batch, args.lr)
    rows = {name_of(model, p): (model, p) for p in correlations for model in MODELS}
    groups = {name: model for name, (model, _) in rows.items()}
    if args.list:
        print("\n".join(groups))
        return
    about = paragraphs(__doc__)
    columns = {"mse": "mean squared error", "mse/first": "first task", "mse/second": "second task"}
    columns |= {"label_correlation": "label correlation", "parameters": "parameters", "seconds": "seconds"}
    book = Book(
        "synthetic", "Synthetic related tasks", about, columns, session.command, folder=args.out, figures=[FIGURE]
    )
    names = pick(groups, args.variants, args.shard)
    done = Done(args.cache / "synthetic")
    fill(book, session, names, "generated", lambda name: record(session, done, *rows[name], plan))
    draw(book.variants(), correlations, args.out / FIGURE)


if __name__ == "__main__":
    run(main)
