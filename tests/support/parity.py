"""Trainings of a few steps, recorded, that one process and several must make alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.base import ranks
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.nn.embedding import EmbeddingTable
from recsys.ranking.config import RankingConfig
from recsys.ranking.requests import RequestSet
from recsys.ranking.step import RankingStep
from recsys.ranking.train import build_training
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import RetrievalConfig, build_towers
from recsys.tests.support.shop import Shop
from recsys.tests.support.taken import taken_at
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import Runtime

Found = dict[str, Tensor]

OPTIM = {"eps": 1e-4}
"""A larger `eps` than is trained with: some gradients are nothing but the rounding of sums (a softmax does not hear
what is added to all of its scores, a gate of nine events hardly moves at first), and Adam makes whole steps of them."""


class _Recorded:
    """A step whose losses are kept."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.losses: list[Tensor] = []

    def __call__(self, batch: Any) -> Found:
        terms: Found = self.step(batch)
        self.losses.append(terms["loss"].detach().clone())
        return terms


def towers(keys: dict[str, Any], steps: int, runtime: Runtime | None = None) -> Found:
    """The towers of the shop with these keys of `[retrieval]`."""
    tower = {"dim": 8, "dropout": 0.0, "history": {"encoder": "mean", "dropout": 0.0}, **keys.get("tower", {})}
    given = {"negatives": 8, "tokens": 60, "optim": OPTIM, **keys, "tower": tower}
    config = RetrievalConfig.model_validate({**given, "positive": "click" if keys.get("loss") == "exposures" else ""})
    training = build_towers(Shop().dataset("time" if config.loss == "exposures" else "leave_last"), config, 0)
    step = RetrievalStep(training.model, training.data, config, 0, False, training.exposures)
    recorded = _Recorded(step)
    epochs = -(-steps // len(training.loader))
    options = FitOptions(epochs=epochs)
    fit(recorded, training.loader, training.optimizer, options, prepare=step.prepare, runtime=runtime)
    return {"losses": torch.stack(recorded.losses), **training.model.state_dict()}


def requests(dataset: Dataset, width: int = 6) -> RequestSet:
    """Thirteen made-up requests, of which one misses its item."""
    rng = np.random.default_rng(4)
    users = rng.integers(0, dataset.num_users, 13)
    rows = np.stack([rng.choice(dataset.num_catalogue, width, replace=False) for _ in users])
    target = rng.integers(0, width, len(users))
    target[3] = -1
    features = rng.normal(size=(*rows.shape, 4)).astype(np.float32)
    prior = np.log(rng.dirichlet(np.ones(width), len(users))).astype(np.float32)
    return RequestSet(
        dataset=dataset,
        moment=int(Part.VALID),
        users=users,
        rows=rows,
        features=features,
        prior=prior,
        taken=taken_at(target, width),
        wanted=np.ones(len(users), dtype=np.int64),
    )


def ranker(
    keys: dict[str, Any], steps: int, runtime: Runtime | None = None, *, select: bool = False, tasks: bool = True
) -> Found:
    """A ranker of the shop with these keys of `[ranking]`, with requests beside the rows, or with requests alone."""
    model = {"dropout": 0.0, **keys.get("model", {})}
    asks = {"dropout": 0.0, "requests_per_step": 5}
    given = {"batch_size": 32, "optim": OPTIM, **keys, "model": model, "select": asks}
    config = RankingConfig.model_validate(given)
    shop = Shop()
    plain = [feature.model_dump() for feature in shop.config().features if feature.kind != "sequence"]
    dataset = shop.dataset("time") if tasks else shop.dataset("time", tasks=[], counts=[], features=plain)
    asked = requests(dataset) if select else None
    training = build_training(dataset, config, runtime or Runtime(1), 0, asked)
    fitted = training.held.fitted if tasks else None
    step = RankingStep(
        training.model, training.ranker, training.balance, config.loss, config.select, fitted, training.optimizer, 0
    )
    recorded = _Recorded(step)
    options = FitOptions(epochs=-(-steps // len(training.loader)))
    fit(
        recorded,
        training.loader,
        training.optimizer,
        options,
        prepare=step.prepare,
        backward=step.backward,
        runtime=runtime,
    )
    return {"losses": torch.stack(recorded.losses), **training.optimizer.model.state_dict()}


def all_of(cases: dict[str, tuple[str, dict[str, Any]]], steps: int, runtime: Runtime | None = None) -> Found:
    """Every case, its tensors under its name."""
    found: Found = {}
    for name, (kind, keys) in cases.items():
        torch.manual_seed(0)
        asked = {"select": kind != "rows", "tasks": kind != "requests"}
        made = towers(keys, steps, runtime) if kind == "towers" else ranker(keys, steps, runtime, **asked)
        found |= {f"{name}: {key}": tensor for key, tensor in made.items()}
    return found


def all_and_uneven(cases: dict[str, tuple[str, dict[str, Any]]], steps: int) -> Found:
    """Both `all_of` and `three_steps_of_uneven_work`, so that processes are started once."""
    uneven = {f"uneven {name}": tensor for name, tensor in three_steps_of_uneven_work().items()}
    return uneven | all_of(cases, steps)


def three_steps_of_uneven_work() -> Found:
    """The last of the processes looks nothing up, and a parameter has a gradient in the others alone."""
    torch.manual_seed(ranks.rank())  # every process draws other weights, which `agree` makes alike
    table, used, unused = EmbeddingTable({"a": 9}, 3), torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    model = torch.nn.ModuleDict({"table": table, "used": used, "unused": unused})
    ranks.agree(model)
    optimizer = Optimizer(model, OptimConfig(lr=0.1, weight_decay=0.1), 3)
    for step in range(3):
        rows = ranks.share(torch.tensor([2, 3, 3, 5 + step])[: ranks.world() - 1 or 4])
        if len(rows):
            total = used(table(rows)).square().sum()
            ranks.whole_mean(total, torch.tensor(float(len(rows)))).backward()
        else:
            ranks.whole_mean(torch.zeros(()), torch.zeros(()))
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.state_dict())
