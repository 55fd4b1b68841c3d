"""Every ranker of the registry in every variant, and one training step of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.ranking.losses import LossConfig
from recsys.ranking.ranker import Ranker, ranker_class, ranker_kinds

INTERACTIONS = ("fm", "dlrm", "autoint", "masknet")
KINDS = list(ranker_kinds())
LOSS = LossConfig()

GATED: dict[str, Any] = {
    "hidden_gate": "tanh",
    "input": {"field_gate": {"kind": "bit", "sharing": "private"}},
}
EXPERTS: dict[str, Any] = {
    "expert_hidden": (6, 5),
    "expert_norm": True,
    "gate": {"bias": True, "hidden": (4,), "temperature": 2.0},
}
MIXED: dict[str, Any] = {"input": {"joint_gate": {"enabled": True, "rank": 2}, "cross_layers": 1, "cross_rank": 3}}


def variants() -> list[Any]:
    """Each ranker plain, with gates, with everything its experts can be told, and with what mixes both sides."""
    found = []
    for kind in KINDS:
        keys = ranker_class(kind).Config.model_fields
        options: dict[str, Any] = {"plain": {}} if kind == "logistic" else {"plain": {}, "gated": GATED}
        if "expert_hidden" in keys:
            options["experts"] = EXPERTS
        if kind not in ("dupn", "logistic"):  # one keeps user and item apart by design, the other is linear
            options["mixed"] = MIXED
            options["target"] = {"input": {"target": {"unit": "din", "hidden": (5, 3)}}}
        if kind in ("shared_bottom", "stem"):  # all read the same input layer
            options |= {name: {"input": {"interaction": {"kind": name, "width": 3}}} for name in INTERACTIONS}
        if kind == "escm2":
            options["dr"] = {"estimator": "dr"}
        if kind == "shared_bottom":
            options["scenes"] = {"scenes": "tab", "groups": {"both": ("click", "watch")}}
        if kind == "home":
            options["groups"] = {"groups": {"watch": ("watch",)}, "feature_gate_maps": 1, "task_experts": 2}
            options["bare"] = {"self_gate": False, "feature_gate_rank": 0, "expert_norm": False}
        if kind in {"esmm", "escm2"}:
            options["field_sum"] = {"pooling": "field_sum", "cvr_hidden": (7,)}
        found += [pytest.param(kind, keys, id=f"{kind}-{name}") for name, keys in options.items()]
    return found


KINDS_WITH_EXPERTS = [kind for kind in KINDS if "expert_hidden" in ranker_class(kind).Config.model_fields]

every_network = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "logistic"])
"""Every ranker that is more than a linear model."""
every_kind = pytest.mark.parametrize("kind", KINDS)
with_experts = pytest.mark.parametrize("kind", KINDS_WITH_EXPERTS)
every_variant = pytest.mark.parametrize(("kind", "keys"), variants())


def gradient(parameter: nn.Parameter) -> Tensor:
    """Dense gradient; zeros without one."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def total(ranker: Ranker, batch: Batch) -> Tensor:
    return torch.stack(list(ranker.losses(batch, LOSS).values())).sum()


def optimisers(ranker: Ranker, lr: float) -> list[torch.optim.Optimizer]:
    tables = [table.weight for table in ranker.tables()]
    held = {id(weight) for weight in tables}
    dense = [parameter for parameter in ranker.parameters() if id(parameter) not in held]
    return [torch.optim.Adam(dense, lr=lr), torch.optim.SparseAdam(tables, lr=lr)]


def step(loss: Tensor, optimisers: list[torch.optim.Optimizer]) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()
