"""What is served with draws and logged tells what another policy would have earned; the world says whether it is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recsys
from recsys.benchmarks.quality.off_policy_circle import SERVED, Circle, summary
from recsys.configs.rules import RulesConfig
from recsys.data.world.simulate import load_truth
from recsys.evaluation.config import EvaluationConfig
from recsys.tests.support.tiny import TinyRun

WEEKS, VISITS = 6, 160


@pytest.fixture(scope="module")
def circle(tiny_run: TinyRun, tiny_world: Path) -> Circle:
    shop = recsys.load(tiny_run.folder, rules=RulesConfig(explore=SERVED))
    return Circle.of(shop, load_truth(tiny_world))


def test_policies_are_probabilities_and_differ(circle: Circle) -> None:
    for table in circle.policies.values():
        assert np.allclose(table.sum(1), 1.0)
        assert table.min() >= 0
    assert abs(circle.value("second") - circle.value("served")) > 0.002


def test_estimates_of_served_weeks_hold_the_truth(circle: Circle) -> None:
    """Of the policy that served and of one that did not; a week checks every propensity it logs."""
    found = {seed: circle.week(seed, VISITS, EvaluationConfig(draws=200)) for seed in range(WEEKS)}
    circle.shop.close()
    truth = {name: circle.value(name) for name in circle.policies}
    for weeks in summary(found, truth).values():
        assert sum(week["inside"] for week in weeks.values()) >= WEEKS - 2
        assert np.mean([week["mean_weight"] for week in weeks.values()]) == pytest.approx(1.0, abs=0.08)
    wrong = {name: value + 0.25 for name, value in truth.items()}
    assert all(week["inside"] < 1 for weeks in summary(found, wrong).values() for week in weeks.values())
