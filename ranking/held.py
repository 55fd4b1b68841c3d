"""What is held out of a ranker's training, and what is fitted there: calibrators, and the ratios of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.arrays import Bool
from ..base.errors import ConfigError
from ..data.dataset import Dataset
from ..data.split import Part
from .calibrate import CalibrationConfig, Calibrator, fit_calibrator, weight_ratio
from .config import RankingConfig
from .ranker import Ranker
from .requests import RequestSet
from .scoring import score_rows


@dataclass(frozen=True)
class Held:
    """The validation part, divided by users.

    Attributes:
        fitted: requests that `select` learns from; None without a retriever.
        asked: requests that choose epoch and blend.
        rows: int64 [R] logged rows that choose the epoch and fit the calibrators.
    """

    fitted: RequestSet | None
    asked: RequestSet | None
    rows: Tensor


def divided(dataset: Dataset, config: RankingConfig, requests: RequestSet | None, seed: int) -> Held:
    """Divide the validation part; all of its rows choose where nothing learns from its requests.

    Args:
        dataset: encoded data.
        config: the `[ranking]` section.
        requests: of the validation part, for `select`; None without a retriever.
        seed: draws the users.
    """
    rows = dataset.rows(Part.VALID)
    if requests is None:
        return Held(None, None, rows)
    out = held_out(dataset.num_users, config.select.holdout, seed)
    if dataset.config.user:
        rows = rows[torch.from_numpy(out[dataset.events.users[rows.numpy()]])]
    chosen = out[requests.users]
    return Held(requests.take(np.flatnonzero(~chosen)), requests.take(np.flatnonzero(chosen)), rows)


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
