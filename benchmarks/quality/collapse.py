"""When experts collapse, and which cure helps: gate temperature, expert dropout, normalised experts.

MMoE as in the synthetic table (8 experts of 16 units, two regression tasks whose weights have a set cosine, fresh rows
at every step), trained under four conditions: as usual; with thirty times the learning rate; with gates that start
skewed, a bias of 10 on the first expert for every task; with gates that start sharp, their weights ten times larger.
Each condition is met without a cure and with each of them. All variants of a run see the same tasks and rows.

Reported on fresh rows: mean squared error (the noise's own is 0.01), the error saved against no cure in the same run,
experts that a gate gives under 1 % of its weight (mean over the gates, of 8), experts that no gate uses or that put out
nothing but 0 (`dead`), entropy of a row's weights and of the mean weights as shares of that of even ones, the largest
share of zeros among an expert's outputs, and the mean similarity (linear CKA) of two experts. A cure that only evens
out the weights shows in the entropies; one that helps shows in the error saved.

    python benchmarks/quality/collapse.py --seeds 1-5
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.finished import Arrays, Done, of_seeds
from recsys.benchmarks.harness.lab import fill, paragraphs
from recsys.benchmarks.harness.paired import half_interval
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.quality.synthetic import (
    EXPERT,
    EXPERTS,
    INPUT,
    TASKS,
    TOWER,
    Plan,
    as_batch,
    layout,
    train,
)
from recsys.ranking.gate_log import ROWS, mixture_report
from recsys.ranking.layers import Gate
from recsys.ranking.mixture import MixtureRanker
from recsys.ranking.ranker import RankerConfig, build_ranker, ranker_class
from recsys.training.loop import evaluation_mode

FIGURE = "collapse.png"


@dataclass(frozen=True)
class Condition:
    """What is done to a training.

    Attributes:
        about: in a line.
        lr: factor on the learning rate.
        bias: of the first expert in every gate at the start.
        sharpness: factor on the gates' weights at the start.
    """

    about: str
    lr: float = 1.0
    bias: float = 0.0
    sharpness: float = 1.0


CONDITIONS = {
    "usual": Condition("as usual"),
    "fast": Condition("learning rate x 30", lr=30.0),
    "skewed": Condition("gates start with bias 10 on the first expert", bias=10.0),
    "sharp": Condition("gates start with weights x 10", sharpness=10.0),
}
CURES: Mapping[str, tuple[str, Json]] = {
    "none": ("no cure", {}),
    "temperature": ("gate temperature 3", {"gate": {"temperature": 3.0}}),
    "dropout": ("experts dropped with probability 0.2", {"gate": {"dropout": 0.2}}),
    "norm": ("normalised experts with Swish", {"expert_norm": True}),
    "all": ("all three", {"gate": {"temperature": 3.0, "dropout": 0.2}, "expert_norm": True}),
}
COLUMNS = {
    "mse": "mean squared error",
    "saved": "error saved",
    "unused": "unused experts per gate",
    "dead": "dead experts",
    "entropy": "entropy within a row",
    "entropy_of_mean": "entropy of the mean",
    "zeros": "largest share of zeros",
    "similarity": "similarity",
    "seconds": "seconds",
}


def model_config(cure: Json) -> RankerConfig:
    """MMoE with a cure; every gate has a bias, so that all variants have the same parameters."""
    table = {"kind": "mmoe", "num_experts": EXPERTS, "expert_hidden": [EXPERT], "tower_hidden": [TOWER], "input": INPUT}
    return ranker_class("mmoe").Config.model_validate({**table, **cure, "gate": {"bias": True, **cure.get("gate", {})}})


def disturb(ranker: MixtureRanker, condition: Condition) -> None:
    """Put the gates where the condition has them start."""
    with torch.no_grad():
        for gate in ranker.modules():
            if isinstance(gate, Gate):
                last: Any = gate.layers[-1]
                last.weight.mul_(condition.sharpness)
                last.bias[0] += condition.bias


def measure(config: RankerConfig, condition: Condition, correlation: float, seed: int, plan: Plan) -> dict[str, float]:
    """One run: draw tasks, train on fresh rows, measure on fresh rows."""
    started = time.perf_counter()
    ranker = build_ranker(config, layout(), TASKS, seed)
    assert isinstance(ranker, MixtureRanker)
    disturb(ranker, condition)
    x, y = train(ranker, correlation, seed, plan)
    with evaluation_mode(ranker):
        out = ranker(as_batch(x, y))
        (level,) = mixture_report(ranker.batch_mixtures(as_batch(x[:ROWS], y[:ROWS])))["levels"]
    gates = level["gates"].values()
    return {
        "mse": float(np.mean([np.mean((out[task.name].numpy() - y[:, i]) ** 2) for i, task in enumerate(TASKS)])),
        "unused": float(np.mean([len(gate["unused"]) for gate in gates])),
        "dead": float(len(level["dead"])),
        "entropy": float(np.mean([gate["entropy"] for gate in gates])),
        "entropy_of_mean": float(np.mean([gate["entropy_of_mean"] for gate in gates])),
        "zeros": max(level["zeros"]),
        "similarity": float("nan") if level["similarity"] is None else level["similarity"],
        "seconds": time.perf_counter() - started,
    }


def name_of(condition: str, cure: str) -> str:
    """Name of a row."""
    return f"{condition} {cure}"


def record(session: Session, done: Done, name: str, base: Json | None, correlation: float, plan: Plan) -> Record:
    """All runs of a cure under a condition; `base` are those without a cure, by seed."""
    condition, cure = name.split(" ")
    how = CONDITIONS[condition]
    config, plan = model_config(CURES[cure][1]), replace(plan, lr=plan.lr * how.lr)
    settings: Json = {"model": config.model_dump(mode="json"), "correlation": correlation, **vars(plan), **vars(how)}
    found = {}
    for seed in session.seeds:

        def now(seed: int = seed) -> tuple[dict[str, float], Arrays]:
            session.runtime(seed)
            return measure(config, how, correlation, seed, plan), {}

        found[seed] = done.seed(name, seed, settings, now, session.args.again)
    per_seed = {str(seed): dict(about["metrics"]) for seed, (about, _) in found.items()}
    before = per_seed if cure == "none" else (base or {})
    for name_of_seed, metrics in per_seed.items():
        if name_of_seed in before:
            metrics["saved"] = before[name_of_seed]["mse"] - metrics["mse"]
    say(f"  mean squared error {np.mean([m['mse'] for m in per_seed.values()]):.4f} over {len(per_seed)} runs")
    return Record(
        variant=name,
        group=how.about,
        about=CURES[cure][0],
        command=session.command_of(f'"{name}"'),
        seeds=session.seeds,
        data="generated",
        settings=settings,
        **of_seeds(found) | {"per_seed": per_seed},
    )


def draw(records: Mapping[str, Json], file: Path) -> None:
    """Error, error saved (paired, 95 % interval) and unused experts of every cure under every condition."""
    with panels(file, 3, (13, 4)) as axes:
        titles = {
            "mse": "mean squared error",
            "saved": "error saved, 95 % interval",
            "unused": "unused experts per gate",
        }
        width = 0.8 / len(CURES)
        for axis, (metric, title) in zip(axes, titles.items(), strict=True):
            for place, (cure, (about, _)) in enumerate(CURES.items()):
                known = [(i, records[n]) for i, c in enumerate(CONDITIONS) if (n := name_of(c, cure)) in records]
                known = [(i, found) for i, found in known if metric in found["mean"]]
                runs = [np.array([m[metric] for m in found["per_seed"].values()]) for _, found in known]
                spread = [half_interval(v) for v in runs]
                at = [i + width * (place - (len(CURES) - 1) / 2) for i, _ in known]
                axis.bar(at, [v.mean() for v in runs], width, yerr=spread, capsize=2, label=about)
            axis.set_xticks(range(len(CONDITIONS)), list(CONDITIONS))
            axis.set_title(title)
        axes[0].legend(fontsize=8)


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [], seeds="1-5")
    options.add_argument("--correlation", type=float, default=0.5, help="cosine of the tasks (default: %(default)s)")
    options.add_argument("--steps", type=int, default=2500, help="updates (default: %(default)s)")
    options.add_argument("--batch", type=int, default=128, help="fresh rows of each (default: %(default)s)")
    options.add_argument("--lr", type=float, default=1e-3, help="usual learning rate (default: %(default)s)")
    session = start(options)
    args = session.args
    plan = Plan(100 if session.smoke else args.steps, args.batch, args.lr)
    groups = {name_of(condition, cure): condition for condition in CONDITIONS for cure in CURES}
    if args.list:
        print("\n".join(groups))
        return
    about = paragraphs(__doc__)
    title = "Expert collapse, and what helps"
    book = Book("collapse", title, about, COLUMNS, session.command, folder=args.out, figures=[FIGURE])
    names = pick(groups, args.variants, args.shard)
    done = Done(args.cache / "collapse")

    def row(name: str) -> Record:
        base = book.variants().get(name_of(groups[name], "none"))
        return record(session, done, name, None if base is None else base["per_seed"], args.correlation, plan)

    fill(book, session, names, "generated", row)
    draw(book.variants(), args.out / FIGURE)


if __name__ == "__main__":
    run(main)
