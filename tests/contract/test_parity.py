"""With the extra `bench` installed: our rankers and torch-rechub's give the same probabilities from the same weights.

Its layers have a batch norm, which is replaced by the identity, and its gates a bias, which ours take as an option; its
transfer in AITM has no biases, ours start at 0 and stay there. The inputs are given to both as they are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.data.schema import TaskSpec
from recsys.nn.split import SplitInput
from recsys.ranking.ranker import Ranker
from recsys.testing.toy import Toy

pytest.importorskip("torch_rechub", reason="needs the extra: pip install 'recsys-funnel[bench]'")

TASKS = (TaskSpec(name="click"), TaskSpec(name="like"))
EXPERT, TOWER = (6, 5), (4,)
BIASED = {"gate": {"bias": True}, "expert_hidden": EXPERT, "tower_hidden": TOWER}
TOWERS = [{"dims": list(TOWER)}] * 2
EXPERTS = {"dims": list(EXPERT)}


class Given(nn.Module):
    """In place of torch-rechub's embeddings: the input as it is, or for one side's features its columns of it."""

    def forward(self, x: Tensor, features: list[Any], squeeze_dim: bool = False) -> Tensor:
        """Float [R, D] -> [R, D], or [R, width of the features]."""
        first, last = features[0].columns
        return x[:, first:last]


class Columns:
    """What torch-rechub takes for a feature: its width, and here its columns of the input."""

    def __init__(self, first: int, last: int) -> None:
        self.columns, self.embed_dim, self.name = (first, last), last - first, "given"


def bare(model: Any) -> Any:
    """torch-rechub's model without batch norms and with random biases, on given inputs."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d):
                setattr(module, name, nn.Identity())
    model.embedding = Given()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


def linears(module: Any) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def copy_layers(ours: Any, theirs: Any) -> None:
    """Linear layers in order."""
    mine, others = linears(ours), linears(theirs)
    assert len(mine) == len(others) > 0
    for layer, other in zip(mine, others, strict=True):
        layer.weight.copy_(other.weight)
        if layer.bias is not None and other.bias is not None:
            layer.bias.copy_(other.bias)


@torch.no_grad()
def copy_experts(ours: Any, theirs: Any) -> None:
    """One set of experts from a list of networks of two layers."""
    first, second = zip(*(linears(expert) for expert in theirs), strict=True)
    ours.weight.copy_(torch.cat([layer.weight for layer in first]))
    ours.bias.copy_(torch.cat([layer.bias for layer in first]))
    ours.deep_weight[0].copy_(torch.stack([layer.weight.T for layer in second]).view_as(ours.deep_weight[0]))
    ours.deep_bias[0].copy_(torch.cat([layer.bias for layer in second]).view_as(ours.deep_bias[0]))


def probabilities(ranker: Ranker, x: Tensor) -> Tensor:
    logits = ranker.logits(SplitInput.of(x))
    return torch.sigmoid(torch.stack([logits[task.name] for task in ranker.tasks], dim=1))


def given(ranker: Any) -> tuple[Tensor, list[Any]]:
    width = ranker.width
    return torch.randn(50, width, generator=torch.Generator().manual_seed(1)), [Columns(0, width)]


def agree(ranker: Any, theirs: Any, x: Tensor) -> None:
    ranker.eval()
    with torch.no_grad():
        expected, mine = theirs(x), probabilities(ranker, x)
    assert mine.std(dim=0).min() > 1e-3  # two constants would agree too
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)


def test_shared_bottom(toy: Toy) -> None:
    from torch_rechub.models.multi_task import SharedBottom

    ranker: Any = toy.ranker("shared_bottom", tasks=TASKS, bottom_hidden=EXPERT, tower_hidden=TOWER)
    x, features = given(ranker)
    theirs = bare(SharedBottom(features, ["classification"] * 2, EXPERTS, TOWERS))
    copy_layers(ranker.bottom, theirs.bottom_mlp)
    for task, tower in zip(TASKS, theirs.towers, strict=True):
        copy_layers(ranker.towers[task.name], tower)
    agree(ranker, theirs, x)


def test_mmoe(toy: Toy) -> None:
    from torch_rechub.models.multi_task import MMOE

    ranker: Any = toy.ranker("mmoe", tasks=TASKS, num_experts=3, **BIASED)
    x, features = given(ranker)
    theirs = bare(MMOE(features, ["classification"] * 2, 3, EXPERTS, TOWERS))
    copy_experts(ranker.experts, theirs.experts)
    for task, gate, tower in zip(TASKS, theirs.gates, theirs.towers, strict=True):
        copy_layers(ranker.gates[task.name], gate)
        copy_layers(ranker.towers[task.name], tower)
    agree(ranker, theirs, x)


@pytest.mark.parametrize("levels", [1, 2])
def test_ple(toy: Toy, levels: int) -> None:
    from torch_rechub.models.multi_task import PLE

    level = {"task_experts": 2, "shared_experts": 3}
    ranker: Any = toy.ranker("ple", tasks=TASKS, levels=[level] * levels, **BIASED)
    x, features = given(ranker)
    theirs = bare(PLE(features, ["classification"] * 2, levels, 2, 3, EXPERTS, TOWERS))
    for ours, other in zip(ranker.levels, theirs.cgc_layers, strict=True):
        copy_experts(ours.shared_experts, other.experts_shared)
        for place, task in enumerate(TASKS):
            copy_experts(ours.task_experts[task.name], other.experts_specific[2 * place : 2 * place + 2])
            copy_layers(ours.task_gates[task.name], other.gates_specific[place])
        if hasattr(other, "gate_shared"):
            copy_layers(ours.shared_gate, other.gate_shared)
    for task, tower in zip(TASKS, theirs.towers, strict=True):
        copy_layers(ranker.towers[task.name], tower)
    agree(ranker, theirs, x)


def test_esmm(toy: Toy) -> None:
    from torch_rechub.models.multi_task import ESMM

    tasks = (TaskSpec(name="conversion"), TaskSpec(name="click"), TaskSpec(name="order"))
    keys = {"click": "click", "conversion": "conversion", "product": "order", "ctr_hidden": EXPERT, "cvr_hidden": (7,)}
    ranker: Any = toy.ranker("esmm", tasks=tasks, **keys)
    x, _ = given(ranker)
    half = ranker.width // 2
    assert ranker.width == 2 * half  # it takes the sides to be equally wide
    user, item = [Columns(0, half)], [Columns(half, ranker.width)]
    theirs = bare(ESMM(user, item, {"dims": [7]}, {"dims": list(EXPERT)}))
    copy_layers(ranker.towers["conversion"], theirs.tower_cvr)
    copy_layers(ranker.towers["click"], theirs.tower_ctr)
    agree(ranker, theirs, x)


def test_aitm_but_for_its_biases(toy: Toy) -> None:
    from torch_rechub.models.multi_task import AITM

    ranker: Any = toy.ranker("aitm", tasks=TASKS, tower_hidden=EXPERT)
    x, features = given(ranker)
    theirs = bare(AITM(features, 2, EXPERTS, [{"dims": []}] * 2))
    for task, bottom, tower in zip(TASKS, theirs.bottoms, theirs.towers, strict=True):
        copy_layers(ranker.trunks[task.name], bottom)
        copy_layers(ranker.towers[task.name], tower)
    transfer, attention = ranker.transfers["like"], theirs.aits[0]
    copy_layers(transfer.carry, theirs.info_gates[0])
    layers = {"query": attention.q_layer, "key": attention.k_layer, "value": attention.v_layer}
    for name, layer in layers.items():
        copy_layers(getattr(transfer, name), layer)
        assert not getattr(transfer, name).bias.any()
    agree(ranker, theirs, x)
