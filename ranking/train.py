"""Training the ranker: logged rows for every task, and the retriever's own candidates for the listwise one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..base.arrays import Bool
from ..base.errors import ConfigError
from ..base.settings import OneOf, Settings
from ..data.batch import Layout
from ..data.dataset import Dataset
from ..data.loader import Loader
from ..data.schema import TaskSpec
from ..data.split import Part
from ..nn.pretrained import frozen_starts, start_tables
from ..training.checkpoint import Checkpointer
from ..training.log import TrainingLog
from ..training.loop import FitOptions, fit
from ..training.optim import OptimConfig, Optimizer
from ..training.runtime import Runtime, seed_everything
from .balance import Balance, BalanceConfig, build_balance
from .blend import BlendConfig
from .blend_search import FoundBlend, find_blend
from .calibrate import CalibrationConfig, CalibrationKind, Calibrator, fit_calibrator, weight_ratio
from .distil import DistilConfig, taught
from .gate_log import read_gates, warn_of_unused
from .labels import base_rates, row_metric
from .losses import LossConfig, check_task_names
from .ranker import Ranker, RankerConfig, build_ranker, ranker_class, ranker_kinds
from .requests import SELECT, RequestRanker, RequestSet, SelectConfig
from .scoring import row_metrics, score_rows, select_metrics
from .step import LoggedRows, RankingStep

log = logging.getLogger(__name__)


def _configs() -> dict[str, type[RankerConfig]]:
    return {kind: ranker.Config for kind, ranker in ranker_kinds().items()}


class RankerCalibration(CalibrationConfig):
    """How the ranker's logits become probabilities."""

    kind: CalibrationKind = "platt"


class RankerOptim(OptimConfig):
    """How the ranker's weights move."""

    lr: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    final_fraction: float = Field(default=0.02, ge=0, le=1)


class RankerFit(FitOptions):
    """How long the ranker trains."""

    epochs: int = Field(default=2, ge=1)
    metric: str = "auto"
    """Validation metric that picks the best epoch, whose weights are kept: `auc`, `gauc`, `logloss` (means over binary
    tasks), `spearman` (mean over regression tasks), the same and `rmse`, `mae`, `r2` with `/<task>`, and on held-out
    requests `select_ndcg@10` and `select_loss`. `auto`: the least `select_loss` where there are requests, else the
    greatest `auc`; the least `logloss` where validation rows have one class only, the greatest `spearman` without a
    binary task. Empty: the last epoch's weights are kept."""


class RankingConfig(Settings):
    """The second stage: which ranker, how its tasks are weighed, and how long to train it."""

    model: Annotated[RankerConfig, OneOf(_configs, default="mmoe")] = Field(
        default_factory=lambda: ranker_class("mmoe").Config(kind="mmoe")
    )
    """The ranker: `kind` and that kind's own keys; `recsys models` lists the kinds."""
    loss: LossConfig = LossConfig()
    """How rows become one number per task."""
    balance: BalanceConfig = BalanceConfig()
    """How tasks are weighed against one another."""
    distil: DistilConfig = DistilConfig()
    """Single-task models trained first, as teachers: for when sharing makes a task worse than a network of its own."""
    select: SelectConfig = SelectConfig()
    """The listwise task over the retriever's candidates."""
    calibration: RankerCalibration = RankerCalibration()
    """How logits become probabilities; fitted on the validation rows, once per binary task."""
    batch_size: int = Field(default=1024, ge=1)
    """Logged rows per step."""
    optim: RankerOptim = RankerOptim()
    """How weights move."""
    fit: RankerFit = RankerFit()
    """How long to train."""
    warm_start: bool = True
    """Begin with the retriever's embeddings of the features both stages read; where the widths differ, with their
    principal directions."""
    warm_start_rows: Literal["rescaled", "plain"] = "rescaled"
    """How those embeddings are taken. `rescaled`: at the spread that the ranker's own start with; `plain`: as they are,
    as in GemNN's chain, which needs `input.embedding_dim` to be `retrieval.tower.dim`."""


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
        fitted: requests that `select` learns from.
        held: requests that choose the epoch and the blend.
        valid_rows: logged rows that choose the epoch and fit the calibrators.
    """

    dataset: Dataset
    model: nn.Module
    ranker: Ranker
    balance: Balance | None
    loader: Loader[Any]
    optimizer: Optimizer
    fitted: RequestSet | None
    held: RequestSet | None
    valid_rows: Tensor

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
    valid_rows = dataset.rows(Part.VALID)
    held: RequestSet | None = None
    fitted = requests
    if requests is not None:
        out = held_out(dataset.num_users, config.select.holdout, seed if held_seed is None else held_seed)
        held = requests.take(np.flatnonzero(out[requests.users]))
        fitted = requests.take(np.flatnonzero(~out[requests.users]))
        assert isinstance(model, RequestRanker)
        model.fit_scale(fitted)
        if dataset.config.user:
            valid_rows = valid_rows[torch.from_numpy(out[dataset.events.users[valid_rows.numpy()]])]
    balance = build_balance(config.balance, tasks) if tasks else None
    parts = nn.ModuleDict({"model": model} if balance is None else {"model": model, "balance": balance})
    loader: Loader[Any]
    if tasks:
        logged = LoggedRows(dataset, SELECT in [t.name for t in ranker.tasks])
        loader = Loader(logged, train_rows, config.batch_size, seed, row_bytes=dataset.row_bytes)
    else:
        assert fitted is not None
        loader = Loader(fitted, torch.arange(len(fitted)), config.select.requests_per_step, seed)
    return RankerTraining(
        dataset=dataset,
        model=model,
        ranker=ranker,
        balance=balance,
        loader=loader,
        optimizer=Optimizer(parts, config.optim, config.fit.epochs * len(loader)),
        fitted=fitted,
        held=held,
        valid_rows=valid_rows,
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
    held, valid_rows, loader = training.held, training.valid_rows, training.loader
    tasks = dataset.config.tasks
    fitted = training.fitted if tasks else None
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
    )
    warn_of_unused(read_gates(ranker, dataset, valid_rows))
    calibrators = fit_calibrators(ranker, dataset, valid_rows, config.calibration, weight_ratios(dataset, config))
    found = find_blend(blend or BlendConfig(), model, ranker, calibrators, dataset, held, valid_rows, seed)
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
    """The data with labels partly predicted by single-task models, trained here one after the other."""
    wanted = config.distil
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
    for place in range(wanted.teachers):
        log.info("teacher %d of %d: a network for every task alone", place + 1, wanted.teachers)
        said.append(score_rows(train_ranker(dataset, teacher, runtime, seed + place).ranker, dataset, rows))
    return taught(dataset, rows, said, wanted.share)


def held_out(num_users: int, share: float, seed: int) -> Bool:
    """Which users' validation rows choose epochs and calibrators instead of training `select`: bool [U]."""
    return np.random.default_rng([seed, 15]).random(num_users) < share


def weight_ratios(dataset: Dataset, config: RankingConfig) -> dict[str, float]:
    """What `reweighting` takes out of each binary task's odds; refused before anything is trained.

    Raises:
        ConfigError: the weights used in training have no closed form.
    """
    if config.calibration.kind != "reweighting":
        return {}
    if config.distil.share > 0:
        raise ConfigError(
            "teachers are trained with the weights too, and what the labels mix of them has no closed form; set "
            'ranking.distil.share = 0, or ranking.calibration.kind = "platt"'
        )
    events, rows = dataset.events, dataset.rows(Part.TRAIN).numpy()
    ratios = {}
    for column, task in enumerate(dataset.config.tasks):
        if task.kind == "binary":
            inside = rows[events.mask[rows, column]]
            positive = config.loss.positive_weight.get(task.name, 1.0)
            labels, weights = events.labels[inside, column], events.weights_of(column)[inside]
            ratios[task.name] = weight_ratio(task.name, labels, weights, positive)
    return ratios


def fit_calibrators(
    ranker: Ranker,
    dataset: Dataset,
    rows: Tensor,
    config: CalibrationConfig,
    ratios: Mapping[str, float],
) -> dict[str, Calibrator]:
    """A calibrator for every binary task, fitted on held-out rows, which are not weighted.

    Args:
        ranker: trained.
        dataset: encoded data.
        rows: int64 [R] held-out rows.
        config: see `CalibrationConfig`.
        ratios: see `weight_ratio`; 1 for a task that is not there.
    """
    logits = score_rows(ranker, dataset, rows) if len(rows) else {}
    calibrators = {}
    for column, task in enumerate(dataset.config.tasks):
        if task.kind != "binary" or task.name not in logits:
            continue
        mask = dataset.events.mask[rows.numpy(), column]
        labels = dataset.events.labels[rows.numpy(), column][mask].astype(np.float64)
        scores = logits[task.name][mask].astype(np.float64)
        calibrators[task.name] = fit_calibrator(config, scores, labels, ratio=ratios.get(task.name, 1.0))
    return calibrators
