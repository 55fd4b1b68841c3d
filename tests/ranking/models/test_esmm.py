"""ESMM and ESCM2: the product, the entire space, and no direct loss on pCVR."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.base.errors import ConfigError
from recsys.data.batch import Batch
from recsys.data.schema import TaskSpec
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

LOSS = LossConfig()
PAIR = (TaskSpec(name="click"), TaskSpec(name="conversion", where="click"))


def labelled(toy: Toy, click: list[int], bought: list[int]) -> Batch:
    """Rows with these clicks and purchases; a purchase without a click is unknown."""
    batch: Batch = toy.batch(len(click))
    labels = torch.tensor([click, bought], dtype=torch.float32).T
    mask = torch.stack([torch.ones(len(click), dtype=torch.bool), labels[:, 0] > 0], dim=1)
    return replace(batch, labels=torch.where(mask, labels, torch.nan), mask=mask, weight=torch.empty(0))


def touched(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def cross_entropy(p: float, label: int) -> float:
    return -math.log(p if label else 1 - p)


def probabilities(ranker: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    out = ranker(batch)
    return torch.sigmoid(out["click"].detach().double()), torch.sigmoid(out["conversion"].detach().double())


def test_the_product_never_exceeds_its_factors(toy: Toy) -> None:
    ranker, batch = toy.ranker("esmm", tasks=PAIR), toy.batch(64)
    out = ranker(batch)
    ctr, cvr = torch.sigmoid(out["click"]), torch.sigmoid(out["conversion"])
    product = torch.sigmoid(ranker.product(out))
    torch.testing.assert_close(product, ctr * cvr)
    assert (product <= torch.minimum(ctr, cvr) + 1e-6).all()


def test_the_loss_on_three_rows_by_hand(toy: Toy) -> None:
    click, bought = [1, 1, 0], [1, 0, 0]
    ranker, batch = toy.ranker("esmm", tasks=PAIR), labelled(toy, click, bought)
    p, q = probabilities(ranker, batch)
    losses = ranker.losses(batch, LOSS)
    assert set(losses) == {"loss/click", "loss/conversion"}
    first = sum(cross_entropy(float(p[i]), click[i]) for i in range(3)) / 3
    second = sum(cross_entropy(float(p[i] * q[i]), click[i] * bought[i]) for i in range(3)) / 3
    assert float(losses["loss/click"].detach()) == pytest.approx(first, rel=1e-5)
    assert float(losses["loss/conversion"].detach()) == pytest.approx(second, rel=1e-5)


def test_the_conversion_network_has_no_loss_of_its_own(toy: Toy) -> None:
    ranker, batch = toy.ranker("esmm", tasks=PAIR), toy.batch(64)
    batch = replace(batch, labels=batch.labels[:, :2], mask=batch.mask[:, :2])
    ranker.losses(batch, LOSS)["loss/click"].backward()
    assert touched(ranker.towers["click"])
    assert not touched(ranker.towers["conversion"])
    ranker.zero_grad()
    ranker.losses(batch, LOSS)["loss/conversion"].backward()
    assert touched(ranker.towers["click"])
    assert touched(ranker.towers["conversion"])


def test_the_gradient_of_the_conversion_logit_is_the_papers(toy: Toy) -> None:
    for click, bought in ((1, 1), (1, 0), (0, 0)):
        ranker, batch = toy.ranker("esmm", tasks=PAIR), labelled(toy, [click], [bought])
        p, q = (float(v) for v in probabilities(ranker, batch))
        ranker.losses(batch, LOSS)["loss/conversion"].backward()
        found = float(ranker.towers["conversion"].output.bias.grad)
        expected = -(1 - q) if bought else p * q * (1 - q) / (1 - p * q)
        assert found == pytest.approx(expected, rel=1e-4)


def test_unclicked_rows_count(toy: Toy) -> None:
    ranker = toy.ranker("esmm", tasks=PAIR)
    batch = labelled(toy, [1, 1, 0, 0], [1, 0, 0, 0])
    everywhere = ranker.losses(batch, LOSS)["loss/conversion"]
    clicked = ranker.losses(batch.select(torch.tensor([0, 1])), LOSS)["loss/conversion"]
    assert abs(float(everywhere.detach()) - float(clicked.detach())) > 1e-3


def test_a_batch_without_clicks_and_extreme_logits_stay_finite(toy: Toy) -> None:
    ranker = toy.ranker("esmm", tasks=PAIR)
    for bias in (-60.0, 60.0):
        with torch.no_grad():
            ranker.towers["click"].output.bias.fill_(bias)
            ranker.towers["conversion"].output.bias.fill_(-bias)
        ranker.zero_grad()
        losses = ranker.losses(labelled(toy, [0, 0, 0], [0, 0, 0]), LOSS)
        torch.stack(list(losses.values())).sum().backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(torch.isfinite(p.grad.to_dense()).all() for p in ranker.parameters() if p.grad is not None)


def test_both_networks_train_the_shared_tables(toy: Toy) -> None:
    for task in ("click", "conversion"):
        ranker = toy.ranker("esmm", tasks=PAIR)
        ranker(toy.batch(16))[task].sum().backward()
        assert ranker.inputs.encoder.table.weight.grad.to_dense().any()


def test_the_networks_have_their_own_widths_and_equal_ones_by_default(toy: Toy) -> None:
    own = toy.ranker("esmm", tasks=PAIR, ctr_hidden=(9, 7), cvr_hidden=(5,))
    assert own.towers["click"].mlp.width == 7
    assert own.towers["conversion"].mlp.width == 5
    same = toy.ranker("esmm", tasks=PAIR, ctr_hidden=(9, 7))
    shapes = [[p.shape for p in same.towers[task].parameters()] for task in ("click", "conversion")]
    assert shapes[0] == shapes[1]


def test_field_sum_adds_fields_up_per_side(toy: Toy) -> None:
    ranker = toy.ranker("esmm", tasks=PAIR, pooling="field_sum")
    batch = toy.batch(8)
    encoded, x = ranker.inputs.encode(batch), ranker.embed(batch)
    width = ranker.inputs.encoder.table.dim
    torch.testing.assert_close(x.query[:, :width], encoded.query.fields.sum(1))
    torch.testing.assert_close(x.item[:, :width], encoded.item.fields.sum(1))
    assert x.width == ranker.width == 2 * width + encoded.query.dense.shape[1] + encoded.item.dense.shape[1]
    with pytest.raises(ConfigError, match="field_sum"):
        toy.ranker("esmm", tasks=PAIR, pooling="field_sum", input={"cross_layers": 1})


def test_a_product_task_takes_the_second_loss(toy: Toy) -> None:
    tasks = (*PAIR, TaskSpec(name="order"))
    with_task, without = toy.ranker("esmm", tasks=tasks, product="order"), toy.ranker("esmm", tasks=PAIR)
    without.load_state_dict(with_task.state_dict())
    batch = labelled(toy, [1, 1, 0, 0], [1, 0, 0, 0])
    labels = torch.cat([batch.labels, torch.tensor([[1.0], [0.0], [0.0], [0.0]])], dim=1)
    mask = torch.cat([batch.mask, torch.ones(4, 1, dtype=torch.bool)], dim=1)
    three = with_task.losses(replace(batch, labels=labels, mask=mask), LOSS)
    two = without.losses(batch, LOSS)
    assert set(three) == {"loss/click", "loss/order"}
    torch.testing.assert_close(three["loss/order"], two["loss/conversion"])
    out = with_task(batch)
    torch.testing.assert_close(out["order"], with_task.product(out))


def test_base_rates_reach_the_factors_and_leave_the_product_to_them(toy: Toy) -> None:
    ranker = toy.ranker("esmm", tasks=(*PAIR, TaskSpec(name="order")), product="order")
    ranker.set_base_rates({"click": 0.2, "conversion": 0.1, "order": 0.02})
    biases = [torch.sigmoid(ranker.output_bias(task)).item() for task in ("click", "conversion")]
    assert biases == pytest.approx([0.2, 0.1])


def test_tasks_that_are_not_there_are_named(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="needs binary tasks"):
        toy.ranker("esmm", tasks=(TaskSpec(name="click"),))


def test_ips_weighs_clicked_rows_by_one_over_the_click_probability(toy: Toy) -> None:
    click, bought = [1, 1, 0], [1, 0, 0]
    ranker, batch = toy.ranker("escm2", tasks=PAIR, ctcvr_weight=0.0, cvr_weight=2.0), labelled(toy, click, bought)
    p, q = probabilities(ranker, batch)
    expected = 2 * sum(cross_entropy(float(q[i]), bought[i]) / float(p[i]) for i in (0, 1)) / 3
    losses = ranker.losses(batch, LOSS)
    assert float(losses["loss/conversion"].detach()) == pytest.approx(expected, rel=1e-5)
    losses["loss/conversion"].backward()
    assert not touched(ranker.towers["click"]), "the propensity has no gradient"
    assert touched(ranker.towers["conversion"])


def test_the_propensity_is_clipped_from_below(toy: Toy) -> None:
    ranker, batch = toy.ranker("escm2", tasks=PAIR, ctcvr_weight=0.0, min_propensity=0.1), labelled(toy, [1], [1])
    with torch.no_grad():
        ranker.towers["click"].output.bias.fill_(-40.0)
    _, q = probabilities(ranker, batch)
    found = float(ranker.losses(batch, LOSS)["loss/conversion"].detach())
    assert found == pytest.approx(cross_entropy(float(q[0]), 1) / 0.1, rel=1e-4)


def test_doubly_robust_adds_an_imputed_error_and_teaches_it(toy: Toy) -> None:
    ranker = toy.ranker("escm2", tasks=PAIR, estimator="dr", ctcvr_weight=0.0)
    batch = labelled(toy, [1, 0], [1, 0])
    p, q = probabilities(ranker, batch)
    imputed = nn.functional.softplus(ranker.imputation(ranker.embed(batch)).detach().double())
    error = cross_entropy(float(q[0]), 1)
    estimate = (float(imputed.sum()) + (error - float(imputed[0])) / float(p[0])) / 2
    teaching = (error - float(imputed[0])) ** 2 / float(p[0]) / 2
    losses = ranker.losses(batch, LOSS)
    assert float(losses["loss/conversion"].detach()) == pytest.approx(estimate, rel=1e-4)
    assert float(losses["aux/imputation"].detach()) == pytest.approx(teaching, rel=1e-4)
    losses["aux/imputation"].backward()
    assert touched(ranker.imputation)
    assert not touched(ranker.towers["conversion"])


def test_without_its_own_term_escm2_is_esmm(toy: Toy) -> None:
    escm2, esmm = toy.ranker("escm2", tasks=PAIR, cvr_weight=0.0), toy.ranker("esmm", tasks=PAIR)
    esmm.load_state_dict(escm2.state_dict())
    batch = labelled(toy, [1, 1, 0, 0], [1, 0, 0, 0])
    for name, loss in nonempty(esmm.losses(batch, LOSS).items()):
        torch.testing.assert_close(escm2.losses(batch, LOSS)[name], loss)


def test_a_purchase_counts_behind_a_click_alone_and_unknown_ones_are_left_out(toy: Toy) -> None:
    """Label y z: 0 without a click whatever is told of the purchase; unknown without click label or, clicked, without
    purchase label."""
    labels = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 1], [0, 1]], dtype=torch.float32)
    mask = torch.ones(7, 2, dtype=torch.bool)
    mask[4, 1] = mask[5, 0] = mask[6, 1] = False
    unseen = torch.where(mask, labels, torch.nan)
    batch = replace(toy.batch(7), labels=unseen, mask=mask, weight=torch.empty(0))
    ranker = toy.ranker("esmm", tasks=PAIR)
    label, space, weight = ranker.end_to_end(batch)
    assert space.tolist() == [True, True, True, True, False, False, True]
    assert label[space].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert weight is None
    assert torch.isfinite(torch.stack(list(ranker.losses(batch, LOSS).values()))).all()
