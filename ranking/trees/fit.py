"""Growing trees: a model per task on logged rows, and LambdaRank on the retriever's own candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...base.arrays import F32, Floats
from ...base.errors import ConfigError
from ...data.dataset import Dataset
from ...data.schema import TaskSpec
from ...data.split import Part
from ...training.log import TrainingLog
from ..config import RankingConfig
from ..distil import DistilConfig
from ..held import Held
from ..requests import SELECT, RequestSet
from ..scoring import TOP, request_logits, request_loss, row_metrics, select_metrics
from .forest import Forest, RequestForest, booster, build_forest, lightgbm
from .settings import TREES, TreesConfig, TreeSettings

log = logging.getLogger(__name__)

REQUESTS = 64
"""Requests encoded at once."""
NAMED = 20
"""Columns that a report names."""
SCALES = (1e-3, 1e3)
Data = tuple[F32, Floats, Floats | None]
"""Rows [R, F], labels [R], weights [R] or None."""


def grows_trees(config: RankingConfig) -> bool:
    """Whether the ranker is one of trees, or has them beside it."""
    return isinstance(config.model, TreesConfig) or config.trees.enabled


def check_trees(config: RankingConfig, *, goes_on: bool, last_fit: bool) -> None:
    """Refuse what trees cannot do, before anything is trained.

    Args:
        config: the `[ranking]` section.
        goes_on: whether the training goes on from an earlier run.
        last_fit: whether there is one.

    Raises:
        ConfigError: LightGBM is missing, or a key has no meaning for trees.
    """
    if config.distil.grows_trees:
        lightgbm()
    if not grows_trees(config):
        return
    lightgbm()
    alone = isinstance(config.model, TreesConfig)
    if alone and config.trees.enabled:
        raise ConfigError(f'ranking.model.kind = "{TREES}" are trees already; set ranking.trees.enabled = false')
    if goes_on:
        raise ConfigError("boosted trees are grown anew, and --from goes on from a run; leave --from or the trees out")
    if last_fit:
        raise ConfigError("boosted trees take no part in a last fit; set final.rows to none, or leave the trees out")
    if alone and config.distil != DistilConfig() and config.distil.share > 0:
        raise ConfigError("boosted trees learn from labels and not from teachers; set ranking.distil.share = 0")
    if alone and config.loss.kl_bound is not None:
        raise ConfigError("ranking.loss.kl_bound ties the tasks of a network, and every task has trees of its own")


def grow(
    dataset: Dataset,
    config: RankingConfig,
    settings: TreeSettings,
    held: Held,
    seed: int,
    threads: int,
) -> tuple[nn.Module, Forest, TrainingLog]:
    """Trees for every task, and for `select` where there are requests.

    Args:
        dataset: encoded data.
        config: the `[ranking]` section: weights of positives, and the listwise task.
        settings: how to grow.
        held: the validation part.
        seed: of the samples.
        threads: that LightGBM uses; with as many, a seed gives the same trees.

    Returns:
        The model that answers requests, the ranker in it, and the history: one record.

    Raises:
        ConfigError: there is neither a task nor a request.
    """
    features = 0 if held.fitted is None else held.fitted.features.shape[2]
    tasks = dataset.config.tasks
    if not tasks and not features:
        raise ConfigError("there is nothing to rank by: declare a task, or enable ranking.select")
    model, forest = build_forest(settings, dataset.layout, tasks, features, config.select)
    started = time.perf_counter()
    rows = {Part.TRAIN: dataset.rows(Part.TRAIN), Part.VALID: held.rows}
    grown = Grower(settings, seed, threads)
    if tasks:
        tables = {part: forest.columns.of_rows(dataset, chosen) for part, chosen in rows.items()}
        for column, task in enumerate(tasks):
            sets = [labelled(dataset, rows[part], tables[part], column, task, config) for part in rows]
            if len(sets[0][1]):
                about = objective(task)
                forest.trees[task.name] = grown.trees(
                    task.name, sets[0], sets[1], about, forest.columns.categories, forest.columns.names
                )
    metrics = row_metrics(forest, dataset, held.rows) if tasks and len(held.rows) else {}
    if isinstance(model, RequestForest) and held.fitted is not None:
        _grow_select(model, held, grown)
        if held.asked is not None and len(held.asked):
            metrics |= select_metrics(model, held.asked)
    seconds = time.perf_counter() - started
    count = len(rows[Part.TRAIN])
    record = {"epoch": 1, "steps": grown.rounds, "seconds": seconds, "rows_per_second": count / max(seconds, 1e-9)}
    history = TrainingLog(
        records=[{**record, "lr": settings.learning_rate, **metrics}], details=[{"trees": grown.told}]
    )
    log.info("trees: %d in %.1f s, %s", grown.rounds, seconds, " ".join(f"{k} {v:.6g}" for k, v in metrics.items()))
    return model, forest, history


class Grower:
    """Grows trees of one setting, and remembers how many and what they read.

    Args:
        settings: how.
        seed: of the samples.
        threads: used by LightGBM.
    """

    def __init__(self, settings: TreeSettings, seed: int, threads: int) -> None:
        self.settings = settings
        self.rounds = 0
        self.told: dict[str, Any] = {}
        self._common = {
            "learning_rate": settings.learning_rate,
            "num_leaves": settings.leaves,
            "min_data_in_leaf": settings.min_rows,
            "feature_fraction": settings.columns,
            "bagging_fraction": settings.sample,
            "bagging_freq": 1,
            "lambda_l2": settings.l2,
            "seed": seed,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

    def trees(
        self,
        name: str,
        train: Data,
        valid: Data,
        about: dict[str, Any],
        categories: Sequence[int],
        names: Sequence[str],
        groups: tuple[Sequence[int], Sequence[int]] | None = None,
        start: tuple[F32, F32] | None = None,
    ) -> Any:
        """A booster.

        Args:
            name: of the task.
            train: rows to grow on.
            valid: rows to stop by; none to stop after `unjudged_rounds`.
            about: LightGBM's objective and metric.
            categories: columns that hold codes.
            names: of all columns, for the report.
            groups: rows of each request in train and valid.
            start: scores of the rows of train and valid to begin with.
        """
        package = lightgbm()
        codes = list(categories) if self.settings.categories == "native" else []
        judged = len(valid[1]) > 0

        def data(place: int, table: Data, reference: Any = None) -> Any:
            return package.Dataset(
                table[0],
                table[1],
                weight=table[2],
                group=None if groups is None else groups[place],
                init_score=None if start is None else start[place],
                feature_name=[str(column) for column in range(len(names))],
                categorical_feature=codes,
                reference=reference,
                free_raw_data=False,
                params={"verbosity": -1},
            )

        own = data(0, train)
        sets = [data(1, valid, own)] if judged else []
        stop = [package.early_stopping(self.settings.patience, verbose=False)] if judged else []
        most = self.settings.rounds if judged else self.settings.unjudged_rounds
        found = package.train({**self._common, **about}, own, most, valid_sets=sets, callbacks=stop)
        best = found.best_iteration if judged else most
        self.rounds += best
        gain = found.feature_importance("gain", iteration=best)
        order = np.argsort(-gain, kind="stable")[:NAMED]
        shares = {names[column]: float(gain[column] / gain.sum()) for column in order.tolist() if gain[column] > 0}
        self.told[name] = {"trees": int(best), "gain": shares}
        return booster(found.model_to_string(num_iteration=best))


def objective(task: TaskSpec) -> dict[str, Any]:
    """LightGBM's name of the task's loss and of the figure that stops it."""
    if task.kind == "binary":
        return {"objective": "binary", "metric": "binary_logloss"}
    return {"objective": "regression", "metric": "l2"}


def labelled(dataset: Dataset, rows: Tensor, table: F32, column: int, task: TaskSpec, config: RankingConfig) -> Data:
    """The rows of a task's sample space that weigh something."""
    events, chosen = dataset.events, rows.numpy()
    weights = events.weights_of(column)[chosen]
    inside = events.mask[chosen, column] & (weights > 0)
    labels = events.labels[chosen, column][inside]
    weights = weights[inside] * np.where(labels > 0, config.loss.positive_weight.get(task.name, 1.0), 1.0)
    if task.kind == "regression" and task.log1p:
        labels = np.log1p(labels)
    return table if inside.all() else table[inside], labels, None if (weights == 1.0).all() else weights


def _grow_select(model: RequestForest, held: Held, grown: Grower) -> None:
    """Give the model the trees of `select`, and the scale at which its softmax fits best."""
    from scipy.optimize import minimize_scalar  # as in `balance.surgery`

    assert held.fitted is not None
    rng = np.random.default_rng(grown.settings.requests)
    sets = [_drawn(one, grown.settings, rng) for one in (held.fitted, held.asked or held.fitted.take(np.empty(0, int)))]
    if not len(sets[0]):
        log.warning("no retrieved candidate was taken, so the trees leave the order of the retriever")
        return
    tables = [_of_requests(model, one) for one in sets]
    about = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [TOP]}
    data = [(table, labels, None) for table, labels, _, _ in tables]
    groups, start = (tables[0][2], tables[1][2]), (tables[0][3], tables[1][3])
    categories = model.ranker.columns.categories
    model.select = grown.trees(SELECT, data[0], data[1], about, categories, model.names, groups, start)
    if held.asked is None or not held.asked.taken.any():
        return
    scores, taken = request_logits(model, held.asked)[SELECT].astype(np.float64), held.asked.taken
    bounds = tuple(np.log(SCALES))
    found = minimize_scalar(lambda s: request_loss(np.exp(s) * scores, taken), bounds=bounds, method="bounded")
    model.scale = float(np.exp(found.x))


def _drawn(requests: RequestSet, settings: TreeSettings, rng: np.random.Generator) -> RequestSet:
    """Requests of which something was found, and some of their candidates in the retriever's order: what was taken, as
    far as it is half of them, and others drawn.
    """
    found = np.flatnonzero(requests.answered)
    if len(found) > settings.requests:
        found = np.sort(rng.choice(found, settings.requests, replace=False))
    chosen = requests.take(found)
    if chosen.rows.shape[1] <= settings.candidates:
        return chosen
    keys = np.where(chosen.rows >= 0, rng.random(chosen.rows.shape), 3.0)
    wanted = np.where(chosen.taken, keys, np.inf)
    most = settings.candidates // 2
    kept = chosen.taken & (wanted <= np.sort(wanted, axis=1)[:, most - 1 : most])
    keys[kept] -= 2.0
    keys[chosen.taken & ~kept] += 1.0  # behind every other candidate, and before what pads
    places = np.sort(np.argpartition(keys, settings.candidates - 1, axis=1)[:, : settings.candidates], axis=1)
    return replace(
        chosen,
        rows=np.take_along_axis(chosen.rows, places, axis=1),
        features=np.take_along_axis(chosen.features, places[:, :, None], axis=1),
        prior=np.take_along_axis(chosen.prior, places, axis=1),
        taken=np.take_along_axis(chosen.taken, places, axis=1),
    )


def _of_requests(model: RequestForest, requests: RequestSet) -> tuple[F32, F32, list[int], F32]:
    """Rows of all candidates [R, F], their labels [R], candidates of each request, and the retriever's scores [R]."""
    parts = [np.empty((0, len(model.names)), dtype=np.float32)]
    for start in range(0, len(requests), REQUESTS):
        batch = requests.batch(torch.arange(start, min(start + REQUESTS, len(requests))))
        present = requests.rows[start : start + REQUESTS].reshape(-1) >= 0
        parts.append(model.table(batch)[0][present])
    present = requests.rows >= 0
    return (
        np.concatenate(parts),
        requests.taken[present].astype(np.float32),
        present.sum(1).tolist(),
        requests.prior[present],
    )
