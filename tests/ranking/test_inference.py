"""Forward passes without gradients reuse buffers; they must give what one with gradients gives, and touch nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.ranking.ranker import ranker_kinds
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

KEYS: dict[str, Any] = {"hidden_gate": "tanh", "dropout": 0.1}


@pytest.mark.parametrize("kind", list(ranker_kinds()))
@pytest.mark.parametrize("keys", [{}, KEYS], ids=["plain", "gated"])
def test_without_gradients_every_pass_gives_the_same(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    ranker = toy.ranker(kind, **keys).eval()
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    batches = [toy.batch(20), toy.requests(7), toy.requests(5, queries=3)]
    with_gradients = [ranker(batch) for batch in batches]
    with torch.inference_mode():
        for _ in range(2):
            for batch, expected in zip(batches, with_gradients, strict=True):
                for task, logit in nonempty(ranker(batch).items()):
                    torch.testing.assert_close(logit, expected[task].detach(), rtol=1e-6, atol=1e-6)
    for name, tensor in ranker.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", list(ranker_kinds()))
def test_a_pass_leaves_its_batch_alone(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind).eval(), toy.requests(7)
    item, query = batch.item.numeric.clone(), batch.query.numeric.clone()
    vectors = batch.item.vectors[0].clone()
    with torch.inference_mode():
        ranker(batch)
    torch.testing.assert_close(batch.item.numeric, item, equal_nan=True)
    torch.testing.assert_close(batch.query.numeric, query, equal_nan=True)
    assert torch.equal(batch.item.vectors[0], vectors)
