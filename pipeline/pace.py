"""How long a training will take: a few of its steps, timed, times their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from ..base.device import CPU
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.loader import Loader
from ..ranking.distil import DistilConfig
from ..ranking.step import RankingStep
from ..ranking.train import build_training
from ..ranking.trees.settings import TreesConfig
from ..retrieval.towers.step import RetrievalStep
from ..retrieval.towers.train import build_towers
from ..training.optim import Optimizer
from ..training.runtime import Runtime, runtime_session
from .final import settled_final

WARM, TIMED = 2, 6
"""Steps before the clock runs, and steps it runs for."""


@dataclass(frozen=True)
class Pace:
    """Steps of one stage.

    Attributes:
        stage: `retrieval` or `ranking`.
        steps: of all epochs and seeds, those of a last fit included.
        seconds: of one.
    """

    stage: str
    steps: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `recsys data check` prints it."""
        minutes = self.steps * self.seconds / 60
        return {"stage": self.stage, "steps": self.steps, "step_ms": 1000 * self.seconds, "minutes": minutes}


def paces(dataset: Dataset, config: RunConfig) -> list[Pace]:
    """Time a few steps of each stage on fresh models; nothing is kept.

    The logged rows of the ranker are timed without the requests of `select`, which need trained towers; validation,
    baselines, candidates, boosted trees and calibration are not timed.

    Args:
        dataset: encoded data.
        config: the whole configuration.
    """
    found = []
    two_stages = bool(config.data.user and config.data.item)
    fits = 1 + settled_final(config, stage="all", goes_on=False).final.is_made
    with runtime_session(config.runtime, config.seed) as runtime:
        if two_stages:
            section = config.retrieval
            towers = build_towers(dataset, section, config.seed)
            towers.optimizer.to(runtime.device)
            learned = towers.model, towers.data, section, config.seed, runtime.reduced, towers.exposures
            step = RetrievalStep(*learned, runtime.device)
            seconds = _seconds(step, step.prepare, towers.loader, towers.optimizer, _plainly, runtime)
            steps = section.fit.epochs * len(towers.loader)
            found.append(Pace("retrieval", fits * steps * config.ensemble.seeds, seconds))
        if config.data.tasks and not isinstance(config.ranking.model, TreesConfig):
            alone = config.ranking.model_copy(update={"distil": DistilConfig()})
            ranker = build_training(dataset, alone, runtime, config.seed)
            ranker.optimizer.to(runtime.device)
            parts = ranker.model, ranker.ranker, ranker.balance, alone.loss, alone.select, None, ranker.optimizer
            judge = RankingStep(*parts, config.seed)
            seconds = _seconds(judge, judge.prepare, ranker.loader, ranker.optimizer, judge.backward, runtime)
            steps = alone.fit.epochs * len(ranker.loader)
            kept = two_stages and alone.select.enabled  # in a last fit: what learned `select`
            steps *= config.ensemble.seeds * (1 if kept else fits)
            found.append(Pace("ranking", steps, seconds))
    return found


def _plainly(terms: dict[str, Tensor]) -> None:
    terms["loss"].backward()


def _seconds(
    step: Callable[[Any], dict[str, Tensor]],
    prepare: Callable[[Any], Any],
    loader: Loader[Any],
    optimizer: Optimizer,
    backward: Callable[[dict[str, Tensor]], None],
    runtime: Runtime,
) -> float:
    """Seconds of a step, the loader's part included; the mean of those after the first ones."""
    optimizer.model.train()
    started, counted = time.perf_counter(), 0
    for number, loaded in enumerate(islice(loader, WARM + TIMED)):
        if number == min(WARM, len(loader) - 1):
            started = time.perf_counter()
        batch = prepare(loaded)
        batch = batch if runtime.device == CPU else batch.to(runtime.device)
        with runtime.arithmetic():
            terms = step(batch)
            backward(terms)
        optimizer.step()
        optimizer.zero_grad()
        counted = number + 1
    float(terms["loss"].detach())  # waits for the device
    return (time.perf_counter() - started) / max(counted - min(WARM, len(loader) - 1), 1)
