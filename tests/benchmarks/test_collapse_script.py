"""The collapse experiment: its conditions disturb what they say, and its cures are what the models take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.benchmarks.quality.collapse import CONDITIONS, CURES, Condition, disturb, measure, model_config
from recsys.benchmarks.quality.synthetic import TASKS, Plan, as_batch, layout
from recsys.benchmarks.quality.synthetic_tasks import SyntheticConfig, SyntheticTasks
from recsys.ranking.gate_log import mixture_report
from recsys.ranking.mixture import MixtureRanker
from recsys.ranking.ranker import build_ranker


def gate_at_the_start(condition: Condition, cure: str = "none") -> dict[str, Any]:
    ranker = build_ranker(model_config(CURES[cure][1]), layout(), TASKS, 0).eval()
    assert isinstance(ranker, MixtureRanker)
    disturb(ranker, condition)
    tasks = SyntheticTasks.build(SyntheticConfig(seed=0))
    generator = np.random.default_rng(0)
    with torch.no_grad():
        (level,) = mixture_report(ranker.batch_mixtures(as_batch(*tasks.draw(300, generator))))["levels"]
    gate: dict[str, Any] = level["gates"]["first"]
    return gate


def test_conditions_start_where_they_say() -> None:
    usual, skewed, sharp = (gate_at_the_start(CONDITIONS[name]) for name in ("usual", "skewed", "sharp"))
    assert not usual["unused"]
    assert len(skewed["unused"]) == 7
    assert not sharp["unused"]
    assert sharp["entropy"] < 0.3 * usual["entropy"]


@pytest.mark.parametrize("cure", CURES)
def test_every_cure_can_be_measured(cure: str) -> None:
    found = measure(model_config(CURES[cure][1]), CONDITIONS["usual"], 0.5, 1, Plan(2, 16, 1e-3))
    assert found["mse"] > 0
    if cure in ("norm", "all"):
        assert found["zeros"] < 0.01
    if cure in ("temperature", "all"):
        assert (
            gate_at_the_start(CONDITIONS["usual"], cure)["entropy"] > gate_at_the_start(CONDITIONS["usual"])["entropy"]
        )
