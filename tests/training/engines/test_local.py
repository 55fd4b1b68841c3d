"""Two processes are the same training as one: losses, weights, and replicas to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.nn.embedding import EmbeddingTable
from recsys.ranking.ranker import ranker_kinds
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.parity import Found, all_and_uneven, all_of
from recsys.tests.support.processes import together

Cases = dict[str, tuple[str, dict[str, Any]]]
QUICK: Cases = {
    "in-batch": ("towers", {"loss": "in_batch", "memory": 30, "memory_after": 1}),
    "mixed": ("towers", {"loss": "mixed", "tower": {"interests": 2, "similarity": "cosine"}}),
    "full softmax": ("towers", {"loss": "full_softmax", "hard_negatives": 2}),
    "rows and requests": ("select", {"model": {"kind": "mmoe"}, "optim": {"eps": 1e-4, "clip_norm": 0.1}}),
}
OWN_KEYS: dict[str, dict[str, Any]] = {
    "dupn": {"input": {"history": {"dropout": 0.0, "fast": False}}},  # sums in bfloat16 differ by thousandths
}
OTHERS: Cases = {
    **{loss: ("towers", {"loss": loss}) for loss in ("sampled", "estimated", "bce", "gbce", "bpr_max", "exposures")},
    "hidden events": ("towers", {"tower": {"history": {"encoder": "bert4rec", "dropout": 0.0, "hidden": 8}}}),
    "row-wise Adagrad": ("towers", {"loss": "mixed", "optim": {"table_optimizer": "rowwise_adagrad", "eps": 1e-4}}),
    "requests alone": ("requests", {"model": {"kind": "shared_bottom"}}),
    "mean reduction": ("rows", {"model": {"kind": "shared_bottom"}, "loss": {"reduction": "mean"}}),
    **{
        balance: ("select", {"model": {"kind": "shared_bottom"}, "balance": {"kind": balance}})
        for balance in ("uncertainty", "schedule")
    },
    **{
        kind: ("rows", {"model": {"kind": kind, **OWN_KEYS.get(kind, {})}})
        for kind in ranker_kinds()
        if kind not in ("esmm", "escm2")  # their tasks are others: the losses are those of `masked_mean` as well
    },
    "distilled": ("rows", {"model": {"kind": "shared_bottom"}, "distil": {"share": 0.3, "teachers": 1}}),
}


FEW, MANY = 25, 50
"""Steps of the quick cases, and of all others."""


def compare(cases: Cases, steps: int, made: tuple[Found, ...]) -> None:
    torch.set_num_threads(1)
    one, (first, second) = all_of(cases, steps), made
    assert one.keys() == first.keys() == second.keys()
    apart = {}
    for name, expected in nonempty(one.items()):
        assert torch.equal(first[name], second[name]), f"{name} differs between the replicas"
        if expected.numel() and (far := float((first[name] - expected).abs().max())) > 1e-5:
            apart[name] = far
    assert not apart
    for name in cases:
        assert len(one[f"{name}: losses"]) >= steps
        assert one[f"{name}: losses"][-1] != one[f"{name}: losses"][0]


@pytest.fixture(scope="module")
def quick() -> tuple[Found, ...]:
    """What two processes make of the quick cases and of uneven work."""
    return tuple(together(all_and_uneven, QUICK, FEW))


@pytest.mark.slow
def test_two_processes_train_as_one(quick: tuple[Found, ...]) -> None:
    compare(QUICK, FEW, tuple(part(found, uneven=False) for found in quick))


@pytest.mark.exhaustive
def test_two_processes_train_as_one_whatever_is_trained() -> None:
    compare(OTHERS, MANY, tuple(together(all_of, OTHERS, MANY)))


def part(found: Found, *, uneven: bool) -> Found:
    """What belongs to the uneven work, or the rest."""
    mark = "uneven "
    return {name.removeprefix(mark): tensor for name, tensor in found.items() if name.startswith(mark) == uneven}


@pytest.mark.slow
def test_what_no_process_has_a_gradient_of_stays(quick: tuple[Found, ...]) -> None:
    first, *others = (part(found, uneven=True) for found in quick)
    torch.manual_seed(0)
    table, used, unused = EmbeddingTable({"a": 9}, 3), torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    assert torch.equal(first["unused.weight"], unused.weight)
    assert not torch.equal(first["used.weight"], used.weight)
    moved = (first["table.weight"] != table.weight).any(1).nonzero()[:, 0].tolist()
    assert moved == [2]
    for other in others:
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())
