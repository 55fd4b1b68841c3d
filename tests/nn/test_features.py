"""The feature encoder: widths as promised, histories through an encoder, each vocabulary's own rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recsys.data.batch import Batch, SequenceField, SideLayout
from recsys.nn.features import FeatureConfig, FeatureEncoder, SideFields
from recsys.nn.sequence import ENCODERS
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

NAMES = sorted(ENCODERS)


def encoder(toy: Toy, name: str, **history: Any) -> FeatureEncoder:
    keys = {"encoder": name, "hidden": 6, "attention_hidden": 3, "dropout": 0.0, "fast": False, **history}
    return FeatureEncoder(
        toy.layout, FeatureConfig.model_validate({"embedding_dim": 4, "init_std": 0.5, "history": keys})
    ).eval()


def touched(found: FeatureEncoder, batch: Batch, side: str) -> dict[str, set[int]]:
    """Rows of each vocabulary that learn from one side of a batch, padding apart."""
    found.zero_grad()
    getattr(found(batch), side).flat().square().sum().backward()
    grad = found.table.weight.grad
    assert grad is not None
    rows = {int(row) for row in grad.to_dense().abs().sum(1).nonzero()}
    return {
        name: {row - start for row in rows if start < row < start + found.table.sizes[name]}
        for name, start in found.table.offsets.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_width_told_is_the_width_given(toy: Toy, name: str) -> None:
    found, batch = encoder(toy, name), toy.batch(8)
    encoded = found(batch)
    for side, width in nonempty([(encoded.query, found.query), (encoded.item, found.item)]):
        assert side.fields.shape[1] == width.num_fields
        assert side.dense.shape[1] == width.num_dense
    assert encoded.split().flat().shape == (8, found.width)


@pytest.mark.parametrize("name", NAMES)
def test_each_vocabulary_learns_from_its_own_columns_alone(toy: Toy, name: str) -> None:
    """Rows with a gradient are the rows that the batch names: of the history, of the bag, of every column."""
    batch = toy.batch(4)
    events = batch.query.sequences[0]
    said = {
        "user": set(batch.query.categorical[:, 0].tolist()),
        "tab": set(batch.query.categorical[:, 1].tolist()),
        "item": set(events[:, :, 0].unique().tolist()) - {0},
        "category": set(events[:, :, 1].unique().tolist()) - {0},
        # properties steer an encoder; a mean has no use for them
        "gap": set() if name == "mean" else set(events[:, :, 2].unique().tolist()) - {0},
        "tag": set(),
    }
    assert touched(encoder(toy, name), batch, "query") == said
    of_items = touched(encoder(toy, name), batch, "item")
    assert of_items["tag"] == set(batch.item.bags[0].unique().tolist()) - {0}
    assert of_items["item"] == set(batch.item.categorical[:, 0].tolist())
    assert not of_items["user"] | of_items["tab"] | of_items["gap"]


@pytest.mark.parametrize("name", ["lstm", "dupn"])
def test_every_column_of_an_event_moves_the_encoded_history_and_padding_does_not(toy: Toy, name: str) -> None:
    found, block = encoder(toy, name), toy.query(5)
    before = found.query(block).dense[:, -6:]
    for column, vocabulary in enumerate(("item", "category", "gap")):
        events = block.sequences[0].clone()
        events[4, 3, column] = events[4, 3, column] % (toy.layout.sizes[vocabulary] - 1) + 1
        after = found.query(replace(block, sequences=(events,))).dense[:, -6:]
        assert (after[4] - before[4]).abs().max() > 1e-4, vocabulary
        assert torch.equal(after[:4], before[:4])


def test_what_dupn_knows_beside_the_history_is_everything_else_of_the_side(toy: Toy) -> None:
    """Fields, numbers, vectors and bags: the attention's input is as wide as all of them together."""
    side = SideLayout(
        categorical=("user",),
        numeric=("age",),
        bags=("tag",),
        vectors=(("text", 3),),
        sequences=(SequenceField("history", of=("item",), properties=(), length=4),),
    )
    layout = replace(toy.layout, query=side)
    config = FeatureConfig.model_validate({"embedding_dim": 4, "history": {"encoder": "dupn", "hidden": 6}})
    found = FeatureEncoder(layout, config)
    history = found.query.encoders["history"]
    assert history.query_width == (1 + 1) * 4 + 1 + 3
    assert history.event_width == 4
    assert history.property_width == 0
    quiet = FeatureConfig.model_validate(
        {"embedding_dim": 4, "history": {"encoder": "dupn", "hidden": 6, "user_in_attention": False}}
    )
    assert FeatureEncoder(layout, quiet).query.encoders["history"].query_width == 0


def test_two_histories_are_encoded_apart(toy: Toy) -> None:
    two = (
        SequenceField("bought", of=("item",), properties=(), length=4),
        SequenceField("seen", of=("category",), properties=(), length=4),
    )
    layout = replace(toy.layout, query=replace(toy.layout.query, sequences=two))
    for name in ("mean", "lstm"):
        config = FeatureConfig.model_validate({"embedding_dim": 4, "history": {"encoder": name, "hidden": 6}})
        found, block = FeatureEncoder(layout, config).eval(), toy.query(5)
        bought, seen = (block.sequences[0][:, :, [column]] for column in (0, 1))
        sides = found.query(replace(block, sequences=(bought, seen)))
        moved = seen.clone()
        moved[4, 3, 0] = moved[4, 3, 0] % 4 + 1
        other = found.query(replace(block, sequences=(bought, moved)))
        before, after = (x.fields[4, 2:] if name == "mean" else x.dense[4, 2:].view(2, 6) for x in (sides, other))
        assert torch.equal(before[0], after[0])
        assert not torch.allclose(before[1], after[1])


def test_a_side_of_one_kind_is_not_copied() -> None:
    fields, dense = torch.randn(5, 2, 4), torch.randn(5, 3)
    assert SideFields(fields, torch.empty(5, 0)).flat().data_ptr() == fields.data_ptr()
    assert SideFields(torch.empty(5, 0, 4), dense).flat() is dense
    both = SideFields(fields, dense).flat()
    assert torch.equal(both, torch.cat([fields.flatten(1), dense], dim=1))
    assert SideFields(torch.empty(5, 0, 4), torch.empty(5, 0)).flat().shape == (5, 0)
