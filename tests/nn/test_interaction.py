"""Interaction blocks against their papers' formulas, written out for one row at a time."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.base.errors import ConfigError
from recsys.nn.features import Encoded, SideFields
from recsys.nn.interaction import (
    INTERACTIONS,
    FieldAttention,
    Interaction,
    InteractionConfig,
    MaskBlocks,
    build_interaction,
)
from recsys.tests.support.nonempty import nonempty

FIELDS, K, QUERIES, EACH = (3, 4), 5, 4, 3
ROWS = QUERIES * EACH


def encoded(shared: bool = True) -> Encoded:
    """Requests of `EACH` rows in mixed order, or pairs."""
    torch.manual_seed(2)
    queries = QUERIES if shared else ROWS
    owner = torch.randperm(ROWS) % QUERIES if shared else None
    query, item = (SideFields(torch.randn(rows, f, K), torch.empty(rows, 0)) for rows, f in ((queries, 3), (ROWS, 4)))
    return Encoded(query, item, owner)


def rows_of(x: Encoded) -> Tensor:
    query = x.query.fields if x.owner is None else x.query.fields[x.owner]
    return torch.cat([query, x.item.fields], dim=1)


def built(**keys: Any) -> Interaction:
    torch.manual_seed(3)
    block = build_interaction(InteractionConfig(**keys), FIELDS, K)
    assert block is not None
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.4)
    return block


@pytest.mark.parametrize("shared", [True, False], ids=["requests", "pairs"])
def test_fm_is_the_sum_of_products_of_all_pairs(shared: bool) -> None:
    x = encoded(shared)
    of_query, found = built(kind="fm")(x)
    fields = rows_of(x)
    expected = torch.stack([fields[:, i] * fields[:, j] for i, j in combinations(range(7), 2)]).sum(0)
    torch.testing.assert_close(found, expected)
    assert of_query.shape == (x.query.fields.shape[0], 0)


@pytest.mark.parametrize("shared", [True, False], ids=["requests", "pairs"])
def test_dlrm_has_the_product_of_every_pair_once(shared: bool) -> None:
    x = encoded(shared)
    of_query, of_item = built(kind="dlrm")(x)
    spread = of_query if x.owner is None else of_query[x.owner]
    fields = rows_of(x)
    products = [(fields[:, i] * fields[:, j]).sum(1) for i, j in combinations(range(7), 2)]
    found = torch.cat([spread, of_item], dim=1)
    assert found.shape == (ROWS, 21)
    torch.testing.assert_close(found.sort(1).values, torch.stack(products, dim=1).sort(1).values)
    assert of_query.shape[1] == 3  # pairs of a request's own fields: computed once


def test_autoint_is_the_papers_attention() -> None:
    block, x = built(kind="autoint", layers=2, heads=2, width=3), encoded()
    assert isinstance(block, FieldAttention)
    found, fields = block(x)[1], rows_of(x)
    for row in nonempty(range(ROWS)):
        e = fields[row]
        for layer in block.layers:
            w_query, w_key, w_value, w_rest = layer.weight.view(4, 6, -1)
            heads = []
            for head in (slice(0, 3), slice(3, 6)):
                scores = (e @ w_query[head].T) @ (e @ w_key[head].T).T
                heads.append(torch.softmax(scores, dim=1) @ (e @ w_value[head].T))
            e = torch.relu(torch.cat(heads, dim=1) + e @ w_rest.T)
        torch.testing.assert_close(found[row], e.flatten())


def test_masknet_is_the_papers_block() -> None:
    block, x = built(kind="masknet", layers=2, width=4, ratio=0.5), encoded()
    assert isinstance(block, MaskBlocks)
    found, fields = block(x)[1], rows_of(x)
    for row in nonempty(range(ROWS)):
        v = fields[row].flatten()
        normed = torch.cat([block.norm(field) for field in fields[row]])
        parts = []
        for first, second, last, norm in zip(block.first, block.second, block.block, block.out_norm, strict=True):
            mask = second(torch.relu(first(v)))
            parts.append(F.relu(norm(last(mask * normed))))
        torch.testing.assert_close(found[row], torch.cat(parts))


@pytest.mark.parametrize("kind", list(INTERACTIONS.entries()))
def test_a_row_alone_is_the_row_among_others(kind: str) -> None:
    block, x = built(kind=kind), encoded(shared=False)
    of_query, of_item = block(x)
    assert (of_query.shape[1], of_item.shape[1]) == (block.query_width, block.item_width)
    alone = Encoded(
        SideFields(x.query.fields[5:6], torch.empty(1, 0)), SideFields(x.item.fields[5:6], torch.empty(1, 0)), None
    )
    torch.testing.assert_close(torch.cat(block(alone), 1), torch.cat([of_query, of_item], 1)[5:6])


def test_pairs_need_two_fields() -> None:
    with pytest.raises(ConfigError, match="pairs fields, and there are 1"):
        build_interaction(InteractionConfig(kind="fm"), (0, 1), K)
    assert build_interaction(InteractionConfig(), (0, 1), K) is None
