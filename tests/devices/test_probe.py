"""The probe follows a GPU's rules, so that a tensor in the wrong place is an error and a wait is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.base.device import to_host
from recsys.nn.embedding import EmbeddingTable, mean_share, numbered
from recsys.tests.devices.probe import NAME, probe


def test_an_operation_with_a_cpu_tensor_is_refused_with_its_name_and_shape() -> None:
    with probe():
        there = torch.ones(3, 2, device=NAME)
        assert (there * 2.0 + torch.tensor(1.0)).sum().item() == 18.0, "a number may come along"
        with pytest.raises(RuntimeError, match=r"aten.add.Tensor met a CPU tensor of shape \[3, 2\]"):
            there + torch.ones(3, 2)
        with pytest.raises(RuntimeError, match=r"aten.index.Tensor met a CPU tensor of shape \[1\]"):
            there[torch.tensor([0])]


def test_numbers_leave_by_to_host_alone() -> None:
    with probe() as crossings:
        there = torch.arange(3, device=NAME).double()
        with pytest.raises(TypeError, match="to_host"):
            there.numpy()
        crossings.clear()
        np.testing.assert_array_equal(to_host(there), np.arange(3, dtype=np.float32))
        assert (crossings.to_host.total(), crossings.waits.total()) == (1, 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: float(there.sum()),
        lambda there: there.nonzero(),
        lambda there: there[there > 1],
        lambda there: there.unique(),
        lambda there: torch.equal(there, there),
        lambda there: there.long().repeat_interleave(there.long()),
    ],
)
def test_what_a_host_has_to_wait_for_is_counted(wait: Any) -> None:
    with probe() as crossings:
        there = torch.arange(4.0, device=NAME)
        assert not crossings.waits
        wait(there)
        assert crossings.waits.total() == 1


def test_a_module_is_moved_with_its_identity_and_its_gradients_are_there() -> None:
    with probe():
        module = torch.nn.Linear(2, 2).to(NAME)
        assert {parameter.device.type for parameter in module.parameters()} == {NAME}
        module(torch.ones(3, 2, device=NAME)).sum().backward()
        assert module.weight.grad is not None
        assert module.weight.grad.device.type == NAME


def test_numbering_rows_is_unique_without_its_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, high in ((1, 1), (7, 3), (500, 40), (500, 100_000)):
        rows = torch.randint(high, (size,), generator=generator)
        distinct, place = numbered(rows)
        values, inverse = rows.unique(return_inverse=True)
        assert torch.equal(distinct[: len(values)], values)
        assert not distinct[len(values) :].any()
        assert torch.equal(place, inverse)


def test_a_bags_gradient_is_that_of_the_cpu_and_waits_for_nothing() -> None:
    def gradient(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        table = EmbeddingTable({"tag": 9}, 4).to(device)
        rows = torch.randint(9, (20, 5), generator=torch.Generator().manual_seed(1)).to(device)
        table.pooled(rows, mean_share(rows > 2)).square().sum().backward()
        assert table.weight.grad is not None
        return table.weight.grad

    expected = gradient("cpu")
    with probe() as crossings:
        found = gradient(NAME)
        assert not crossings.waits
    assert torch.equal(found.cpu().to_dense(), expected.to_dense())
