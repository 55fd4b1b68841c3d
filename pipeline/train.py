"""The training of a whole run: towers -> companions -> their candidates -> warm start -> ranker -> calibration.

Each stage learns from what the stage before hands it, never jointly: the ranker's requests stand at the start of the
validation part, which no retriever was trained on, so the candidates it learns from are those it will meet. A run may
also go on from an earlier one: on its data set, with its weights and its optimisers' moments.

Everything here is in memory; `publish` puts the disk around it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from ..base.device import CPU
from ..base.errors import ConfigError
from ..configs.file import dump_table, flat
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..funnel.run import Stage, TrainedRun, assemble_retriever
from ..ranking.config import RankingConfig
from ..ranking.distil import DistilConfig
from ..ranking.ensemble import as_one as rankers_as_one
from ..ranking.held import Held, divided
from ..ranking.train import TrainedRanker, build_training, finished, fit_ranker
from ..ranking.trees.fit import check_trees
from ..ranking.trees.mixed import train_trees, with_trees
from ..ranking.trees.settings import TreesConfig
from ..retrieval.retriever import Retriever
from ..retrieval.towers.adjustment import Adjustment, adjust, check_adjustment, chosen_adjustment
from ..retrieval.towers.ensemble import as_one as towers_as_one
from ..retrieval.towers.horizon import horizon_of
from ..retrieval.towers.train import RetrievalConfig, TowerTraining, build_towers, fit_towers
from ..training.callbacks import Callback, Callbacks, Started
from ..training.checkpoint import Checkpointer
from ..training.log import TrainingLog
from ..training.runtime import Runtime, runtime_session
from ..training.tracking import trackers
from .companions import fit_companions, unfitted_companions
from .continuation import SourceRun, remember
from .forecast import refuse_too_large
from .processes import refuse_undistributed
from .requests import select_requests, with_possible_select
from .start import Start

log = logging.getLogger(__name__)

Json = dict[str, Any]
Stages = Literal["retrieval", "ranking", "all"]
T = TypeVar("T", RetrievalConfig, RankingConfig)
Checkpoints = Callable[[Stage, int], Checkpointer | None]


def no_checkpoints(_: Stage, __: int) -> None:
    """Of trainings that are not to be resumed."""


def train(
    dataset: Dataset,
    config: RunConfig,
    *,
    stage: Stages = "all",
    source: SourceRun | None = None,
    previous: TrainedRun | None = None,
    checkpointer: Checkpoints = no_checkpoints,
    callbacks: Sequence[Callback] = (),
) -> TrainedRun:
    """Train what a configuration describes; the process is left as it was found.

    Args:
        dataset: encoded data; built on that of `source` where one is named.
        config: the whole configuration.
        stage: `retrieval`, `ranking`, or `all`. `ranking` stands on the retriever of `previous`, if it has one.
        source: a run to go on from: its weights and its optimisers' moments are where the training starts; for a
            ranker with a frozen encoder, the run the encoder is from.
        previous: an earlier training of the same data, whose towers `stage="ranking"` keeps.
        checkpointer: makes the checkpoints of a stage and of a seed, 0 the first.
        callbacks: that look on, beside those that `runtime.track` names.

    Raises:
        ConfigError: the data has no users and items for the retriever, or an option does not exist.
        RunError: `source` has another model, or the training cannot fit in memory.
    """
    refuse_undistributed(config, stage)
    start = Start.of(source, config, stage)
    start.check(config, dataset, stage)
    if stage != "retrieval":
        check_trees(config.ranking, goes_on=source is not None, last_fit=config.final.is_made)
    two_stages = bool(config.data.user and config.data.item)
    if stage == "retrieval" and not two_stages:
        raise ConfigError(
            "--stage retrieval needs data.user and data.item; these rows name none, train the ranker alone"
        )
    refuse_too_large(dataset, config, stage)
    first, second = Trained(), Trained()
    retriever: Retriever | None = None
    ranked: TrainedRanker | None = None
    watching = [*callbacks, *trackers(config.runtime.track, config.name, flat(dump_table(config)))]
    with runtime_session(config.runtime, config.seed, watching) as runtime:
        if two_stages and stage != "ranking":
            retriever, first = train_retriever(dataset, config, runtime, start, checkpointer)
        elif two_stages and previous is not None:
            retriever, first = previous.retriever, Trained.of(previous, "retrieval")
        if retriever is not None and stage != "retrieval":
            config = with_possible_select(config, retriever)
        if stage != "retrieval" and (config.data.tasks or retriever is not None):
            exact = None if retriever is None else retriever.searching(None)
            ranked, second = train_ranker(dataset, config, runtime, start, exact, checkpointer)
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
        schema_notes=() if previous is None else previous.schema_notes,
        warm_start={name: result.start for name, result in results.items() if result.start},
        epochs={name: result.chosen for name, result in results.items() if result.chosen},
    ).to(CPU)


@dataclass(frozen=True)
class Trained:
    """What a stage's training leaves besides the model.

    Attributes:
        epochs: one record each; None where nothing was trained.
        optimizer: its state; None where the configuration does not keep it.
        start: where the first weights came from.
        chosen: epochs after which the weights are those that are kept, of each seed; none where nothing was trained.
    """

    epochs: list[Json] | None = None
    optimizer: Mapping[str, Tensor] | None = None
    start: Json | None = None
    chosen: tuple[int, ...] = ()

    @classmethod
    def of(cls, run: TrainedRun, stage: Stage) -> Trained:
        """What an earlier training of a stage left."""
        epochs = run.training.get(stage)
        return cls(None if epochs is None else list(epochs), run.optimizers.get(stage), run.warm_start.get(stage))


def train_retriever(
    dataset: Dataset,
    config: RunConfig,
    runtime: Runtime,
    start: Start,
    checkpointer: Checkpoints = no_checkpoints,
    epochs: tuple[int, ...] = (),
    adjustment: Adjustment | None = None,
) -> tuple[Retriever, Trained]:
    """The first stage: the towers of every seed, then the baselines.

    Args:
        dataset: encoded data.
        config: the whole configuration.
        runtime: device and arithmetic; the models stay on the device.
        start: where the towers begin.
        checkpointer: see `train`.
        epochs: of each seed, trained without looking at a metric; those of the configuration when empty.
        adjustment: of popularity, chosen before; chosen now when None.
    """
    check_adjustment(config.retrieval)
    unfitted_companions(config, dataset)  # a wrong name or option fails now, not after the training
    members: list[TowerTraining] = []
    histories: list[TrainingLog] = []
    report: Json = {}
    for member, seed in enumerate(_seeds(config)):
        section = _fixed(config.retrieval, epochs[member]) if epochs else config.retrieval
        training = build_towers(dataset, section, seed)
        report = start.towers(training, dataset)
        histories.append(fit_towers(training, section, runtime, seed, checkpointer("retrieval", member)))
        members.append(training)
    first = members[0]
    single = len(members) == 1
    state = remember(first.optimizer, first.model) if single and config.retrieval.optim.keep_state else None
    companions = fit_companions(config, dataset, first.data)
    model = towers_as_one([training.model for training in members])
    adjusted = chosen_adjustment(model, first.data, config.retrieval) if adjustment is None else adjustment
    adjusted = replace(adjusted, new_items=config.retrieval.new_item_bias)
    adjust(model, first.data, adjusted, config.retrieval.linear_rank)
    records = histories[0].epochs()
    if records and config.retrieval.horizon == "auto":
        records[-1]["horizon"] = horizon_of(config.retrieval, first.data)
        log.info("a state of the towers learned one of the next %d events", records[-1]["horizon"])
    if records and "auto" in (config.retrieval.logit_adjustment, config.retrieval.linear):
        records[-1] |= adjusted.to_record()
        if adjusted.linear:
            log.info("%g times a linear model of histories is added to the scores of items", adjusted.linear)
        log.info("%g times the logarithm of their popularity is added to the scores of items", adjusted.tau)
        if adjusted.empty_weight != 1:
            log.info("to users without a history the biases of items weigh %g times as much", adjusted.empty_weight)
    retriever = assemble_retriever(config, model, first.data, companions)
    return retriever, Trained(records, state, report, tuple(one.chosen for one in histories))


def train_ranker(
    dataset: Dataset,
    config: RunConfig,
    runtime: Runtime,
    start: Start,
    retriever: Retriever | None,
    checkpointer: Checkpoints = no_checkpoints,
    epochs: tuple[int, ...] = (),
) -> tuple[TrainedRanker, Trained]:
    """The second stage: a ranker of every seed, and one calibration and one blend of what they say together.

    Arguments as of `train_retriever`; `retriever` proposes the candidates that `select` learns from, if there is one.
    """
    section, single = config.ranking, config.ensemble.seeds == 1
    requests = None
    if retriever is not None and section.select.enabled:
        requests = select_requests(dataset, retriever, config)
    if section.distil.share > 0 and start.dataset is not None:
        log.info("ranking.distil is left out: the new rows alone are too few to train teachers on")
        section = section.model_copy(update={"distil": DistilConfig()})
    members: list[TrainedRanker] = []
    report: Json = {}
    state = None
    blend = config.blend if single else None
    held = divided(dataset, section, requests, config.seed)
    for member, seed in enumerate(_seeds(config)):
        own = _fixed(section, epochs[member]) if epochs else section
        if isinstance(own.model, TreesConfig):
            members.append(train_trees(dataset, own, held, seed, runtime.threads, blend))
            _tell(runtime, members[-1].history)
            continue
        training = build_training(dataset, own, runtime, seed, requests, held_seed=config.seed)
        report = start.ranker(training, dataset, retriever if own.warm_start else None)
        keeper = checkpointer("ranking", member)
        ranked = fit_ranker(training, own, runtime, seed, keeper, None if own.trees.enabled else blend)
        state = remember(training.optimizer, ranked.model) if single and section.optim.keep_state else None
        if own.trees.enabled:
            ranked = with_trees(ranked, dataset, own, held, seed, runtime.threads, blend)
        members.append(ranked)
        members[-1].model.eval()  # it answers from here on, without dropout
    ranked = members[0] if single else _averaged(members, dataset, held, config)
    chosen = tuple(one.history.chosen for one in members)
    return ranked, Trained(ranked.history.epochs(), state, report, chosen)


def _averaged(members: list[TrainedRanker], dataset: Dataset, held: Held, config: RunConfig) -> TrainedRanker:
    """Rankers of several seeds as one, calibrated and blended as one on the rows that none of them learned from."""
    model, ranker = rankers_as_one([member.model for member in members])
    model.eval()
    ranker.eval()
    history = members[0].history
    return finished(model, ranker, history, dataset, config.ranking, held, config.blend, config.seed)


def _tell(runtime: Runtime, history: TrainingLog) -> None:
    """Callbacks hear of trees, which are grown at once, as of one epoch."""
    watching = Callbacks(runtime.callbacks)
    watching.start(Started("ranking", epochs=1, steps=1, done=0, metric="", upwards=True))
    watching.epoch(history.records[0])
    watching.end(history)


def _seeds(config: RunConfig) -> range:
    return range(config.seed, config.seed + config.ensemble.seeds)


def _fixed(section: T, epochs: int) -> T:
    """A stage's section with so many epochs, chosen by no metric."""
    fit = section.fit.model_copy(update={"epochs": epochs, "metric": ""})
    return section.model_copy(update={"fit": fit})
