"""Training the ranker: logged rows for every task, and the retriever's own candidates for the listwise one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..base.errors import ConfigError
from ..data.batch import Layout
from ..data.dataset import Dataset
from ..data.loader import Loader
from ..data.schema import TaskSpec
from ..data.split import Part
from ..nn.pretrained import frozen_starts, start_tables
from ..training.checkpoint import Checkpointer
from ..training.log import TrainingLog
from ..training.loop import fit
from ..training.optim import Optimizer
from ..training.runtime import Runtime, seed_everything
from .balance import Balance, BalanceConfig, build_balance
from .blend import BlendConfig
from .blend_search import FoundBlend, find_blend
from .calibrate import Calibrator
from .config import RankerCalibration, RankingConfig
from .distil import DistilConfig, taught
from .gate_log import read_gates, warn_of_unused
from .held import Held, divided, fit_calibrators, weight_ratios
from .labels import base_rates, row_metric
from .losses import check_task_names
from .ranker import Ranker, RankerConfig, build_ranker, ranker_class
from .requests import SELECT, RequestRanker, RequestSet
from .scoring import row_metrics, score_rows, select_metrics
from .step import AskedRequests, LoggedRows, RankingStep
from .trees.teach import FOLDS, out_of_fold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRanker:
    """The second stage, trained.

    Attributes:
        model: the ranker, wrapped as a `RequestRanker` where it learned `select`.
        ranker: the ranker itself.
        calibrators: per binary task.
        history: of the training.
        blend: weights found by search, where the configuration asks for it.
    """

    model: nn.Module
    ranker: Ranker
    calibrators: Mapping[str, Calibrator]
    history: TrainingLog
    blend: FoundBlend | None = None


def build_model(
    config: RankingConfig, layout: Layout, tasks: tuple[TaskSpec, ...], num_features: int, seed: int
) -> tuple[nn.Module, Ranker]:
    """The ranker, and around it the head for requests when there are retrievers' opinions to read.

    Args:
        config: the `[ranking]` section.
        layout: columns and vocabulary sizes.
        tasks: objectives on logged rows.
        num_features: opinions per candidate; 0 for a ranker without `select`.
        seed: of the weights.
    """
    selects = num_features > 0
    if not tasks and not selects:
        raise ConfigError("there is nothing to rank by: declare a task, or enable ranking.select")
    extra = (TaskSpec(name=SELECT),) if selects and (config.select.tower or not tasks) else ()
    ranker = build_ranker(config.model, layout, (*tasks, *extra), seed)
    if not selects:
        return ranker, ranker
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return RequestRanker(ranker, num_features, config.select), ranker


@dataclass(frozen=True, kw_only=True)
class RankerTraining:
    """A ranker that is built and not yet trained, and what its training consists of.

    Attributes:
        dataset: encoded data; with the teachers' labels where the configuration asks for teachers.
        model: the ranker, wrapped as a `RequestRanker` where it learns `select`.
        ranker: the ranker itself; a start from earlier weights is applied to it before `fit_ranker`.
        balance: of the tasks' losses; None without tasks.
        loader: batches of logged rows, or of requests where there are no tasks.
        optimizer: of model and balance.
        held: the validation part, which chooses epoch, calibrators and blend.
    """

    dataset: Dataset
    model: nn.Module
    ranker: Ranker
    balance: Balance | None
    loader: Loader[Any]
    optimizer: Optimizer
    held: Held

    def restore_frozen(self) -> None:
        """Put frozen rows back where they start, after something else wrote to the tables."""
        start_tables(self.ranker.tables(), frozen_starts(self.dataset.table_starts))


def build_training(
    dataset: Dataset,
    config: RankingConfig,
    runtime: Runtime,
    seed: int,
    requests: RequestSet | None = None,
    held_seed: int | None = None,
) -> RankerTraining:
    """A ranker with fresh weights, its batches and its optimiser; teachers are trained here where there are any.

    Args:
        dataset: encoded data.
        config: the `[ranking]` section.
        runtime: arithmetic of the teachers' training.
        seed: of weights, order and draws; also seeds the global generator, from which dropout draws.
        requests: of the validation part, for `select`; None without a retriever.
        held_seed: draws the users who choose the epoch; `seed` when None. Members of an ensemble share it.
    """
    tasks = dataset.config.tasks
    check_task_names(tasks, config.loss)
    weight_ratios(dataset, config)  # refuses now what could not be corrected after the training
    if tasks and config.distil.share > 0:
        dataset = _taught(dataset, config, runtime, seed)
    features = requests.features.shape[2] if requests is not None else 0
    model, ranker = build_model(config, dataset.layout, tasks, features, seed)
    seed_everything(seed)
    train_rows = dataset.rows(Part.TRAIN)
    if tasks:
        ranker.set_base_rates(base_rates(dataset, train_rows, config.loss.positive_weight))
    start_tables(ranker.tables(), dataset.table_starts)
    held = divided(dataset, config, requests, seed if held_seed is None else held_seed)
    if held.fitted is not None:
        assert isinstance(model, RequestRanker)
        model.fit_scale(held.fitted)
    balance = build_balance(config.balance, tasks) if tasks else None
    if balance is not None:
        balance.meet(ranker)
    parts = nn.ModuleDict({"model": model} if balance is None else {"model": model, "balance": balance})
    loader: Loader[Any]
    if tasks:
        logged = LoggedRows(dataset, SELECT in [t.name for t in ranker.tasks])
        loader = Loader(logged, train_rows, config.batch_size, seed, row_bytes=_row_bytes(dataset))
    else:
        assert held.fitted is not None
        asked = AskedRequests(held.fitted)
        loader = Loader(asked, torch.arange(len(held.fitted)), config.select.requests_per_step, seed)
    return RankerTraining(
        dataset=dataset,
        model=model,
        ranker=ranker,
        balance=balance,
        loader=loader,
        optimizer=Optimizer(parts, config.optim, config.fit.epochs * len(loader)),
        held=held,
    )


def fit_ranker(
    training: RankerTraining,
    config: RankingConfig,
    runtime: Runtime,
    seed: int,
    checkpointer: Checkpointer | None = None,
    blend: BlendConfig | None = None,
) -> TrainedRanker:
    """Train a ranker in place; the best epoch on validation is kept, and calibrators are fitted there.

    Args:
        training: what `build_training` made, started from earlier weights or not.
        config: the `[ranking]` section.
        runtime: device and arithmetic; the ranker stays on the device.
        seed: of the requests' draws and of the blend's search.
        checkpointer: where to keep checkpoints, and whether to resume from one.
        blend: the `[blend]` section, for a search of its weights.
    """
    dataset, model, ranker, balance = training.dataset, training.model, training.ranker, training.balance
    held, valid_rows, loader = training.held.asked, training.held.rows, training.loader
    tasks = dataset.config.tasks
    fitted = training.held.fitted if tasks else None
    training.optimizer.to(runtime.device)
    step = RankingStep(model, ranker, balance, config.loss, config.select, fitted, training.optimizer, seed)

    def evaluate() -> dict[str, float]:
        if balance is not None:
            balance.begin_epoch(loader.epoch)
        metrics = row_metrics(ranker, dataset, valid_rows) if tasks and len(valid_rows) else {}
        if held is not None and len(held):
            metrics |= select_metrics(model, held)
        return metrics

    def describe() -> dict[str, Any]:
        report = read_gates(ranker, dataset, valid_rows)
        return {"gates": report} if report else {}

    options = config.fit
    if options.metric == "auto":
        asks = held is not None and len(held) > 0
        metric = "select_loss" if asks else row_metric(dataset, valid_rows)
        options = options.model_copy(update={"metric": metric})
    history = fit(
        step,
        loader,
        training.optimizer,
        options,
        prepare=step.prepare,
        evaluate=evaluate,
        describe=describe,
        backward=step.backward,
        checkpointer=checkpointer,
        runtime=runtime,
        description="training the ranker",
        stage="ranking",
    )
    warn_of_unused(read_gates(ranker, dataset, valid_rows))
    return finished(model, ranker, history, dataset, config, training.held, blend, seed)


def finished(
    model: nn.Module,
    ranker: Ranker,
    history: TrainingLog,
    dataset: Dataset,
    config: RankingConfig,
    held: Held,
    blend: BlendConfig | None,
    seed: int,
) -> TrainedRanker:
    """A trained model with what is fitted on held-out rows: calibrators, and the blend where it is searched.

    Args:
        model: trained, wrapped as a `RequestRanker` where it answers `select`.
        ranker: inside it.
        history: of its training.
        dataset: encoded data.
        config: the `[ranking]` section.
        held: the validation part.
        blend: the `[blend]` section; None searches nothing.
        seed: of the search.
    """
    calibrators = fit_calibrators(ranker, dataset, held.rows, config.calibration, weight_ratios(dataset, config))
    found = find_blend(blend or BlendConfig(), model, ranker, calibrators, dataset, held.asked, held.rows, seed)
    return TrainedRanker(model, ranker, calibrators, history, found)


def train_ranker(
    dataset: Dataset,
    config: RankingConfig,
    runtime: Runtime,
    seed: int,
    requests: RequestSet | None = None,
    checkpointer: Checkpointer | None = None,
    blend: BlendConfig | None = None,
) -> TrainedRanker:
    """A ranker trained from fresh weights: `build_training`, then `fit_ranker`."""
    training = build_training(dataset, config, runtime, seed, requests)
    return fit_ranker(training, config, runtime, seed, checkpointer, blend)


def _taught(dataset: Dataset, config: RankingConfig, runtime: Runtime, seed: int) -> Dataset:
    """The data with labels partly predicted by teachers, trained here one after the other."""
    wanted = config.distil
    if wanted.grows_trees:
        log.info("teachers: boosted trees, %d times %d folds", wanted.teachers, FOLDS)
        of_trees = [out_of_fold(dataset, config, seed + place, runtime.threads) for place in range(wanted.teachers)]
        return taught(dataset, dataset.rows(Part.TRAIN), of_trees, wanted.share)
    shared = {name: getattr(config.model, name) for name in RankerConfig.model_fields if name != "kind"}
    teacher = config.model_copy(
        update={
            "model": ranker_class("single_task").Config.model_validate({**shared, "hidden": wanted.hidden}),
            "distil": DistilConfig(),
            "balance": BalanceConfig(),
            "calibration": RankerCalibration(kind="none"),
            "fit": config.fit.model_copy(update={"metric": "auto"} if config.fit.metric.startswith(SELECT) else {}),
        }
    )
    rows, said = dataset.rows(Part.TRAIN), []
    alone = replace(runtime, callbacks=())  # who looks on looks at the ranker, not at its teachers
    for place in range(wanted.teachers):
        log.info("teacher %d of %d: a network for every task alone", place + 1, wanted.teachers)
        said.append(score_rows(train_ranker(dataset, teacher, alone, seed + place).ranker, dataset, rows))
    return taught(dataset, rows, said, wanted.share)


def _row_bytes(dataset: Dataset) -> int:
    """What a batch reads of every event row, in bytes; what it reads of users, items and histories left out."""
    events = dataset.events
    columns = (events.users, events.items, events.labels, events.mask, events.weights, *dataset.sequence_ends.values())
    own = sum(column[:1].nbytes for column in columns)
    return own + dataset.row_query.row_bytes + dataset.row_item.row_bytes
