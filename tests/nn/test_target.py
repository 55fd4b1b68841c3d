"""Target attention against its papers' formulas, written out for one pair at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.data.batch import Batch, Block, Layout, SequenceField, SideLayout
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.features import FeatureConfig, FeatureEncoder
from recsys.nn.target import ActivationUnit, TargetAttention, TargetConfig
from recsys.tests.support.nonempty import nonempty

K, LENGTH, QUERIES, EACH = 4, 7, 5, 3
SIZES = {"user": 6, "item": 30, "genre": 6, "recent.gap": 9}
SEQUENCE = SequenceField("recent", ("item", "genre"), ("recent.gap",), LENGTH)
LAYOUT = Layout(
    SideLayout(categorical=("user",), sequences=(SEQUENCE,)),
    SideLayout(categorical=("genre", "item")),  # another order than the sequence's
    SIZES,
)


def batch(shared: bool, seed: int = 0, length: int = LENGTH) -> Batch:
    """Requests of `EACH` candidates each, or logged pairs; histories of every length from 0."""
    rng = np.random.default_rng(seed)
    rows = QUERIES * EACH
    queries = QUERIES if shared else rows
    codes = np.stack([rng.integers(2, size, (queries, length)) for size in (30, 6, 9)], axis=2)
    codes[np.arange(length)[None, :] >= (np.arange(queries) % (length + 1))[:, None]] = 0
    items = np.stack([rng.integers(2, 6, rows), rng.integers(2, 30, rows)], axis=1)
    user = torch.from_numpy(rng.integers(2, 6, (queries, 1)))
    return Batch(
        query=Block(user, torch.empty(queries, 0), (), (torch.from_numpy(codes),)),
        item=Block(torch.from_numpy(items), torch.empty(rows, 0)),
        owner=torch.arange(QUERIES).repeat_interleave(EACH) if shared else None,
    )


def built(**keys: Any) -> tuple[TargetAttention, EmbeddingTable]:
    torch.manual_seed(1)
    table = EmbeddingTable(SIZES, K, 1.0)
    attention = TargetAttention(LAYOUT, table, TargetConfig(**keys))
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.3)
    return attention, table


def vector(table: EmbeddingTable, **codes: int) -> Tensor:
    return torch.cat([table.weight[table.offsets[name] + code] for name, code in codes.items()])


def by_hand(attention: TargetAttention, table: EmbeddingTable, events: np.ndarray, genre: int, item: int) -> Tensor:
    """`v(c)` of one candidate and the events [n, 3] it reads."""
    unit, config = attention.units["recent"], attention.config
    assert isinstance(unit, ActivationUnit)
    target = vector(table, item=item, genre=genre)
    vectors, weights = [], []
    for one_item, one_genre, gap in events.tolist():
        event = vector(table, item=one_item, genre=one_genre)
        if config.unit == "dot":
            weights.append(event @ target / (2 * K) ** 0.5)
        else:
            told = torch.cat([event, vector(table, **{"recent.gap": gap}), target, event * target])
            weight = torch.cat([unit.of_event.weight, unit.of_target.weight, unit.of_product.weight], dim=1)
            hidden = weight @ told + unit.of_event.bias
            for slope, layer in zip(unit.slopes, unit.layers, strict=True):
                hidden = layer(torch.where(hidden > 0, hidden, slope * hidden))
            weights.append(hidden[0])
        vectors.append(event)
    if not vectors:
        return torch.zeros(2 * K)
    weight = torch.stack(weights)
    weight = torch.softmax(weight, 0) if config.unit == "dot" or config.normalise else weight
    return weight @ torch.stack(vectors)


@pytest.mark.parametrize("shared", [True, False], ids=["requests", "pairs"])
@pytest.mark.parametrize(
    "keys", [{"unit": "din", "hidden": (5, 3)}, {"unit": "din", "normalise": True}, {"unit": "dot"}], ids=str
)
def test_each_candidate_reads_the_papers_sum(keys: dict[str, Any], shared: bool) -> None:
    attention, table = built(**keys)
    asked = batch(shared)
    found = attention(asked)
    for row in nonempty(range(asked.rows)):
        query = row if asked.owner is None else int(asked.owner[row])
        events = asked.query.sequences[0][query].numpy()
        genre, item = asked.item.categorical[row].tolist()
        torch.testing.assert_close(found[row], by_hand(attention, table, events[events[:, 0] > 0], genre, item))


def test_hard_search_reads_the_last_events_of_the_candidates_value() -> None:
    attention, table = built(unit="din", search="match", search_by="genre", search_events=2)
    asked = batch(True, seed=3)
    found, searched = attention(asked), 0
    for row in nonempty(range(asked.rows)):
        genre, item = asked.item.categorical[row].tolist()
        events = asked.query.sequences[0][int(row // EACH)].numpy()
        same = events[(events[:, 0] > 0) & (events[:, 1] == genre)]
        searched += len(same) > 2
        torch.testing.assert_close(found[row], by_hand(attention, table, same[-2:], genre, item))
    assert searched


def test_hashed_search_reads_the_nearest_events_of_a_long_history() -> None:
    attention, table = built(unit="dot", search="hash", search_events=4, hashes=24)
    asked = batch(True, seed=4, length=40)
    planes = attention.planes_0
    found = attention(asked)
    for row in nonempty(range(asked.rows)):
        genre, item = asked.item.categorical[row].tolist()
        events = asked.query.sequences[0][int(row // EACH)].numpy()
        events = events[events[:, 0] > 0]
        target = vector(table, item=item, genre=genre) @ planes > 0
        near = [
            (int(((vector(table, item=int(e[0]), genre=int(e[1])) @ planes > 0) == target).sum()), place)
            for place, e in enumerate(events)
        ]
        chosen = sorted(place for _, place in sorted(near)[-4:])
        torch.testing.assert_close(found[row], by_hand(attention, table, events[chosen], genre, item))


def test_rows_of_one_request_need_not_lie_together() -> None:
    attention, _ = built(unit="din")
    asked = batch(True)
    order = torch.randperm(asked.rows)
    torch.testing.assert_close(attention(asked.select(order)), attention(asked)[order])


def test_what_is_padded_changes_nothing() -> None:
    attention, _ = built(unit="dot")
    asked = batch(True)
    (codes,) = asked.query.sequences
    padded = torch.cat([codes, torch.zeros_like(codes)], dim=1)
    longer = replace(asked, query=replace(asked.query, sequences=(padded,)))
    torch.testing.assert_close(attention(longer), attention(asked))


def test_the_input_of_a_ranker_grows_by_it_and_learns_through_it() -> None:
    plain, read = (FeatureEncoder(LAYOUT, FeatureConfig(target=TargetConfig(unit=unit))) for unit in ("none", "din"))
    assert read.width == plain.width + 2 * 8
    encoded = read(batch(True))
    assert encoded.split().width == read.width
    encoded.item.dense.square().sum().backward()
    assert read.target is not None
    assert all(parameter.grad is not None for parameter in read.target.parameters())


def test_it_refuses_what_it_cannot_read() -> None:
    bare = Layout(SideLayout(categorical=("user",)), SideLayout(categorical=("item",)), SIZES)
    with pytest.raises(ConfigError, match="declare a feature of kind"):
        FeatureEncoder(bare, FeatureConfig(target=TargetConfig(unit="din")))
    with pytest.raises(ConfigError, match="described by item, genre"):
        built(unit="din", search="match", search_by="brand")
