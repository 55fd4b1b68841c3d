"""The search of a run's blend: which weights order the validation part best, and the table that is shipped.

With a retriever the question is the one of service: among the candidates of a held-out request, how high stands the
item that was taken (NDCG@10). Without one it is the mean AUC of the binary tasks, each by its own weight, when all are
ordered by the one blended score. Nothing of the test part is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..base.arrays import Bool, Floats
from ..data.dataset import Dataset
from ..data.schema import TaskSpec
from ..evaluation.metrics.rows import auc
from .blend import BlendConfig, blend, search_blend_weights
from .calibrate import Calibrator
from .probabilities import task_probabilities
from .ranker import Ranker
from .requests import SELECT, RequestSet
from .scoring import TOP, request_logits, request_ndcg, score_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FoundBlend:
    """What a search found.

    Attributes:
        kind: of the blend: `product` or `linear`.
        weights: task -> weight; they sum to 1 unless the best were those the search started from.
        objective: what was raised.
        value: of the objective with these weights, on the rows they were chosen by.
        default: weights that would be used without a search.
        default_value: of the objective with those.
        cases: requests, or rows, it was measured on.
        tries: weights looked at.
        seed: of the search.
    """

    kind: str
    weights: Mapping[str, float]
    objective: str
    value: float
    default: Mapping[str, float]
    default_value: float
    cases: int
    tries: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As a flat object; `FoundBlend(**found)` takes it back."""
        return asdict(self)


def searches(config: BlendConfig) -> bool:
    """Whether weights are to be searched: asked for, and none are given."""
    return config.search and config.kind != "task" and not config.weights


def find_blend(
    config: BlendConfig,
    model: nn.Module,
    ranker: Ranker,
    calibrators: Mapping[str, Calibrator],
    dataset: Dataset,
    held: RequestSet | None,
    rows: Tensor,
    seed: int,
) -> FoundBlend | None:
    """Search the blend's weights where the configuration asks for it.

    Args:
        config: the `[blend]` section.
        model: trained.
        ranker: inside it.
        calibrators: fitted.
        dataset: of the run.
        held: requests of held-out users; None without a retriever.
        rows: int64 [R] validation rows that trained nothing, for a run without requests.
        seed: of the search.
    """
    if not searches(config):
        if config.search:
            log.warning("blend.search has no effect: the weights (or the one task) of [blend] are given, and they win")
        return None
    tasks = dataset.config.tasks
    if held is not None and len(held):
        probabilities = task_probabilities(request_logits(model, held), tasks, calibrators)
        return search_on_requests(probabilities, held, config, seed)
    if not len(rows) or not tasks:
        log.warning("blend.search has no validation rows to search on; the default weights stay")
        return None
    scored, chosen = score_rows(ranker, dataset, rows), rows.numpy()
    logits = {task.name: scored[task.name] for task in tasks}
    labels, mask = dataset.events.labels[chosen], dataset.events.mask[chosen]
    return search_on_rows(task_probabilities(logits, tasks, calibrators), tasks, labels, mask, config, seed)


def search_on_requests(
    probabilities: Mapping[str, Floats], requests: RequestSet, config: BlendConfig, seed: int
) -> FoundBlend:
    """Weights that put what was taken high among the retriever's candidates.

    Args:
        probabilities: task -> float [Q, C], `select` among them.
        requests: the held-out ones, in that order; they trained nothing.
        config: the `[blend]` section.
        seed: of the search.
    """
    present = requests.rows >= 0

    def objective(scores: Floats) -> float:
        return request_ndcg(np.where(present, scores, -np.inf), requests.taken, requests.wanted)

    return _search(probabilities, objective, f"ndcg@{TOP} of held-out requests", len(requests), config, seed)


def search_on_rows(
    probabilities: Mapping[str, Floats],
    tasks: Sequence[TaskSpec],
    labels: Floats,
    mask: Bool,
    config: BlendConfig,
    seed: int,
) -> FoundBlend | None:
    """Weights whose one score orders every task's rows well; None where no task has both labels.

    Args:
        probabilities: task -> float [R].
        tasks: objectives; the binary ones with both labels count, each by its weight.
        labels: float [R, T].
        mask: bool [R, T] sample spaces.
        config: the `[blend]` section.
        seed: of the search.
    """
    judged = [
        (task.weight, mask[:, column], labels[mask[:, column], column].astype(np.float64))
        for column, task in enumerate(tasks)
        if task.kind == "binary" and task.weight > 0 and len(np.unique(labels[mask[:, column], column] > 0)) == 2
    ]
    if not judged:
        log.warning("blend.search found no binary task with both labels among the validation rows; nothing is searched")
        return None
    total = sum(weight for weight, _, _ in judged)

    def objective(scores: Floats) -> float:
        return sum(weight * (auc(known, scores[space]) or 0.0) for weight, space, known in judged) / total

    return _search(probabilities, objective, "weighted mean AUC of the tasks", len(labels), config, seed)


def _search(
    probabilities: Mapping[str, Floats],
    objective: Callable[[Floats], float],
    name: str,
    cases: int,
    config: BlendConfig,
    seed: int,
) -> FoundBlend:
    best, value = search_blend_weights(probabilities, objective, config, seed, config.tries)
    default = {SELECT: 1.0} if SELECT in probabilities else dict.fromkeys(probabilities, 1.0)
    before = objective(blend(probabilities, config.model_copy(update={"weights": default})))
    log.info("blend: %s %.5f with %s, %.5f by default", name, value, best.weights, before)
    return FoundBlend(
        kind=config.kind,
        weights=best.weights,
        objective=name,
        value=value,
        default=default,
        default_value=before,
        cases=cases,
        tries=config.tries,
        seed=seed,
    )
