"""Masked and weighted losses, the product logit, the KL bound, the de-biased estimates, the listwise softmax."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.base.errors import ConfigError, DataError
from recsys.data.batch import Batch, Block
from recsys.data.schema import TaskSpec
from recsys.ranking.losses import (
    LossConfig,
    check_task_names,
    doubly_robust,
    inverse_propensity,
    listwise_loss,
    masked_mean,
    multi_task_loss,
    product_logit,
    row_losses,
    symmetric_kl,
    task_loss,
)

CLICK = TaskSpec(name="click")
EVERY = torch.ones(8, dtype=torch.bool)


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, generator=generator)
    return (
        logits,
        (torch.rand(8, generator=generator) < 0.5).float(),
        torch.randint(0, 4, (8,), generator=generator).float(),
    )


def loss(logits: Tensor, labels: Tensor, mask: Tensor = EVERY, weight: Tensor | None = None, **config: Any) -> Tensor:
    return task_loss(logits, labels, mask, weight, CLICK, LossConfig(**config))


def test_unweighted_it_is_the_mean_cross_entropy() -> None:
    logits, labels, _ = rows()
    expected = F.binary_cross_entropy(torch.sigmoid(logits), labels)
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss(logits, labels, weight=torch.ones(8)), expected)


def test_integer_weights_are_repetitions_and_zero_is_removal() -> None:
    logits, labels, weight = rows()
    assert (weight == 0).any()
    times = weight.long()
    repeated = loss(
        logits.repeat_interleave(times), labels.repeat_interleave(times), torch.ones(int(times.sum()), dtype=torch.bool)
    )
    torch.testing.assert_close(loss(logits, labels, weight=weight), repeated)


def test_the_two_reductions_differ_by_the_mean_weight() -> None:
    logits, labels, weight = rows()
    weighted, mean = loss(logits, labels, weight=weight), loss(logits, labels, weight=weight, reduction="mean")
    torch.testing.assert_close(mean, weighted * weight.mean())
    torch.testing.assert_close(loss(logits, labels, weight=weight * 5), weighted)
    torch.testing.assert_close(loss(logits, labels, weight=weight * 5, reduction="mean"), mean * 5)


@pytest.mark.parametrize("reduction", ["weighted_mean", "mean"])
@pytest.mark.parametrize("empty", ["mask", "weight"])
def test_nothing_to_learn_from_is_exactly_zero(reduction: str, empty: str) -> None:
    logits = torch.randn(8, requires_grad=True)
    mask = EVERY & (empty != "mask")
    weight = torch.zeros(8) if empty == "weight" else torch.ones(8)
    found = loss(
        logits, torch.full((8,), torch.nan) if empty == "mask" else torch.ones(8), mask, weight, reduction=reduction
    )
    found.backward()
    assert float(found.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_mask_is_removal() -> None:
    logits, labels, weight = rows()
    mask = torch.tensor([True, False] * 4)
    hidden = torch.where(mask, labels, torch.nan)
    torch.testing.assert_close(
        loss(logits, hidden, mask, weight), loss(logits[mask], labels[mask], EVERY[:4], weight[mask])
    )


def test_regression_on_log1p_and_huber() -> None:
    prediction, label = torch.tensor([0.0, 3.0]), torch.tensor([math.e - 1, 0.0])
    task = TaskSpec(name="watch", kind="regression", log1p=True)
    every = torch.ones(2, dtype=torch.bool)
    assert float(task_loss(prediction, label, every, None, task, LossConfig())) == pytest.approx((1 + 9) / 2, rel=1e-6)
    huber = task_loss(prediction, label, every, None, task, LossConfig(huber=1.0))
    assert float(huber) == pytest.approx((0.5 + 2.5) / 2, rel=1e-6)


def test_a_negative_weight_is_refused() -> None:
    block = Block(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0))
    batch = Batch(
        query=block,
        item=block,
        owner=None,
        labels=torch.zeros(2, 1),
        mask=torch.ones(2, 1, dtype=torch.bool),
        weight=torch.tensor([1.0, -0.5]),
    )
    with pytest.raises(DataError, match=r"-0\.5"):
        multi_task_loss({"click": torch.zeros(2)}, batch, [CLICK], LossConfig())


@pytest.mark.parametrize("reduction", ["weighted_mean", "mean"])
def test_a_positive_that_weighs_three_is_a_positive_seen_three_times(reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, generator=generator), (torch.rand(40, generator=generator) < 0.3).float()
    mask, weight = torch.rand(40, generator=generator) < 0.8, torch.rand(40, generator=generator)
    config = LossConfig(reduction=reduction, positive_weight={"click": 3.0})  # type: ignore[arg-type]
    loss = task_loss(logits, labels, mask, weight, CLICK, config)
    times = 1 + 2 * labels.long()
    more = [tensor.repeat_interleave(times) for tensor in (logits, labels, mask, weight)]
    again = task_loss(more[0], more[1], more[2], more[3], CLICK, LossConfig(reduction=reduction))  # type: ignore[arg-type]
    rows = int(more[2].sum()) / int(mask.sum()) if reduction == "mean" else 1.0
    torch.testing.assert_close(loss, again * rows)
    other = task_loss(logits, labels, mask, weight, TaskSpec(name="like"), config)
    assert other == task_loss(logits, labels, mask, weight, CLICK, LossConfig(reduction=reduction))  # type: ignore[arg-type]


def test_a_soft_label_is_so_much_of_a_positive_and_the_rest_a_negative() -> None:
    logit, config = torch.tensor([0.7]), LossConfig(positive_weight={"click": 5.0})
    every = torch.ones(1, dtype=torch.bool)
    soft = task_loss(logit, torch.tensor([0.3]), every, None, CLICK, config)
    p = torch.sigmoid(logit)
    expected = -(5 * 0.3 * p.log() + 0.7 * (1 - p).log()) / (5 * 0.3 + 0.7)
    torch.testing.assert_close(soft, expected.squeeze())


def test_weights_of_tasks_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"positive_weight names \['lick'\]"):
        check_task_names([CLICK], LossConfig(positive_weight={"lick": 2.0}))


def test_the_product_logit_is_exact_at_any_size() -> None:
    sizes = torch.tensor([-80.0, -50.0, -5.0, 0.0, 5.0, 50.0, 80.0], dtype=torch.float64)
    a, b = (grid.flatten().requires_grad_() for grid in torch.meshgrid(sizes, sizes, indexing="ij"))
    c = product_logit(a, b)
    torch.testing.assert_close(torch.sigmoid(c), torch.sigmoid(a) * torch.sigmoid(b), rtol=1e-12, atol=0)
    (row_losses(c, torch.ones_like(c), "binary") + row_losses(c, torch.zeros_like(c), "binary")).sum().backward()
    assert torch.isfinite(a.grad).all()  # type: ignore[arg-type]
    single = product_logit(a.detach().float(), b.detach().float())
    assert torch.isfinite(single).all()


def test_the_kl_bound_is_symmetric_and_matches_the_definition() -> None:
    a, b = torch.randn(50, dtype=torch.float64) * 3, torch.randn(50, dtype=torch.float64) * 3
    p, q = torch.sigmoid(a), torch.sigmoid(b)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

    torch.testing.assert_close(symmetric_kl(a, b), kl(p, q) + kl(q, p))
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    assert (symmetric_kl(a, b) > 0).all()
    assert not symmetric_kl(a, a).any()
    far = torch.tensor([-50.0, 50.0], requires_grad=True)
    symmetric_kl(far, -far).sum().backward()
    assert torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_both_estimates_are_unbiased_under_the_right_propensity() -> None:
    """Averaged over the click itself, inverse propensity and doubly robust give the mean loss over all rows."""
    generator = torch.Generator().manual_seed(0)
    error = torch.rand(400, generator=generator) + 0.1
    propensity = 0.2 + 0.6 * error / error.max()  # clicked rows are not like the others
    draws = (torch.rand(4000, 400, generator=generator) < propensity).float()
    truth, naive = error.mean(), ((draws * error).sum(1) / draws.sum(1)).mean()
    ips = inverse_propensity(error, draws, propensity).mean()
    wrong = torch.full_like(error, 0.3)
    dr = doubly_robust(error, wrong, draws, propensity)[0].mean()
    dr_wrong_propensity = doubly_robust(error, error, draws, torch.full_like(error, 0.5))[0].mean()
    assert abs(float(naive - truth)) > 0.02
    for estimate in (ips, dr, dr_wrong_propensity):
        assert abs(float(estimate - truth)) < 0.003


def test_listwise_is_the_softmax_within_each_query() -> None:
    scores = torch.randn(9, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 1, 0, 1, 0, 2, 3, 3, 1])
    target = torch.tensor([2, 8, -1, 6])  # query 2 has no positive, query 4 would have no rows
    expected = torch.stack(
        [
            -torch.log_softmax(scores[owner == query], 0)[(owner == query).nonzero().squeeze(1).tolist().index(row)]
            for query, row in ((0, 2), (1, 8), (3, 6))
        ]
    ).mean()
    found = listwise_loss(scores, owner, torch.isin(torch.arange(9), target), 4)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, scores)[0] for value in (found, expected)))


def test_of_several_positives_each_is_told_from_the_negatives_alone() -> None:
    scores = torch.randn(8, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 0, 1, 0, 1, 1, 0, 2])
    taken = torch.tensor([True, False, True, True, False, False, False, True])  # query 2 has nothing to tell from
    kept = {0: ((0, 3), (1, 6)), 1: ((2,), (4, 5))}
    expected = torch.stack(
        [
            torch.stack([-torch.log_softmax(scores[[own, *others]], 0)[0] for own in positives]).mean()
            for positives, others in kept.values()
        ]
    )
    found = listwise_loss(scores, owner, taken, 3)
    torch.testing.assert_close(found, expected.mean())
    torch.testing.assert_close(*(torch.autograd.grad(value, scores)[0] for value in (found, expected.mean())))
    far = torch.tensor([500.0, -900.0, -3000.0], requires_grad=True)
    loss = listwise_loss(far, torch.zeros(3, dtype=torch.int64), torch.tensor([True, False, True]), 1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1050.0)
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_listwise_survives_large_scores_and_no_positive() -> None:
    scores = torch.tensor([900.0, -900.0, 3.0], requires_grad=True)
    owner = torch.tensor([0, 0, 1])
    found = listwise_loss(scores, owner, torch.tensor([False, True, False]), 3)
    assert float(found.detach()) == pytest.approx(1800.0)
    nothing = listwise_loss(scores, owner, torch.zeros(3, dtype=torch.bool), 2)
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_masked_mean_counts_its_sample_space_only() -> None:
    values, mask = torch.tensor([1.0, 2.0, 100.0]), torch.tensor([True, True, False])
    assert float(masked_mean(values, mask, None)) == 1.5
    assert float(masked_mean(values, mask, torch.tensor([3.0, 1.0, 9.0]))) == 1.25
