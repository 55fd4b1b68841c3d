"""CGC and PLE: which expert serves whom, which gradient reaches whom, at which level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.nn.split import SplitInput
from recsys.ranking.mixture import SHARED
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

TASKS = (TaskSpec(name="click"), TaskSpec(name="like"))
WIDTH = 6


def ple(toy: Toy, levels: int = 2, task_experts: Any = 2, shared: int = 2, tasks: Any = TASKS, **keys: Any) -> Any:
    level = {"task_experts": task_experts, "shared_experts": shared}
    return toy.ranker("ple", tasks=tasks, levels=[level] * levels, expert_hidden=(WIDTH,), **keys)


def cgc(toy: Toy, task_experts: Any = 2, shared: int = 2, tasks: Any = TASKS, **keys: Any) -> Any:
    return toy.ranker(
        "cgc", tasks=tasks, task_experts=task_experts, shared_experts=shared, expert_hidden=(WIDTH,), **keys
    )


def model_input(ranker: Any, rows: int = 64, seed: int = 0) -> SplitInput:
    return SplitInput.of(torch.randn(rows, ranker.width, generator=torch.Generator().manual_seed(seed)))


def touched(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def levels_of(ranker: Any) -> list[Any]:
    return list(ranker.levels) if hasattr(ranker, "levels") else [ranker.level]


def backward(ranker: Any, task: str) -> None:
    ranker.zero_grad()
    ranker.logits(model_input(ranker))[task].square().sum().backward()


def test_cgc_is_the_papers_formula(toy: Toy) -> None:
    ranker = cgc(toy, {"click": 1, "like": 3})
    x, level = model_input(ranker, 5).flat(), ranker.level

    def outputs(experts: Any) -> Tensor:
        return torch.relu(x @ experts.weight.T + experts.bias).view(5, experts.num_experts, WIDTH)

    for task in ("click", "like"):
        seen = torch.cat([outputs(level.task_experts[task]), outputs(level.shared_experts)], dim=1)
        weights = torch.softmax(x @ level.task_gates[task].layers[0].weight.T, dim=1)
        expected = ranker.towers[task](torch.einsum("re,reh->rh", weights, seen))
        torch.testing.assert_close(ranker.logits(SplitInput.of(x))[task], expected, rtol=1e-5, atol=1e-5)


def test_two_levels_are_the_papers_formula(toy: Toy) -> None:
    ranker = ple(toy, 2, {"click": 1, "like": 2}, shared=2)
    x = model_input(ranker, 5).flat()
    streams = {"click": x, "like": x, SHARED: x}
    for number, level in enumerate(ranker.levels):
        read = {**dict(level.task_experts.items()), SHARED: level.shared_experts}
        out = {
            name: torch.relu(streams[name] @ experts.weight.T + experts.bias).view(5, experts.num_experts, WIDTH)
            for name, experts in read.items()
        }
        above = {}
        for task in ("click", "like"):
            weights = torch.softmax(streams[task] @ level.task_gates[task].layers[0].weight.T, dim=1)
            above[task] = torch.einsum("re,reh->rh", weights, torch.cat([out[task], out[SHARED]], dim=1))
        if number == 0:
            weights = torch.softmax(x @ level.shared_gate.layers[0].weight.T, dim=1)
            above[SHARED] = torch.einsum("re,reh->rh", weights, torch.cat(list(out.values()), dim=1))
        streams = above
    for task, logit in nonempty(ranker.logits(SplitInput.of(x)).items()):
        torch.testing.assert_close(logit, ranker.towers[task](streams[task]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task_experts", [2, {"click": 1, "like": 3}])
def test_gates_have_the_right_widths_and_the_last_level_no_shared_one(toy: Toy, task_experts: Any) -> None:
    ranker = ple(toy, 3, task_experts, shared=2)
    counts = {"click": 2, "like": 2} if task_experts == 2 else task_experts
    weights = ranker.gate_weights(toy.batch(4))
    shared = {f"{level}/{SHARED}": sum(counts.values()) + 2 for level in (1, 2)}
    own = {f"{level}/{task}": counts[task] + 2 for level in (1, 2, 3) for task in counts}
    assert {name: gate.shape[1] for name, gate in weights.items()} == {**own, **shared}
    assert ranker.levels[-1].shared_gate is None
    assert not any(name.startswith("levels.2.shared_gate") for name, _ in ranker.named_parameters())


def test_ple_with_one_level_is_cgc(toy: Toy) -> None:
    one, single = ple(toy, 1, {"click": 1, "like": 3}), cgc(toy, {"click": 1, "like": 3})
    state = {name.replace("levels.0.", "level."): value for name, value in one.state_dict().items()}
    single.load_state_dict(state)  # strict: the same names and shapes
    batch = toy.batch(16)
    for task, logit in nonempty(one(batch).items()):
        assert torch.equal(single(batch)[task], logit)


def test_cgc_without_task_experts_is_mmoe(toy: Toy) -> None:
    single = cgc(toy, 0, shared=5)
    mmoe = toy.ranker("mmoe", tasks=TASKS, num_experts=5, expert_hidden=(WIDTH,))
    renamed = {
        name.replace("level.shared_experts", "experts").replace("level.task_gates", "gates"): value
        for name, value in single.state_dict().items()
    }
    mmoe.load_state_dict(renamed)
    batch = toy.batch(16)
    for task, logit in nonempty(mmoe(batch).items()):
        torch.testing.assert_close(single(batch)[task], logit, rtol=1e-6, atol=1e-6)


def test_cgc_without_shared_experts_keeps_tasks_apart(toy: Toy) -> None:
    ranker = cgc(toy, 3, shared=0)
    backward(ranker, "click")
    for part in (ranker.level.task_experts, ranker.level.task_gates, ranker.towers):
        assert touched(part["click"])
        assert not touched(part["like"])


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("task_experts", [2, {"click": 3, "like": 1}])
def test_the_last_level_isolates_and_the_lower_ones_mix(toy: Toy, levels: int, task_experts: Any) -> None:
    ranker = ple(toy, levels, task_experts)
    backward(ranker, "click")
    assert not touched(ranker.towers["like"])
    for number, level in enumerate(ranker.levels, 1):
        assert touched(level.shared_experts), "shared experts learn from every task at every level"
        assert touched(level.task_experts["click"])
        assert touched(level.task_experts["like"]) == (number < levels), f"level {number} of {levels}"
        # a gate's output feeds the next level's own experts, and those reach another task one level further up
        assert touched(level.task_gates["like"]) == (number <= levels - 2), f"gate of level {number} of {levels}"


def test_the_shared_gate_weighs_every_expert(toy: Toy) -> None:
    """A shared gate over shared experts only would leave the other tasks' columns without influence."""
    ranker = ple(toy, 2)
    mixture = ranker.mixtures(model_input(ranker, 8))[0]
    shared = mixture.streams.index(SHARED)
    assert mixture.visible[shared] == tuple(range(6))
    assert (mixture.weights[:, shared] > 0).all()


def test_a_gate_reads_the_stream_below_and_not_the_input(toy: Toy) -> None:
    ranker = ple(toy, 2)
    below = [SplitInput.of(torch.rand(8, WIDTH)) for _ in range(3)]
    level = ranker.levels[1]
    before = level(below).weights
    moved = [SplitInput.of(torch.rand(8, WIDTH)), *below[1:]]
    after = level(moved).weights
    assert torch.equal(after[:, 1], before[:, 1]), "the other task's gate reads its own stream"
    assert not torch.allclose(after[:, 0], before[:, 0])
    with torch.no_grad():  # freeze level 1's streams: a different x must not reach level 2's gates
        for experts in [*ranker.levels[0].task_experts.values(), ranker.levels[0].shared_experts]:
            experts.weight.zero_()
            experts.bias.fill_(1.0)
    first, second = (ranker.mixtures(model_input(ranker, 8, seed)) for seed in (1, 2))
    torch.testing.assert_close(first[1].weights, second[1].weights)
    assert not torch.allclose(first[0].weights, second[0].weights)


def expert_slices(ranker: Any) -> Iterator[tuple[str, Tensor, slice]]:
    for number, level in enumerate(levels_of(ranker)):
        groups = [*level.task_experts.items(), (SHARED, level.shared_experts)]
        for name, experts in groups:
            for position in range(experts.num_experts):
                yield f"{number}/{name}/{position}", experts.bias, slice(position * WIDTH, (position + 1) * WIDTH)


@pytest.mark.parametrize("kind", [cgc, ple])
@pytest.mark.parametrize("task_experts", [{"click": 1, "like": 3}, {"click": 3, "like": 1}])
def test_with_unequal_experts_every_one_matters_to_the_right_tasks(toy: Toy, kind: Any, task_experts: Any) -> None:
    ranker = kind(toy, task_experts=task_experts)
    x = model_input(ranker)
    before = ranker.logits(x)
    counted = 0
    last = len(levels_of(ranker)) - 1
    for name, bias, place in expert_slices(ranker):
        old = bias.detach().clone()
        with torch.no_grad():
            bias[place] += 0.5
        after = ranker.logits(x)
        changed = {task for task in before if not torch.allclose(before[task], after[task], atol=1e-7)}
        level, owner, _ = name.split("/")
        everyone = owner == SHARED or int(level) < last
        assert changed == ({"click", "like"} if everyone else {owner}), name
        with torch.no_grad():
            bias.copy_(old)
        counted += 1
    assert counted == 6 * (last + 1)


def test_tasks_can_change_places(toy: Toy) -> None:
    experts = {"click": 1, "like": 3}
    forth, back = ple(toy, 2, experts), ple(toy, 2, experts, tasks=TASKS[::-1], seed=1)
    state = forth.state_dict()
    gate = state["levels.0.shared_gate.layers.0.weight"]  # columns: click's expert, like's three, two shared
    state["levels.0.shared_gate.layers.0.weight"] = gate[[1, 2, 3, 0, 4, 5]]
    back.load_state_dict(state)
    batch = toy.batch(16)
    for task, logit in nonempty(forth(batch).items()):
        torch.testing.assert_close(back(batch)[task], logit, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("task_experts", "shared"), [(0, 3), (2, 0), ({"click": 0, "like": 2}, 1)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_empty_groups_work_and_leave_no_idle_parameter(toy: Toy, task_experts: Any, shared: int, levels: int) -> None:
    ranker = ple(toy, levels, task_experts, shared)
    total = sum(logit.square().sum() for logit in ranker.logits(model_input(ranker)).values())
    total.backward()
    idle = [
        name
        for name, parameter in ranker.named_parameters()
        if not name.startswith("inputs.") and (parameter.grad is None or not parameter.grad.any())
    ]
    lone = [name for name in idle if "task_gates" in name]  # the gate of a task with a single expert cannot move
    assert set(idle) == set(lone)
    if task_experts != {"click": 0, "like": 2}:
        assert not idle


@pytest.mark.parametrize(
    ("task_experts", "shared", "words"),
    [(0, 0, "see no expert"), ({"click": 1}, 1, "task_experts names"), ({"click": 1, "like": -1}, 1, "negative")],
)
def test_impossible_experts_are_refused(toy: Toy, task_experts: Any, shared: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cgc(toy, task_experts, shared)


def test_levels_may_have_their_own_widths(toy: Toy) -> None:
    ranker = toy.ranker(
        "ple", tasks=TASKS, levels=[{"expert_hidden": (8, 7)}, {"task_experts": 1, "expert_hidden": (5,)}]
    )
    assert ranker.levels[1].task_experts["click"].weight.shape == (1 * 5, 7)
    assert [mixture.mixed.shape[2] for mixture in ranker.mixtures(model_input(ranker))] == [7, 5]


def test_ple_means_more_than_one_level(toy: Toy) -> None:
    """What ships as PLE with one level is CGC."""
    assert len(toy.ranker("ple").levels) == 2
    assert toy.ranker("ple").levels[0].shared_gate is not None
