"""Losses of gSASRec and GRU4Rec against drawn items: their formulas, and what each claims."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsys.retrieval.towers.losses import bce_loss, bpr_max_loss, gbce_loss, top1_max_loss
from recsys.tests.support.formulas import grads, vectors

P, D = 23, 5


def test_gbce_with_one_negative_and_full_strength_is_bce() -> None:
    user, positive, negative = vectors(P, D), vectors(P, D, seed=1), vectors(P, 1, D, seed=2)
    labels = torch.cat([torch.ones(P), torch.zeros(P)])
    pairs = torch.cat([user, user]), torch.cat([positive, negative[:, 0]])
    ours, plain = gbce_loss(user, positive, negative, 1.3, 1.0, -0.4), bce_loss(*pairs, labels, 1.3, -0.4)
    torch.testing.assert_close(ours, plain)
    inputs = (user, positive, negative)
    for a, b in zip(grads(ours, *inputs), grads(plain, *inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_gbce_is_its_formula_and_leaves_the_positive_out_of_its_negatives() -> None:
    user, positive, shared = vectors(P, D), vectors(P, D, seed=1), vectors(4, D)
    weight, ids, drawn = torch.rand(P).double(), torch.arange(P), torch.tensor([0, 90, 3, 92])
    losses = []
    for row in range(P):
        chance = torch.sigmoid(2.0 * user[row] @ positive[row] + 0.3) ** 0.4
        others = [torch.sigmoid(2.0 * user[row] @ shared[j] + 0.3) for j in range(4) if drawn[j] != row]
        losses.append(-(chance.log() + sum((1 - other).log() for other in others)) / 5)
    expected = torch.stack(losses) @ weight / weight.sum()
    found = gbce_loss(user, positive, shared, 2.0, 0.4, 0.3, ids, drawn, weight)
    torch.testing.assert_close(found, expected)


def test_calibration_undoes_the_overconfidence_of_few_negatives() -> None:
    """An item is next with probability 0.2, and otherwise drawn with chance K / (V - 1): the score that is best on
    average says 0.2 for t = 1, however many are drawn, and more for t = 0, the more the fewer are drawn.
    """
    share, items = 0.2, 50.0
    optima = {}
    for drawn in (1, 10, 49):
        rate = drawn / (items - 1)
        for t in (0.0, 1.0):
            strength = 1 - t * (1 - rate)
            r = torch.zeros((), dtype=torch.float64, requires_grad=True)
            for _ in range(400):  # Newton's steps on a convex function
                loss = share * strength * F.softplus(-r) + (1 - share) * drawn / (items - 1) * F.softplus(r)
                (slope,) = torch.autograd.grad(loss, r)
                chance = torch.sigmoid(r.detach())
                curve = (share * strength + (1 - share) * rate) * chance * (1 - chance)
                r = (r.detach() - slope / curve).clamp(-8, 8).requires_grad_()
            optima[drawn, t] = float(torch.sigmoid(r.detach()))
    for drawn in (1, 10, 49):
        assert optima[drawn, 1.0] == pytest.approx(share)
    assert optima[1, 0.0] > optima[10, 0.0] > optima[49, 0.0] == pytest.approx(share)


@pytest.mark.parametrize("kind", ["bpr_max", "top1_max"])
def test_ranking_losses_are_their_formulas_over_the_softmax_of_the_negatives(kind: str) -> None:
    user, positive, shared = vectors(P, D), vectors(P, D, seed=1), vectors(5, D)
    weight, ids, drawn = torch.rand(P).double(), torch.arange(P), torch.tensor([0, 90, 3, 92, 93])
    losses = []
    for row in range(P):
        own, others = (
            user[row] @ positive[row],
            torch.stack([user[row] @ shared[j] for j in range(5) if drawn[j] != row]),
        )
        q = torch.exp(others) / torch.exp(others).sum()
        if kind == "bpr_max":
            losses.append(-(q * torch.sigmoid(own - others)).sum().log() + 0.7 * (q * others**2).sum())
        else:
            losses.append((q * (torch.sigmoid(others - own) + torch.sigmoid(others**2))).sum())
    expected = torch.stack(losses) @ weight / weight.sum()
    more = {"penalty": 0.7} if kind == "bpr_max" else {}
    loss = {"bpr_max": bpr_max_loss, "top1_max": top1_max_loss}[kind]
    ours = loss(user, positive, shared, 1.0, **more, positive_ids=ids, negative_ids=drawn, weight=weight)
    torch.testing.assert_close(ours, expected)
    inputs = (user, positive, shared)
    for a, b in zip(grads(ours, *inputs), grads(expected, *inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["bpr_max", "top1_max"])
def test_of_many_negatives_the_hardest_teach_most(kind: str) -> None:
    """With many easy negatives beside a hard one the gradient stays: what the maximum is for."""
    user, positive = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    sizes = []
    for easy in (0, 500):
        items = torch.cat([torch.full((1, 1), 1.0), torch.full((easy, 1), -9.0)]).double()
        own = positive.clone().requires_grad_()
        more = {"penalty": 0.0} if kind == "bpr_max" else {}
        loss = {"bpr_max": bpr_max_loss, "top1_max": top1_max_loss}[kind]
        sizes.append(float(grads(loss(user, own, items, 1.0, **more), own)[0]))
    assert sizes[0] < -0.1
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)  # a mean over the negatives has 1 / 501 of it


@pytest.mark.parametrize("kind", ["bpr_max", "top1_max"])
def test_scores_of_any_size_have_finite_gradients(kind: str) -> None:
    user, positive, shared = 300 * vectors(P, D).float(), vectors(P, D, seed=1).float(), vectors(5, D).float()
    loss = {"bpr_max": bpr_max_loss, "top1_max": top1_max_loss}[kind]
    value = loss(user, positive, shared, 1.0, positive_ids=torch.arange(P), negative_ids=torch.zeros(5).long())
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads(value, positive, shared))
