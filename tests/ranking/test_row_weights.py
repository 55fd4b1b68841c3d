"""Focal loss and SuperLoss: what a row counts by how well it is predicted."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from recsys.data.schema import TaskSpec
from recsys.ranking.losses import LossConfig, confidences, lambert, row_losses, task_loss
from recsys.tests.support.nonempty import nonempty

CLICK = TaskSpec(name="click")
LOGITS = torch.tensor([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0])


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_focal_loss_is_the_papers(gamma: float, label: float) -> None:
    labels = torch.full_like(LOGITS, label)
    right = torch.sigmoid(LOGITS.double()) if label else torch.sigmoid(-LOGITS.double())
    expected = -((1 - right) ** gamma) * right.log()
    found = row_losses(LOGITS, labels, "binary", focal=gamma)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)


def test_with_gamma_0_it_is_the_cross_entropy() -> None:
    labels = (torch.arange(7) % 2).float()
    plain = F.binary_cross_entropy_with_logits(LOGITS, labels, reduction="none")
    assert torch.equal(row_losses(LOGITS, labels, "binary", focal=0.0), plain)


def test_gradients_are_finite_however_sure_the_model_is() -> None:
    logits = torch.tensor([-500.0, -90.0, 0.0, 90.0, 500.0], requires_grad=True)
    for gamma in (0.5, 2.0):
        row_losses(logits, torch.ones(5), "binary", focal=gamma).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_positive_weights_weigh_the_focal_loss() -> None:
    labels = (torch.arange(7) % 2).float()
    config = LossConfig(focal=2.0, positive_weight={"click": 3.0})
    rows = row_losses(LOGITS, labels, "binary", focal=2.0)
    weights = 1 + 2 * labels
    found = task_loss(LOGITS, labels, torch.ones(7, dtype=torch.bool), None, CLICK, config)
    torch.testing.assert_close(found, (rows * weights).sum() / weights.sum())


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_the_weight_of_a_row_is_the_best_one_for_it(strength: float) -> None:
    losses = torch.tensor([0.01, 0.3, 0.7, 2.0, 6.0], dtype=torch.float64)
    found = confidences(losses, torch.ones(5, dtype=torch.bool), strength)
    for loss, weight in nonempty(list(zip((losses - losses.mean()).tolist(), found.tolist(), strict=True))):
        least = max(loss, -2 * strength / math.e)  # below it, the paper's objective has no least value

        def objective(s: float, least: float = least) -> float:
            return least * math.exp(s) + strength * s * s

        best = minimize_scalar(objective, bounds=(-20, 1), method="bounded", options={"xatol": 1e-9})
        assert weight == pytest.approx(math.exp(best.x), rel=1e-3)


def test_lamberts_function_is_the_inverse_of_its_definition() -> None:
    x = torch.cat([-1 / math.e + torch.tensor([0.0, 1e-6, 1e-4, 1e-2, 0.1]).double(), torch.linspace(-0.25, 50, 200)])
    w = lambert(x.double())
    assert (w >= -1).all()
    torch.testing.assert_close(w * torch.exp(w), x.double(), rtol=1e-6, atol=1e-6)


def test_harder_rows_count_less_and_a_large_lambda_counts_all_alike() -> None:
    labels = torch.ones(7)
    losses = row_losses(LOGITS, labels, "binary")
    everything = torch.ones(7, dtype=torch.bool)
    weights = confidences(losses, everything, 1.0)
    assert (weights.diff() >= 0).all()  # the logits ascend, so the losses fall
    assert weights[0] < 1 < weights[-1]
    plain = task_loss(LOGITS, labels, everything, None, CLICK, LossConfig())
    torch.testing.assert_close(
        task_loss(LOGITS, labels, everything, None, CLICK, LossConfig(difficulty=1e6)), plain, rtol=1e-4, atol=1e-6
    )


def test_masked_rows_have_no_part_in_the_mean() -> None:
    mask = torch.tensor([True, True, False])
    losses = torch.tensor([0.2, 0.4, 90.0])
    torch.testing.assert_close(confidences(losses, mask, 1.0)[:2], confidences(losses[:2], mask[:2], 1.0))
