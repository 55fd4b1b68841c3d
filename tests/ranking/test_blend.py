"""The blend's formulas and the search of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.ranking.blend import BlendConfig, blend, search_blend_weights
from recsys.ranking.probabilities import task_probabilities

P = {"click": np.array([0.5, 0.2, 0.9]), "like": np.array([0.1, 0.6, 0.3])}


def test_the_product_is_ples_formula() -> None:
    found = blend(P, BlendConfig(weights={"click": 2.0, "like": 0.5}))
    np.testing.assert_allclose(found, P["click"] ** 2 * P["like"] ** 0.5)
    np.testing.assert_allclose(blend(P, BlendConfig()), P["click"] * P["like"])


def test_a_probability_times_a_value_is_what_is_expected() -> None:
    """Logits of a purchase and of a log-scale price: the blend is p x price in the price's unit."""
    tasks = [TaskSpec(name="order"), TaskSpec(name="price", kind="regression", log1p=True)]
    chance, price = np.array([0.5, 0.01, 0.2]), np.array([10.0, 2_000.0, 0.0])
    logits = {"order": np.log(chance / (1 - chance)), "price": np.log1p(price)}
    found = blend(task_probabilities(logits, tasks, {}), BlendConfig(weights={"order": 1.0, "price": 1.0}))
    np.testing.assert_allclose(found, chance * price, rtol=1e-5, atol=1e-9)
    assert found.argsort()[::-1].tolist() == [1, 0, 2]


def test_the_linear_blend_and_the_single_task() -> None:
    found = blend(P, BlendConfig(kind="linear", weights={"click": 2.0, "like": -1.0}))
    np.testing.assert_allclose(found, 2 * P["click"] - P["like"])
    np.testing.assert_array_equal(blend(P, BlendConfig(kind="task", task="like")), P["like"])
    np.testing.assert_array_equal(blend(P, BlendConfig(kind="task")), P["click"])


def test_a_task_that_is_not_named_does_not_count_and_a_negative_weight_counts_against() -> None:
    np.testing.assert_allclose(blend(P, BlendConfig(weights={"click": 1.0})), P["click"])
    report = blend({**P, "report": np.array([0.5, 0.01, 0.01])}, BlendConfig(weights={"click": 1.0, "report": -1.0}))
    assert report.argmin() == 0


def test_zero_probabilities_stay_finite_and_shapes_are_kept() -> None:
    table = {"click": np.zeros((2, 3), dtype=np.float32), "like": np.full((2, 3), 0.5, dtype=np.float32)}
    for kind in ("product", "linear", "task"):
        found = blend(table, BlendConfig.model_validate({"kind": kind}))
        assert found.shape == (2, 3)
        assert found.dtype == np.float64
        assert np.isfinite(found).all()


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\['buy'\]"):
        blend(P, BlendConfig(weights={"buy": 1.0}))
    with pytest.raises(ConfigError, match=r"\['buy'\]"):
        blend(P, BlendConfig(kind="task", task="buy"))


def planted(rows: int = 400) -> tuple[dict[str, Any], Any]:
    """Relevance follows click^1 like^3; the third task is noise."""
    generator = np.random.default_rng(0)
    table = {name: generator.uniform(0.05, 0.95, rows) for name in ("click", "like", "noise")}
    return table, np.log(table["click"]) + 3 * np.log(table["like"])


def rank_correlation(relevance: Any) -> Any:
    ranks = relevance.argsort().argsort()
    return lambda scores: float(np.corrcoef(scores.argsort().argsort(), ranks)[0, 1])


@pytest.mark.parametrize("kind", ["product", "linear"])
def test_the_search_finds_planted_weights(kind: str) -> None:
    table, relevance = planted()
    objective = rank_correlation(relevance)
    start = BlendConfig.model_validate({"kind": kind})
    config, value = search_blend_weights(table, objective, start, seed=0)
    assert value == objective(blend(table, config))
    assert value > (0.995 if kind == "product" else 0.9)
    assert config.weights["like"] > config.weights["click"] > config.weights["noise"] - 1e-9


def test_the_search_never_loses_to_where_it_starts_and_repeats_itself() -> None:
    table, relevance = planted()
    objective = rank_correlation(relevance)
    exact = BlendConfig(weights={"click": 1.0, "like": 3.0})
    config, value = search_blend_weights(table, objective, exact, seed=0, tries=30)
    assert value >= objective(blend(table, exact))
    start = BlendConfig()
    assert search_blend_weights(table, objective, start, seed=3, tries=50) == search_blend_weights(
        table, objective, start, seed=3, tries=50
    )
    assert config.kind == exact.kind


def test_a_single_task_has_nothing_to_search() -> None:
    table, relevance = planted()
    config = BlendConfig(kind="task", task="like")
    assert search_blend_weights(table, rank_correlation(relevance), config, seed=0)[0] == config


@pytest.mark.parametrize("tries", [1, 5, 6, 12, 31])
def test_the_search_looks_at_as_many_weights_as_it_may_and_at_every_start(tries: int) -> None:
    table, relevance = planted(60)
    objective, seen = rank_correlation(relevance), []

    def counting(scores: Any) -> float:
        seen.append(scores)
        return float(objective(scores))

    search_blend_weights(table, counting, BlendConfig(), seed=0, tries=tries)
    assert len(seen) == max(tries, 2 + len(table))


@pytest.mark.parametrize("kind", ["product", "linear"])
@pytest.mark.parametrize("seed", [0, 1])
def test_weights_found_are_shares(kind: str, seed: int) -> None:
    table, relevance = planted()
    config, _ = search_blend_weights(
        table, rank_correlation(relevance), BlendConfig.model_validate({"kind": kind}), seed=seed
    )
    assert sum(config.weights.values()) == pytest.approx(1.0)
    assert min(config.weights.values()) >= 0.0
