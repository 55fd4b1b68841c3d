"""The training of a whole run: towers -> companions -> their candidates -> warm start -> ranker -> calibration.

Each stage learns from what the stage before hands it, never jointly: the ranker's requests stand at the start of the
validation part, which no retriever was trained on, so the candidates it learns from are those it will meet. A run may
also go on from an earlier one: on its data set, with its weights and its optimisers' moments.

Everything here is in memory; `publish` puts the disk around it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..base.errors import ConfigError
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..funnel.run import Stage, TrainedRun, assemble_retriever
from ..ranking.distil import DistilConfig
from ..ranking.train import TrainedRanker, build_training, fit_ranker
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import build_towers, fit_towers
from ..training.checkpoint import Checkpointer
from ..training.runtime import Runtime, runtime_session
from .companions import fit_companions, unfitted_companions
from .continuation import SourceRun, remember
from .requests import select_requests, with_possible_select
from .start import Start

log = logging.getLogger(__name__)

Json = dict[str, Any]
Stages = Literal["retrieval", "ranking", "all"]


def no_checkpoints(_: Stage) -> None:
    """Of trainings that are not to be resumed."""


def train(
    dataset: Dataset,
    config: RunConfig,
    *,
    stage: Stages = "all",
    source: SourceRun | None = None,
    previous: TrainedRun | None = None,
    checkpointer: Callable[[Stage], Checkpointer | None] = no_checkpoints,
) -> TrainedRun:
    """Train what a configuration describes; the process is left as it was found.

    Args:
        dataset: encoded data; built on that of `source` where one is named.
        config: the whole configuration.
        stage: `retrieval`, `ranking`, or `all`. `ranking` stands on the retriever of `previous`, if it has one.
        source: a run to go on from: its weights and its optimisers' moments are where the training starts; for a
            ranker with a frozen encoder, the run the encoder is from.
        previous: an earlier training of the same data, whose towers `stage="ranking"` keeps.
        checkpointer: makes the checkpoints of a stage.

    Raises:
        ConfigError: the data has no users and items for the retriever, or an option does not exist.
        RunError: `source` has another model.
    """
    start = Start.of(source, config, stage)
    start.check(config, dataset, stage)
    two_stages = bool(config.data.user and config.data.item)
    if stage == "retrieval" and not two_stages:
        raise ConfigError(
            "--stage retrieval needs data.user and data.item; these rows name none, train the ranker alone"
        )
    first, second = Trained(), Trained()
    retriever: Retriever | None = None
    ranked: TrainedRanker | None = None
    with runtime_session(config.runtime, config.seed) as runtime:
        if two_stages and stage != "ranking":
            retriever, first = _train_retriever(dataset, config, runtime, start, checkpointer("retrieval"))
        elif two_stages and previous is not None:
            retriever, first = previous.retriever, Trained.of(previous, "retrieval")
        if retriever is not None and stage != "retrieval":
            config = with_possible_select(config, retriever)
        if stage != "retrieval" and (config.data.tasks or retriever is not None):
            exact = None if retriever is None else retriever.searching(None)
            ranked, second = _train_ranker(dataset, config, runtime, start, exact, checkpointer("ranking"))
    results: dict[Stage, Trained] = {"retrieval": first, "ranking": second}
    return TrainedRun(
        config=config,
        dataset=dataset,
        retriever=retriever,
        model=None if ranked is None else ranked.model,
        ranker=None if ranked is None else ranked.ranker,
        calibrators={} if ranked is None else ranked.calibrators,
        found_blend=None if ranked is None else ranked.blend,
        training={name: result.epochs for name, result in results.items() if result.epochs is not None},
        index_report=previous.index_report if previous is not None and retriever is previous.retriever else None,
        optimizers={name: result.optimizer for name, result in results.items() if result.optimizer is not None},
        warm_start={name: result.start for name, result in results.items() if result.start},
    )


@dataclass(frozen=True)
class Trained:
    """What a stage's training leaves besides the model.

    Attributes:
        epochs: one record each; None where nothing was trained.
        optimizer: its state; None where the configuration does not keep it.
        start: where the first weights came from.
    """

    epochs: list[Json] | None = None
    optimizer: Mapping[str, Tensor] | None = None
    start: Json | None = None

    @classmethod
    def of(cls, run: TrainedRun, stage: Stage) -> Trained:
        """What an earlier training of a stage left."""
        epochs = run.training.get(stage)
        return cls(None if epochs is None else list(epochs), run.optimizers.get(stage), run.warm_start.get(stage))


def _train_retriever(
    dataset: Dataset, config: RunConfig, runtime: Runtime, start: Start, checkpointer: Checkpointer | None
) -> tuple[Retriever, Trained]:
    section = config.retrieval
    unfitted_companions(config, dataset)  # a wrong name or option fails now, not after the training
    training = build_towers(dataset, section, config.seed)
    report = start.towers(training, dataset)
    history = fit_towers(training, section, runtime, config.seed, checkpointer)
    state = remember(training.optimizer, training.model) if section.optim.keep_state else None
    companions = fit_companions(config, dataset, training.data)
    retriever = assemble_retriever(config, training.model, training.data, companions)
    return retriever, Trained(history.epochs(), state, report)


def _train_ranker(
    dataset: Dataset,
    config: RunConfig,
    runtime: Runtime,
    start: Start,
    retriever: Retriever | None,
    checkpointer: Checkpointer | None,
) -> tuple[TrainedRanker, Trained]:
    section = config.ranking
    requests = None
    if retriever is not None and section.select.enabled:
        requests = select_requests(dataset, retriever, config)
    if section.distil.share > 0 and start.dataset is not None:
        log.info("ranking.distil is left out: the new rows alone are too few to train teachers on")
        section = section.model_copy(update={"distil": DistilConfig()})
    training = build_training(dataset, section, runtime, config.seed, requests)
    report = start.ranker(training, dataset, retriever if section.warm_start else None)
    ranked = fit_ranker(training, section, runtime, config.seed, checkpointer, config.blend)
    ranked.model.eval()  # it answers from here on, without dropout
    state = remember(training.optimizer, ranked.model) if section.optim.keep_state else None
    return ranked, Trained(ranked.history.epochs(), state, report)
