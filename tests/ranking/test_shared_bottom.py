"""Shared bottom: isolation of towers, sum of gradients, scenes with several objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.data.schema import TaskSpec
from recsys.errors import ConfigError
from recsys.ranking.losses import LossConfig

LOSS = LossConfig()
SCENES = (
    TaskSpec(name="stayed", scene="tab=feed"),
    TaskSpec(name="stay_time", kind="regression", log1p=True, scene="tab=feed"),
    TaskSpec(name="liked", scene="tab=player"),
)
GROUPS = {"feed": ("stayed", "stay_time"), "player": ("liked",)}


def grads(module: torch.nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_a_tasks_loss_leaves_other_towers_alone(toy: Any) -> None:
    ranker = toy.ranker("shared_bottom")
    ranker.losses(toy.batch(32), LOSS)["loss/click"].backward()
    assert any(grad.any() for grad in grads(ranker.towers["click"]))
    for other in ("conversion", "watch"):
        assert not any(grad.any() for grad in grads(ranker.towers[other]))


def test_the_trunks_gradient_is_the_sum_of_the_tasks(toy: Any) -> None:
    ranker, batch = toy.ranker("shared_bottom"), toy.batch(32)
    parts = []
    for name in ("loss/click", "loss/conversion", "loss/watch"):
        ranker.zero_grad()
        ranker.losses(batch, LOSS)[name].backward()
        parts.append(grads(ranker.bottom))
    ranker.zero_grad()
    torch.stack(list(ranker.losses(batch, LOSS).values())).sum().backward()
    for whole, *separate in zip(grads(ranker.bottom), *parts, strict=True):
        torch.testing.assert_close(whole, torch.stack(separate).sum(0), rtol=1e-4, atol=1e-6)


def test_a_scene_without_rows_keeps_its_tower(toy: Any) -> None:
    ranker = toy.ranker("shared_bottom", tasks=SCENES, groups=GROUPS)
    batch = toy.batch(32)
    mask = torch.ones(32, 3, dtype=torch.bool)
    mask[:, 2] = False
    batch = replace(batch, mask=mask, labels=torch.where(mask, batch.labels[:, [0, 2, 0]], torch.nan))
    before = [parameter.detach().clone() for parameter in ranker.towers["player"].parameters()]
    optimiser = torch.optim.Adam([p for name, p in ranker.named_parameters() if "table" not in name], lr=0.1)
    losses = ranker.losses(batch, LOSS)
    assert float(losses["loss/liked"].detach()) == 0.0
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()
    for old, new in zip(before, ranker.towers["player"].parameters(), strict=True):
        assert torch.equal(old, new)
    assert any(grad.any() for grad in grads(ranker.towers["feed"]))


def test_a_scene_is_one_tower_with_an_output_per_objective(toy: Any) -> None:
    ranker = toy.ranker("shared_bottom", tasks=SCENES, groups=GROUPS, towers={"feed": (9,), "player": (7, 5)})
    assert sorted(ranker.towers) == ["feed", "player"]
    assert ranker.towers["feed"].output.weight.shape == (2, 9)
    assert ranker.towers["player"].output.weight.shape == (1, 5)
    out = ranker(toy.batch(8))
    assert list(out) == ["stayed", "stay_time", "liked"]
    ranker.set_base_rates({"stay_time": 3.0})
    after = ranker(toy.batch(8))
    torch.testing.assert_close(after["stay_time"] - out["stay_time"], torch.full((8,), 3.0))
    assert torch.equal(after["stayed"], out["stayed"])


def test_objectives_of_one_tower_are_not_mixed_up(toy: Any) -> None:
    ranker = toy.ranker("shared_bottom", tasks=SCENES, groups={"feed": ("stayed", "stay_time"), "player": ("liked",)})
    with torch.no_grad():
        ranker.towers["feed"].output.weight.zero_()
        ranker.towers["feed"].output.bias.copy_(torch.tensor([1.0, 2.0]))
    out = ranker(toy.batch(4))
    assert float(out["stayed"].detach()[0]) == 1.0
    assert float(out["stay_time"].detach()[0]) == 2.0


@pytest.mark.parametrize(
    "groups", [{"feed": ("nobody",)}, {"a": ("click",), "b": ("click",)}, {"watch": ("click",)}, {"empty": ()}]
)
def test_groups_that_make_no_sense_are_refused(toy: Any, groups: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="groups"):
        toy.ranker("shared_bottom", groups=groups)
