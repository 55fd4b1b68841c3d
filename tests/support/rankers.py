"""Every ranker of the registry in every variant."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.ranking.ranker import ranker_class, ranker_kinds

INTERACTIONS = ("fm", "dlrm", "autoint", "masknet")
KINDS = list(ranker_kinds())

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


def tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Each ranker plain, with gates, with everything its experts can be told, and with what mixes both sides."""
    found = {}
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
        found[kind] = options
    return found


def variants() -> list[Any]:
    """The same, one by one."""
    return [
        pytest.param(kind, keys, id=f"{kind}-{name}")
        for kind, named in tables().items()
        for name, keys in named.items()
    ]


every_kind = pytest.mark.parametrize("kind", KINDS)
