"""HoME: the hierarchy mask, feature gates, self gates and normalised experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.nn.split import SplitInput
from recsys.ranking.layers import GateConfig
from recsys.ranking.mixture import SHARED
from recsys.ranking.models.home import FeatureGate, SelfGate
from recsys.testing.toy import Toy

TASKS = tuple(TaskSpec(name=name) for name in ("click", "long", "like", "follow"))
GROUPS = {"watch": ("click", "long"), "react": ("like", "follow")}
WATCH, REACT = "group watch", "group react"
WIDTH = 6


def home(toy: Toy, **keys: Any) -> Any:
    return toy.ranker("home", tasks=TASKS, **{"groups": GROUPS, "expert_hidden": (WIDTH,), **keys})


def model_input(ranker: Any, rows: int = 48, seed: int = 0) -> SplitInput:
    return SplitInput.of(torch.randn(rows, ranker.width, generator=torch.Generator().manual_seed(seed)))


def touched(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def after_backward(ranker: Any, task: str) -> Any:
    ranker.zero_grad()
    ranker.logits(model_input(ranker))[task].square().sum().backward()
    return ranker


def view(level: Any, name: str, v: Tensor) -> Tensor:
    """The feature gate in plain words."""
    gate = level.feature_gates[name]
    maps = [2 * torch.sigmoid(v @ gate.down[2 * i : 2 * i + 2].T @ gate.up[i]) for i in range(3)]
    weights = torch.softmax(v @ gate.weigh.T, dim=1)
    return v * sum(weights[:, i : i + 1] * factor for i, factor in enumerate(maps))


def outputs(level: Any, name: str, v: Tensor) -> Tensor:
    experts, seen = level.experts[name], view(level, name, v)
    before = (seen @ experts.weight.T + experts.bias).view(len(v), experts.num_experts, -1)
    return F.silu(F.layer_norm(before, (before.shape[-1],)))


def stream(level: Any, name: str, sets: list[Tensor], own: Tensor, gate_input: Tensor, own_input: Tensor) -> Tensor:
    weights = torch.softmax(gate_input @ level.gates[name].layers[0].weight.T, dim=1)
    score = own_input @ level.self_gates[name].layers[0].weight.T
    direct = torch.sigmoid(score) if own.shape[1] == 1 else torch.softmax(score, dim=1)
    return torch.einsum("re,reh->rh", weights, torch.cat(sets, 1)) + torch.einsum("re,reh->rh", direct, own)


def test_the_two_levels_are_the_papers_formula(toy: Toy) -> None:
    experts = {"click": 1, "long": 2, "like": 3, "follow": 1}
    ranker = home(toy, task_experts=experts, feature_gate_rank=2, feature_gate_maps=3, meta_hidden=(5,))
    x = model_input(ranker, 7).flat()
    below = {name: outputs(ranker.meta, name, x) for name in (WATCH, REACT, SHARED)}
    z = {name: stream(ranker.meta, name, [below[name], below[SHARED]], below[name], x, x) for name in (WATCH, REACT)}
    z[SHARED] = stream(ranker.meta, SHARED, [below[WATCH], below[REACT], below[SHARED]], below[SHARED], x, x)
    shared = outputs(ranker.level, SHARED, z[SHARED])
    out = ranker.logits(SplitInput.of(x))
    for name, group in (("click", WATCH), ("long", WATCH), ("like", REACT), ("follow", REACT)):
        own = outputs(ranker.level, name, z[group])
        both = torch.cat([z[group], z[SHARED]], dim=1)
        sets = [own, outputs(ranker.level, group, z[group]), shared]
        mixed = stream(ranker.level, name, sets, own, both, z[group])
        torch.testing.assert_close(out[name], ranker.towers[name](mixed), rtol=1e-4, atol=1e-5)


def test_the_mask_says_who_trains_whom(toy: Toy) -> None:
    ranker = after_backward(home(toy), "like")
    upper, lower = ranker.level, ranker.meta
    assert touched(upper.experts["like"])
    assert touched(upper.experts[REACT])
    assert touched(upper.experts[SHARED])
    for stranger in ("follow", "click", "long", WATCH):  # nobody else's experts on the upper level
        assert not touched(upper.experts[stranger])
        assert not touched(upper.feature_gates[stranger])
    for gates in (upper.gates, upper.self_gates, ranker.towers):
        assert touched(gates["like"])
        assert not any(touched(gates[other]) for other in ("follow", "click", "long"))
    assert all(touched(lower.experts[name]) for name in (WATCH, REACT, SHARED))  # the shared stream carries all
    assert touched(lower.gates[REACT])
    assert touched(lower.gates[SHARED])
    assert not touched(lower.gates[WATCH])


def test_a_group_sees_its_own_and_the_shared_experts_only(toy: Toy) -> None:
    ranker = home(toy, task_experts={"click": 1, "long": 2, "like": 1, "follow": 1})
    first, second = ranker.mixtures(model_input(ranker))
    seen = {s: [first.names[e] for e in first.visible[i]] for i, s in enumerate(first.streams)}
    shared, react = ["(shared) 0", "(shared) 1"], ["group react 0", "group react 1"]
    assert seen[REACT] == react + shared
    assert seen[SHARED] == ["group watch 0", "group watch 1", *react, *shared]
    seen = {s: [second.names[e] for e in second.visible[i]] for i, s in enumerate(second.streams)}
    assert seen["long"] == ["long 0", "long 1", "group watch 0", "group watch 1", *shared]
    for mixture in (first, second):
        for position in range(len(mixture.streams)):
            hidden = [e for e in range(len(mixture.names)) if e not in mixture.visible[position]]
            assert not mixture.weights[:, position, hidden].any()
            torch.testing.assert_close(mixture.seen(position).sum(1), torch.ones(48))


def test_own_experts_learn_though_their_gate_ignores_them(toy: Toy) -> None:
    """The point of the self gate: a gate that has settled elsewhere no longer starves the experts of a rare task."""
    found = {}
    for self_gate in (True, False):
        ranker = home(toy, gate={"bias": True}, self_gate=self_gate)
        with torch.no_grad():
            ranker.level.gates["like"].layers[0].bias[0] = -200.0
        found[self_gate] = touched(after_backward(ranker, "like").level.experts["like"])
    assert found == {True: True, False: False}


def test_a_self_gate_is_a_sigmoid_for_one_expert_and_a_softmax_for_several() -> None:
    x = SplitInput.of(torch.randn(50, 4))
    one, several = SelfGate(4, 1, GateConfig()), SelfGate(4, 3, GateConfig(dropout=0.5))
    assert 0 < float(one(x).detach().min()) < float(one(x).detach().max()) < 1
    torch.testing.assert_close(several(x).sum(1), torch.ones(50))
    assert (several.train()(x) > 0).all()  # no expert is dropped here


def test_sets_have_views_of_their_own_and_start_near_the_input(toy: Toy) -> None:
    gate = FeatureGate(30, rank=4, maps=2)
    factors = gate.finish(torch.randn(64, 30) @ gate.first[0].T)
    assert factors.shape == (64, 30)
    assert float(factors.detach().min()) > 0
    assert float(factors.detach().max()) < 2
    assert abs(float(factors.detach().mean()) - 1) < 0.05
    with torch.no_grad():
        gate.up.zero_()
    torch.testing.assert_close(gate.finish(torch.randn(8, 30) @ gate.first[0].T), torch.ones(8, 30))
    assert sum(p.numel() for p in FeatureGate(30, 4, 2).parameters()) == 2 * 2 * 4 * 30 + 2 * 30
    assert sum(p.numel() for p in FeatureGate(30, 4, 1).parameters()) == 2 * 4 * 30
    ranker, x = home(toy), model_input(home(toy)).flat()
    parts = [gate.finish(x @ gate.first[0].T) for gate in ranker.meta.feature_gates.values()]
    assert not torch.allclose(parts[0], parts[1])
    assert not any("feature_gates" in name for name, _ in home(toy, feature_gate_rank=0).named_parameters())


def test_experts_of_any_scale_put_out_the_same_scale(toy: Toy) -> None:
    """What lets a gate weigh experts fairly: weights a thousand times larger are not a thousand times louder."""
    ranker = home(toy)
    x = model_input(ranker)
    before = ranker.mixtures(x)[0].experts
    with torch.no_grad():
        ranker.meta.experts[WATCH].weight.mul_(1000.0)
    after = ranker.mixtures(x)[0].experts
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert (before == 0).float().mean() < 0.01  # Swish has no dead half


def test_tasks_in_no_group_are_one_together(toy: Toy) -> None:
    ranker = home(toy, groups={"watch": ("click", "long")})
    assert ranker.group_of == {"click": WATCH, "long": WATCH, "like": "group rest", "follow": "group rest"}
    assert set(home(toy, groups={}).group_of.values()) == {"group rest"}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": ("nobody",)}, "every group needs tasks"),
        ({"a": ("click",), "b": ("click",)}, "at most once"),
        ({"a": ()}, "every group needs tasks"),
        ({"rest": ("click",)}, "cannot be called"),
        ({"a.b": ("click",)}, "cannot be called"),
    ],
)
def test_groups_that_make_no_sense_are_refused(toy: Toy, groups: dict[str, tuple[str, ...]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        home(toy, groups=groups)


def test_a_task_without_an_expert_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        home(toy, task_experts={"click": 0, "long": 1, "like": 1, "follow": 1})
