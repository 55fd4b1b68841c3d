"""The baselines of a run: proposers, scorers and fallbacks beside the towers, fitted on the events the towers saw."""

from __future__ import annotations

import logging

import numpy as np

from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..funnel.run import companion_names
from ..retrieval.baselines import build_baseline
from ..retrieval.baselines.base import Baseline
from ..retrieval.towers.windows import TowerData

log = logging.getLogger(__name__)


def fit_companions(config: RunConfig, dataset: Dataset, data: TowerData) -> dict[str, Baseline]:
    """The baselines of a run, fitted on the training events the towers saw."""
    history = data.history
    owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    known = history.parts < Part.VALID
    times = np.where(np.isfinite(history.times), history.times, np.nanmin(dataset.events.times) - 1.0)
    companions = unfitted_companions(config, dataset)
    fitted: list[Baseline] = []
    for name, baseline in companions.items():
        if not any(baseline.adopt(other) for other in fitted):
            baseline.fit(owner[known], history.items[known], times[known], history.num_users, data.num_items)
        fitted.append(baseline)
        log.info("fitted %s on %d events", name, int(known.sum()))
    return companions


def unfitted_companions(config: RunConfig, dataset: Dataset) -> dict[str, Baseline]:
    """The baselines of a run with what they are told of users and items, before they learn from events.

    Raises:
        ConfigError: a baseline, an option, or a feature that one is to read does not exist.
    """
    built: dict[str, Baseline] = {}
    for name in companion_names(config, dataset):
        options = dict(config.retrieval.baseline_options.get(name, {}))
        baseline = build_baseline(str(options.pop("model", name)), **options)
        baseline.describe(dataset, config.retrieval.segments)
        built[name] = baseline
    return built
