"""The blend: a documented table of task weights, outside the network, that turns probabilities into one score.

PLE's product `prod_k p_k^w_k` (Tang et al., RecSys 2020, equation 1), Meituan's linear blend `sum_k w_k p_k`, or one
task. A negative weight makes a task count against an item. The weights can be searched on the validation part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from ..base.arrays import F64, Floats
from ..base.errors import ConfigError
from ..base.settings import Settings

SMALLEST = 1e-12  # probabilities and values below it count as this in a product: the score stays finite


class BlendConfig(Settings):
    """How the tasks' probabilities become the score that orders a list."""

    kind: Literal["product", "linear", "task"] = "product"
    """`product`: prod p^w; `linear`: sum w p; `task`: the probability of one task alone. A regression task counts with
    its value, in the label's unit: the product of `order` and `price`, both of weight 1, is the expected revenue."""
    weights: dict[str, float] = {}
    """Weight of each task; 0 leaves it out, below 0 counts against; where empty, the listwise
    task `select` alone orders if the ranker has it, else every task has weight 1."""
    task: str = ""
    """For `task`: which one; the first when empty."""
    search: bool = False
    """Search the weights on the validation part after training, and keep them with the run. `weights`, where given,
    win: then nothing is searched."""
    tries: int = Field(default=200, ge=1)
    """Weights the search looks at."""


def blend(probabilities: Mapping[str, Floats], config: BlendConfig) -> Floats:
    """One score per row.

    Args:
        probabilities: task -> [n] (or any one shape): probabilities, or values above 0 for regression tasks.
        config: see `BlendConfig`.

    Returns:
        float64 scores of the same shape, higher is better.

    Raises:
        ConfigError: a name is no task.
    """
    names = list(probabilities)
    asked = {config.task} - {""} if config.kind == "task" else set(config.weights)
    if unknown := sorted(asked - set(names)):
        raise ConfigError(f"blend names {unknown}, which are no tasks; tasks: {names}")
    if config.kind == "task":
        return np.asarray(probabilities[config.task or names[0]], dtype=np.float64)
    weights = _given(config, names)
    counted = weights != 0
    if not counted.any():
        return _score(_terms(probabilities, config), weights, config)
    chosen = {name: probabilities[name] for name, counts in zip(names, counted.tolist(), strict=True) if counts}
    return _score(_terms(chosen, config), weights[counted], config)


def _given(config: BlendConfig, names: list[str]) -> F64:
    """The configured weights, in the order of the names; 1 for each where there are none."""
    return np.array([config.weights.get(name, 0.0) if config.weights else 1.0 for name in names])


def _terms(probabilities: Mapping[str, Floats], config: BlendConfig) -> list[Floats]:
    """What the weights multiply: logarithms for a product."""
    values: list[Floats] = [np.asarray(table, dtype=np.float64) for table in probabilities.values()]
    return [np.log(np.maximum(value, SMALLEST)) for value in values] if config.kind == "product" else values


def _score(terms: list[Floats], weights: F64, config: BlendConfig) -> Floats:
    """The blend of the terms; a weight of 0 leaves its task out, whatever it says."""
    score: Floats = np.zeros(np.shape(terms[0]))
    for term, weight in zip(terms, weights.tolist(), strict=True):
        if weight != 0:
            score = score + weight * term
    return np.exp(score) if config.kind == "product" else score


def search_blend_weights(
    probabilities: Mapping[str, Floats],
    objective: Callable[[Floats], float],
    config: BlendConfig,
    seed: int,
    tries: int = 200,
) -> tuple[BlendConfig, float]:
    """Better weights by seeded random search, then coordinate-wise refinement around the best.

    The weights that were given, equal weights and every task alone are among the tries, so the result is never below
    them on these rows. Weights searched stay at 0 or above and sum to 1: neither blend changes its order with their
    scale.

    Args:
        probabilities: task -> [n] on validation rows.
        objective: scores [n] -> a number to raise, e.g. NDCG@10 grouped by user.
        config: `product` or `linear`, and the weights to start from.
        seed: of the search.
        tries: how many weights are tried; at least the starting points are.

    Returns:
        The configuration with the best weights, and its objective.
    """
    names = list(probabilities)
    if config.kind == "task":
        return config, objective(blend(probabilities, config))
    generator = np.random.default_rng(seed)
    terms = _terms(probabilities, config)

    def value(weights: F64) -> float:
        return objective(_score(terms, weights, config))

    starts = [_given(config, names), np.full(len(names), 1.0 / len(names)), *np.eye(len(names))]
    found = [(value(weights), weights) for weights in starts]
    best_value, best = max(found, key=lambda pair: pair[0])
    left = max(0, tries - len(starts))
    for _ in range(left // 2):
        weights = generator.dirichlet(np.ones(len(names)))
        if (tried := value(weights)) > best_value:
            best_value, best = tried, weights
    spread = math.log(4.0)
    for position in range(left - left // 2):
        weights = best.copy()
        place = position % len(names)
        weights[place] = max(weights[place], 1e-3) * math.exp(generator.normal(0.0, spread))
        weights = weights / max(np.abs(weights).sum(), SMALLEST)
        if (tried := value(weights)) > best_value:
            best_value, best = tried, weights
        if place == len(names) - 1:
            spread = max(0.05, spread * 0.9)
    return _with(config, names, best), best_value


def _with(config: BlendConfig, names: list[str], weights: F64) -> BlendConfig:
    """The configuration with these weights."""
    table = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return config.model_copy(update={"weights": table})
