"""Shared bottom: isolation of towers, sum of gradients, scenes with several objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

LOSS = LossConfig()
SCENES = (
    TaskSpec(name="stayed", scene="tab=feed"),
    TaskSpec(name="stay_time", kind="regression", log1p=True, scene="tab=feed"),
    TaskSpec(name="liked", scene="tab=player"),
)
GROUPS = {"feed": ("stayed", "stay_time"), "player": ("liked",)}


def grads(module: torch.nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_a_tasks_loss_leaves_other_towers_alone(toy: Toy) -> None:
    ranker = toy.ranker("shared_bottom")
    ranker.losses(toy.batch(32), LOSS)["loss/click"].backward()
    assert any(grad.any() for grad in grads(ranker.towers["click"]))
    for other in ("conversion", "watch"):
        assert not any(grad.any() for grad in grads(ranker.towers[other]))


def test_the_trunks_gradient_is_the_sum_of_the_tasks(toy: Toy) -> None:
    ranker, batch = toy.ranker("shared_bottom"), toy.batch(32)
    parts = []
    for name in ("loss/click", "loss/conversion", "loss/watch"):
        ranker.zero_grad()
        ranker.losses(batch, LOSS)[name].backward()
        parts.append(grads(ranker.bottom))
    ranker.zero_grad()
    torch.stack(list(ranker.losses(batch, LOSS).values())).sum().backward()
    for whole, *separate in nonempty(zip(grads(ranker.bottom), *parts, strict=True)):
        torch.testing.assert_close(whole, torch.stack(separate).sum(0), rtol=1e-4, atol=1e-6)


def test_a_scene_without_rows_keeps_its_tower(toy: Toy) -> None:
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


def test_a_scene_is_one_tower_with_an_output_per_objective(toy: Toy) -> None:
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


def test_objectives_of_one_tower_are_not_mixed_up(toy: Toy) -> None:
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
def test_groups_that_make_no_sense_are_refused(toy: Toy, groups: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="groups"):
        toy.ranker("shared_bottom", groups=groups)


def routed(toy: Toy, **keys: Any) -> Any:
    return toy.ranker("shared_bottom", scenes="tab", **keys)


def in_scene(toy: Toy, codes: list[int]) -> Any:
    """Rows that differ in nothing but their scene's vocabulary row."""
    batch = toy.batch(24)
    same = batch.select(torch.zeros(len(codes), dtype=torch.int64))
    categorical = same.query.categorical.clone()
    categorical[:, 1] = torch.tensor(codes)
    return replace(same, query=replace(same.query, categorical=categorical))


def test_a_row_is_routed_to_the_tower_of_its_scene(toy: Toy) -> None:
    ranker = routed(toy, groups={"both": ("click", "watch")})  # tab has 4 rows: padding, unknown and 2 scenes
    batch = toy.batch(24)
    codes = batch.query.categorical[:, 1]
    h = ranker.bottom(ranker.embed(batch))
    for task, group, place in (("click", "both", 0), ("watch", "both", 1), ("conversion", "conversion", 0)):
        towers = ranker.towers[group]
        own = torch.stack([tower(h).reshape(24, -1)[:, place] for tower in towers.scenes], dim=1)
        expected = own.mean(1)
        for scene in (0, 1):
            expected = torch.where(codes == scene + 2, own[:, scene], expected)
        torch.testing.assert_close(ranker(batch)[task], expected + towers.bias[place])


def test_a_scene_trains_its_own_towers_and_the_trunk(toy: Toy) -> None:
    ranker, batch = routed(toy), in_scene(toy, [2] * 8)
    ranker.losses(batch, LOSS)["loss/click"].backward()
    first, second = ranker.towers["click"].scenes
    assert any(grad.any() for grad in grads(first))
    assert not any(grad.any() for grad in grads(second))
    assert any(grad.any() for grad in grads(ranker.bottom))


def test_an_unknown_scene_takes_the_mean_of_all(toy: Toy) -> None:
    ranker = routed(toy)
    with torch.no_grad():  # the scene's own embedding aside, so that rows differ by their route alone
        ranker.inputs.encoder.table.weight.zero_()
    padded, unknown, first, second = ranker(in_scene(toy, [0, 1, 2, 3]))["click"].tolist()
    assert first != second
    assert unknown == padded == pytest.approx((first + second) / 2, abs=1e-6)
    ranker.set_base_rates({"click": 0.01})
    after = ranker(in_scene(toy, [1, 2]))["click"]
    torch.testing.assert_close(after - torch.tensor([unknown, first]), torch.logit(torch.tensor(0.01)).expand(2))


def test_the_scene_of_the_query_holds_for_all_its_candidates(toy: Toy) -> None:
    ranker, batch = routed(toy), toy.requests(candidates=5, queries=3, seed=3)
    once, repeated = ranker(batch), ranker(toy.spread(batch))
    for task in nonempty(once):
        torch.testing.assert_close(once[task], repeated[task], rtol=1e-5, atol=1e-5)


def test_what_is_no_scene_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="no categorical feature"):
        toy.ranker("shared_bottom", scenes="nothing")
