"""The stacked table and the feature encoder on it: offsets, padding, sparse gradients, bags, histories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recsys.nn.embedding import EmbeddingTable, mean_share
from recsys.nn.features import FeatureConfig, FeatureEncoder
from recsys.testing.toy import Toy


def table() -> EmbeddingTable:
    return EmbeddingTable({"user": 5, "item": 7, "tag": 3}, dim=4)


def encoder(toy: Toy, **history: Any) -> FeatureEncoder:
    config = {"embedding_dim": 4, "init_std": 0.5, "history": {"encoder": "mean", **history}}
    return FeatureEncoder(toy.layout, FeatureConfig.model_validate(config))


def test_every_vocabulary_is_a_run_of_rows_of_its_own() -> None:
    found = table()
    assert found.weight.shape == (15, 4)
    assert found.offsets == {"user": 0, "item": 5, "tag": 12}
    assert found.offsets_of(["item", "user"]).tolist() == [5, 0]
    assert found.rows_of("item").data_ptr() == found.weight[5].data_ptr()
    assert torch.equal(found(torch.tensor([5 + 3])), found.rows_of("item")[3:4])


def test_padding_is_zero_and_returns_to_zero() -> None:
    found = table()
    assert not found.weight[found.pad_rows].any()
    assert (found.weight.abs().sum(1) > 0).sum() == 12
    with torch.no_grad():
        found.weight.add_(1.0)
    found.zero_padding()
    assert not found.weight[[0, 5, 12]].any()
    assert (found.weight[[1, 6, 13]] != 0).all()


def test_the_gradient_names_the_touched_rows_only() -> None:
    found = table()
    found(torch.tensor([[1, 6], [1, 13]])).sum().backward()
    grad = found.weight.grad
    assert grad is not None
    assert grad.is_sparse
    assert grad.coalesce().indices().flatten().tolist() == [1, 6, 13]
    assert grad.coalesce().values()[0].tolist() == [2.0] * 4


def test_pooling_is_the_weighted_sum_of_the_rows_and_so_is_its_gradient() -> None:
    found = table()
    rows = torch.randint(0, 15, (6, 5), generator=torch.Generator().manual_seed(0))
    share = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) * (rows > 3)
    answer = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    gradients = []
    for pooled in (found.pooled(rows, share), (found.weight[rows] * share[..., None]).sum(1)):
        torch.testing.assert_close(pooled, (found.weight[rows] * share[..., None]).sum(1))
        (gradient,) = torch.autograd.grad((pooled * answer).sum(), found.weight)
        gradients.append(gradient.to_dense())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].any()


def test_mean_shares_ignore_what_is_absent_and_give_zero_for_nothing() -> None:
    found = mean_share(torch.tensor([[True, True, False, False], [False] * 4, [True] * 4]))
    assert found.tolist() == [[0.5, 0.5, 0, 0], [0] * 4, [0.25] * 4]


def test_each_field_is_its_vocabularys_row(toy: Toy) -> None:
    found, batch = encoder(toy), toy.batch(8)
    encoded = found(batch)
    for column, name in enumerate(toy.layout.item.categorical):
        expected = found.table.rows_of(name)[batch.item.categorical[:, column]]
        torch.testing.assert_close(encoded.item.fields[:, column], expected)
    torch.testing.assert_close(encoded.item.dense[:, 1:], batch.item.vectors[0])
    assert found.num_fields == encoded.query.fields.shape[1] + encoded.item.fields.shape[1]
    assert found.width == encoded.split().width


def test_a_history_shares_the_rows_of_the_items_it_holds(toy: Toy) -> None:
    found, batch = encoder(toy), toy.batch(8)
    row = 3  # a history of three events
    items = batch.query.sequences[0][row, :3, 0]
    expected = found.table.rows_of("item")[items].mean(0)
    torch.testing.assert_close(found(batch).query.fields[row, 2], expected)
    assert not found(batch).query.fields[0, 2].any(), "an empty history is the zero vector"


def test_a_bag_is_the_mean_of_its_values(toy: Toy) -> None:
    found, batch = encoder(toy), toy.batch(8)
    tags = batch.item.bags[0]
    for row in range(4):
        present = tags[row][tags[row] > 0]
        expected = found.table.rows_of("tag")[present].mean(0) if len(present) else torch.zeros(4)
        torch.testing.assert_close(found(batch).item.fields[row, 2], expected)


@pytest.mark.parametrize("encoder_name", ["mean", "dupn", "lstm"])
def test_padding_more_changes_nothing(toy: Toy, encoder_name: str) -> None:
    found, batch = encoder(toy, encoder=encoder_name, hidden=6, dropout=0.0, fast=False), toy.batch(8)
    longer = torch.cat([batch.query.sequences[0], torch.zeros(8, 2, 3, dtype=torch.int64)], dim=1)
    padded = replace(batch, query=replace(batch.query, sequences=(longer,)))
    torch.testing.assert_close(found(padded).query.dense, found(batch).query.dense, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found(padded).query.fields, found(batch).query.fields)


def test_missing_numbers_never_reach_the_output(toy: Toy) -> None:
    found, batch = encoder(toy), toy.batch(32)
    assert torch.isnan(batch.query.numeric).any()
    assert torch.isfinite(found(batch).split().flat()).all()


def test_each_table_belongs_to_one_module(toy: Toy) -> None:
    names = [name for name, _ in encoder(toy).named_parameters(remove_duplicate=False)]
    assert [name for name in names if "table" in name] == ["table.weight"]
