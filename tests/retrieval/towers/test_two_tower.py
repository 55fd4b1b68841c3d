"""The towers: nothing crosses between them, no state sees its target, and training states are serving vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.data.batch import Block
from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.nn.activation import HiddenGate
from recsys.nn.gates import FieldGate, FieldGateConfig
from recsys.nn.sequence import ENCODERS, DUPNEncoder
from recsys.retrieval.towers.inputs import Windows
from recsys.retrieval.towers.train import build_two_tower, item_vectors, query_vectors
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTower, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.shop import Shop

NAMES = sorted(ENCODERS)
SIMILARITIES: list[Literal["cosine", "dot"]] = ["cosine", "dot"]


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    return shop.dataset("time")


def towers(
    dataset: Dataset, encoder: str = "mean", similarity: Literal["cosine", "dot"] = "dot", **keys: Any
) -> tuple[TwoTower, TowerData]:
    history = TowerHistory(encoder=encoder, hidden=8, dropout=0.0, max_length=12, attention_hidden=4, fast=False)
    given = {"dim": 8, "event_features": ("gap", "stars", "tab"), "init_std": 0.5, **keys}
    config = TwoTowerConfig(history=history, similarity=similarity, **{"user_hidden": (32,), **given})
    data = TowerData.of(dataset, config, "")
    model = build_two_tower(data, config, seed=3)
    return model.eval(), data


def some_windows(data: TowerData, count: int = 12) -> Windows:
    users = np.arange(count)
    return data.windows(users, data.ends(NOW)[users])


def states(model: TwoTower, data: TowerData, windows: Windows) -> Tensor:
    content = model.embed_content(data.items)
    return model.states_before(windows, content[windows.items])


def last(model: TwoTower, data: TowerData, windows: Windows) -> Tensor:
    content = model.embed_content(data.items)
    return model.user_vectors(windows, content[windows.items])


def vectors(model: TwoTower, items: Block) -> Tensor:
    return model.item_vectors(items, model.embed_content(items))


def cut(windows: Windows, length: int) -> Windows:
    """The first `length` events of each window."""
    return replace(
        windows,
        items=windows.items[:, :length],
        properties=windows.properties[:, :length],
        present=windows.present[:, :length],
        times=windows.times[:, :length],
    )


def changed(
    block: Block, row: int, sizes: dict[str, int], names: tuple[str, ...], bags: tuple[str, ...]
) -> list[Block]:
    """The block with every single column of one row changed, one after the other."""
    found = []
    for column, name in enumerate(names):
        categorical = block.categorical.clone()
        categorical[row, column] = (categorical[row, column] + 1) % sizes[name]
        found.append(replace(block, categorical=categorical))
    for place, name in enumerate(bags):
        bag = block.bags[place].clone()
        bag[row, 0] = (bag[row, 0] + 1) % sizes[name]
        found.append(replace(block, bags=(*block.bags[:place], bag, *block.bags[place + 1 :])))
    for place in range(len(block.vectors)):
        moved = (*block.vectors[:place], block.vectors[place].clone(), *block.vectors[place + 1 :])
        moved[place][row] += 1.0
        found.append(replace(block, vectors=moved))
    return found


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_no_feature_crosses_from_one_side_to_the_other(dataset: Dataset, similarity: Literal["cosine", "dot"]) -> None:
    model, data = towers(dataset, similarity=similarity)
    sizes = dict(data.layout.sizes)
    windows = some_windows(data)
    candidate = int(data.items.rows - 1)
    keep = ~(windows.items == candidate).any(1)  # an item in the history is part of the user, as a candidate it is not
    users, items = last(model, data, windows), vectors(model, data.items)
    assert keep.any()
    layout = data.layout.item
    for block in changed(data.items, candidate, sizes, layout.categorical, layout.bags):
        moved = replace(data, items=block)
        assert torch.equal(last(model, moved, windows)[keep], users[keep])
        again = vectors(model, block)
        assert torch.equal(again[:candidate], items[:candidate])
        assert not torch.equal(again[candidate], items[candidate])
    profile = data.layout.user
    for block in changed(windows.users, 0, sizes, profile.categorical, profile.bags):
        moved_users = last(model, data, replace(windows, users=block))
        assert torch.equal(moved_users[1:], users[1:])
        assert not torch.equal(moved_users[0], users[0])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_both_towers_give_vectors_of_one_width_and_a_product_is_a_score(
    dataset: Dataset, similarity: Literal["cosine", "dot"]
) -> None:
    model, data = towers(dataset, similarity=similarity)
    users, items = last(model, data, some_windows(data)), vectors(model, data.items)
    assert users.shape[1] == items.shape[1] == model.width == 8 + (similarity == "dot")
    pairs = torch.stack([(user * item).sum() for user in users for item in items]).view(len(users), -1)
    assert torch.allclose(pairs, users @ items.T, atol=1e-5)


def test_cosines_lie_between_minus_one_and_one_and_ignore_lengths(dataset: Dataset) -> None:
    model, data = towers(dataset, similarity="cosine")
    users = last(model, data, some_windows(data))
    content = model.embed_content(data.items)
    cosine = users @ model.item_vectors(data.items, content).T
    assert cosine.abs().max() <= 1 + 1e-6
    assert cosine.std() > 0.01
    longer = users @ model.item_vectors(data.items, content * 7.5).T
    assert torch.allclose(longer, cosine, atol=1e-6)
    nothing = model.item_vectors(data.items, torch.zeros_like(content))
    assert torch.isfinite(nothing).all()


def test_the_temperature_is_learned_and_never_leaves_its_bounds(dataset: Dataset) -> None:
    model, _ = towers(dataset, similarity="cosine", temperature=0.05)
    assert isinstance(model.scale, Tensor)
    assert model.scale.item() == pytest.approx(20.0)
    assert model.log_scale is not None
    assert model.log_scale.requires_grad
    with torch.no_grad():
        model.log_scale.fill_(100.0)
    assert model.scale.item() == pytest.approx(np.exp(5.0))
    plain, _ = towers(dataset, similarity="dot")
    assert plain.scale == 1.0


def test_the_item_bias_is_one_more_dimension(dataset: Dataset) -> None:
    model, data = towers(dataset, similarity="dot")
    before = last(model, data, some_windows(data)) @ vectors(model, data.items).T
    assert model.bias is not None
    with torch.no_grad():
        model.bias.weight[int(data.items.categorical[4, 0])] += 2.5
    after = last(model, data, some_windows(data)) @ vectors(model, data.items).T
    moved = (after - before).detach().mean(0)
    assert float(moved[4]) == pytest.approx(2.5, abs=1e-5)
    assert moved[[0, 1, 2, 3, 5]].abs().max() < 1e-5


def test_without_an_output_layer_and_a_bias_the_states_meet_the_items_as_they_are(dataset: Dataset) -> None:
    keys: dict[str, Any] = {"user_output": False, "item_bias": False, "user_features": ()}
    model, data = towers(dataset, "sasrec", user_hidden=(), **keys)
    windows, content = some_windows(data), model.embed_content(data.items)
    events, _ = model._events(windows, content[windows.items])
    states = model.encoder.last(events, None, windows.lengths)
    torch.testing.assert_close(last(model, data, windows), states)
    torch.testing.assert_close(vectors(model, data.items), content)
    assert model.width == 8
    for wrong in ({"dim": 6}, {"user_features": None}, {"interests": 2}):
        with pytest.raises(ConfigError, match=r"tower.user_output = false compares what is \d+ wide"):
            towers(dataset, "sasrec", user_hidden=(), **{**keys, **wrong})


@pytest.mark.parametrize("encoder", NAMES)
def test_no_state_sees_its_target_or_anything_later(dataset: Dataset, encoder: str) -> None:
    model, data = towers(dataset, encoder)
    windows = some_windows(data)
    before = states(model, data, windows)
    row, place = 2, 3
    assert windows.lengths[row] > place + 1
    items, properties = windows.items.clone(), windows.properties.clone()
    items[row, place:] = (items[row, place:] + 5) % data.items.rows
    properties[row, place:] = 1
    after = states(model, data, replace(windows, items=items, properties=properties))
    assert torch.allclose(after[row, : place + 1], before[row, : place + 1], atol=1e-6)
    assert not torch.allclose(after[row, place + 1], before[row, place + 1], atol=1e-4)
    others = [i for i in range(12) if i != row]
    assert torch.allclose(after[others], before[others], atol=1e-6)


@pytest.mark.parametrize("encoder", NAMES)
def test_the_state_before_an_event_is_the_vector_served_at_that_moment(dataset: Dataset, encoder: str) -> None:
    model, data = towers(dataset, encoder)
    windows = some_windows(data)
    before = states(model, data, windows)
    for length in range(1, 6):
        served = last(model, data, cut(windows, length))
        there = windows.lengths > length
        assert there.any()
        assert torch.allclose(before[there, length], served[there], atol=1e-5)


@pytest.mark.parametrize("encoder", NAMES)
def test_padding_and_companions_change_nothing(dataset: Dataset, encoder: str) -> None:
    model, data = towers(dataset, encoder)
    windows = some_windows(data)
    whole, ends = states(model, data, windows), last(model, data, windows)
    for row in (0, 4, 7):
        length = int(windows.lengths[row])
        one = data.windows(np.array([row]), data.ends(NOW)[[row]])
        assert one.items.shape[1] == length
        assert torch.allclose(states(model, data, one)[0], whole[row, :length], atol=1e-5)
        assert torch.allclose(last(model, data, one)[0], ends[row], atol=1e-5)
    rubbish = windows.items.clone()
    rubbish[~windows.present] = 7
    assert torch.allclose(last(model, data, replace(windows, items=rubbish)), ends, atol=1e-6)


def test_vectors_do_not_depend_on_the_batch_they_were_made_in(dataset: Dataset) -> None:
    model, data = towers(dataset)
    whole = torch.from_numpy(item_vectors(model, data))
    parts = [vectors(model, data.items.select(rows)) for rows in torch.arange(data.items.rows).split(3)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    users = np.arange(data.history.num_users)[::-1].copy()
    lengths = (data.ends(NOW) - data.history.ptr[:-1])[users]
    assert (np.diff(lengths) < 0).any()
    together = query_vectors(model, data, users, data.ends(NOW)[users])
    for place, user in enumerate(users):
        alone = query_vectors(model, data, np.array([user]), data.ends(NOW)[[user]])
        assert np.allclose(alone[0], together[place], atol=1e-5)


def test_users_without_history_and_items_nobody_met_have_vectors(shop: Shop) -> None:
    frame = shop.events[(shop.events["user_id"] != "u3") & ~shop.events["item_id"].isin(["i6", "i8"])]
    items = shop.items.copy()
    for column in ("genre", "tags", "price", "text"):
        items[column] = items[column].where(items.index != 8, items[column][6])
    dataset = build_dataset(read_tables(frame, shop.users, items), shop.config("time"), 1)
    model, data = towers(dataset)
    user = dataset.user_rows["u3"]
    found = query_vectors(model, data, np.array([user]), data.history.ptr[[user]])
    assert np.isfinite(found).all()
    matrix = item_vectors(model, data)
    six, eight = dataset.item_rows["i6"], dataset.item_rows["i8"]
    assert np.array_equal(matrix[six], matrix[eight])  # the same content, and no id of their own
    seven = dataset.item_rows["i7"]
    assert not np.allclose(matrix[six], matrix[seven])


def test_hiding_ids_happens_in_training_only_and_leaves_content_and_no_bias_of_its_own(dataset: Dataset) -> None:
    model, data = towers(dataset, id_dropout=0.9)
    assert model.bias is not None
    with torch.no_grad():
        model.bias.weight.normal_()
    assert all(
        torch.equal(*pair) for pair in zip(model.embed_items(data.items), model.embed_items(data.items), strict=True)
    )
    model.train()
    seen, vectors = model.embed_items(data.items)
    unknown = data.items.categorical.clone()
    unknown[:, 0] = 1
    hidden, without = model.eval().embed_items(replace(data.items, categorical=unknown))
    same = torch.isclose(seen, hidden, atol=1e-6).all(1)
    assert 0.6 < same.float().mean() <= 1
    assert torch.allclose(vectors[same], without[same], atol=1e-6)
    own = model.embed_items(data.items)[1]
    assert torch.allclose(vectors[~same], own[~same], atol=1e-6)


def test_the_same_seed_draws_the_same_towers_and_moves_no_other_generator(dataset: Dataset) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one, other = towers(dataset)[0].state_dict(), towers(dataset)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_request_gap_of_a_window_ends_with_the_time_of_the_event_to_predict(dataset: Dataset) -> None:
    """It is the time between the last known event and the next one, also across the parts' border, and nothing more."""
    _, data = towers(dataset, event_features=("gap", "request_gap"))
    history, ends = data.history, data.ends(Part.TEST)
    users = np.flatnonzero((ends > history.ptr[:-1]) & (ends < history.ptr[1:]))
    windows = data.windows(users, ends[users])
    last = windows.properties[torch.arange(len(users)), windows.lengths - 1]
    following = data.properties[torch.from_numpy(ends[users])]
    assert torch.equal(last[:, 1], following[:, 0]), "the gap of the next event is the request gap of the last"
    asked_now = data.ends(NOW)
    everyone = np.flatnonzero(asked_now > history.ptr[:-1])
    late = data.windows(everyone, asked_now[everyone])
    assert (late.properties[torch.arange(len(everyone)), late.lengths - 1, 1] > last[:, 0].max()).all(), "years ago"


@pytest.mark.parametrize(("kind", "sharing"), [(k, s) for k in ("vector", "bit") for s in ("private", "shared")])
def test_a_towers_field_gate_has_the_papers_parameters_and_forced_to_one_is_no_gate(
    dataset: Dataset, kind: str, sharing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, data = towers(dataset)
    gated, _ = towers(dataset, field_gate=FieldGateConfig.model_validate({"kind": kind, "sharing": sharing}))
    fields = len(data.layout.item.categorical) + len(data.layout.item.bags)
    width = {"vector": 1, "bit": plain.config.dim}[kind]
    gate = gated.item_content.gate
    assert gate is not None
    assert gate.weight.numel() == (fields if sharing == "private" else 1) * plain.config.dim * width
    gated.load_state_dict(plain.state_dict(), strict=False)
    own, windows = vectors(plain, data.items), some_windows(data)
    assert not torch.allclose(vectors(gated, data.items), own)
    monkeypatch.setattr(FieldGate, "gate", lambda self, fields, weight: torch.ones_like(fields))
    torch.testing.assert_close(vectors(gated, data.items), own)
    torch.testing.assert_close(last(gated, data, windows), last(plain, data, windows))


def test_a_towers_hidden_gate_adds_the_square_of_every_width_and_is_trained(dataset: Dataset) -> None:
    plain, data = towers(dataset)
    gated, _ = towers(dataset, hidden_gate="tanh", field_gate=FieldGateConfig(kind="bit"))
    gates = [module for module in gated.modules() if isinstance(module, HiddenGate)]
    assert [gate.weight.shape for gate in gates] == [(32, 32)]
    (states(gated, data, some_windows(data)) ** 2).sum().backward()
    trained = [gates[0].weight, *(p for name, p in gated.named_parameters() if name.endswith("content.gate.weight"))]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)
    assert not any(isinstance(module, HiddenGate | FieldGate) for module in plain.modules())


def test_dupn_in_the_tower_weighs_events_by_who_the_user_is(dataset: Dataset) -> None:
    """The profile reaches the vector twice, beside the history and through the attention; this is the second way."""
    model, data = towers(dataset, "dupn")
    windows = some_windows(data)
    content = model.embed_content(data.items)[windows.items]
    events, properties = model._events(windows, content)
    encoder = model.encoder
    assert isinstance(encoder, DUPNEncoder)
    torch.nn.init.normal_(encoder.score_out.weight)

    def weights(users: Block) -> Tensor:
        return encoder.attention(events, properties, windows.lengths, model._query(model._profile(users)))

    before, long = weights(windows.users), windows.lengths > 1
    for block in changed(windows.users, 2, dict(data.layout.sizes), data.layout.user.categorical, ()):
        after = weights(block)
        assert long[2]
        assert (after[2] - before[2]).abs().max() > 1e-5
        assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
    alone, _ = towers(dataset, "dupn", user_features=())
    assert alone.encoder.query_width == 0
