"""The item tower's own network: the formula, what it reads and leaves alone, and that every loss trains it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.nn.activation import HiddenGate
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers import train
from recsys.retrieval.towers.exposures import Exposures
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, item_vectors, query_vectors
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop


def towers(dataset: Dataset, loss: str = "auto", **keys: Any) -> tuple[TwoTower, TowerData, RetrievalConfig]:
    tower = {"dim": 8, "init_std": 0.5, "user_hidden": [6], "history": {"encoder": "mean"}, **keys}
    config = RetrievalConfig.model_validate({"loss": loss, "positive": "click", "negatives": 16, "tower": tower})
    data = TowerData.of(dataset, config.tower, "click")
    return build_two_tower(data, config.tower, 3).eval(), data, config


def compared(model: TwoTower, data: TowerData) -> Tensor:
    return model.item_vectors(data.items, model.embed_content(data.items))


def test_off_the_sum_of_the_embeddings_is_the_items_vector(shop: Shop) -> None:
    dataset = shop.dataset("time")
    off, data, _ = towers(dataset)
    on, _, _ = towers(dataset, item_hidden=[5])
    assert off.item_network is None
    assert torch.equal(compared(off, data)[:, :8], off.embed_content(data.items))
    shared = off.state_dict()
    assert {name for name in on.state_dict() if name not in shared} == {
        f"item_network.{part}" for part in ("0.0.weight", "0.0.bias", "1.weight", "1.bias")
    }
    assert all(torch.equal(on.state_dict()[name], value) for name, value in shared.items()), "the same draws"


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_it_is_the_written_formula(shop: Shop, similarity: str, activation: str) -> None:
    """DSSM's layers, l_i = f(W_i l_(i-1) + b_i), tanh also at the output; ReLU leaves the output linear."""
    model, data, _ = towers(
        shop.dataset("time"), similarity=similarity, activation=activation, item_hidden=[5, 7], dropout=0.5
    )
    assert model.item_network is not None
    for parameter in model.item_network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    state = {name.removeprefix("item_network."): value for name, value in model.state_dict().items()}
    f = torch.tanh if activation == "tanh" else torch.relu
    x = model.embed_content(data.items) * 8**0.5
    layers = sorted(name.removesuffix(".weight") for name in state if name.startswith("0.") and name.endswith("weight"))
    for name in layers:
        x = f(x @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    x = x @ state["1.weight"].T + state["1.bias"]
    x = torch.tanh(x) if activation == "tanh" else x
    expected = x / x.norm(dim=1, keepdim=True) if similarity == "cosine" else x
    torch.testing.assert_close(compared(model, data)[:, :8], expected)


def test_tanh_squashes_the_users_output_too(shop: Shop) -> None:
    model, data, _ = towers(shop.dataset("time"), activation="tanh", similarity="cosine")
    torch.nn.init.constant_(model.output.weight, 0.0)
    torch.nn.init.constant_(model.output.bias, 50.0)
    with torch.no_grad():
        model.output.bias[0] = 0.5
    vector = torch.from_numpy(query_vectors(model, data, np.array([0]), data.ends(Part.TEST)[[0]]))[0]
    torch.testing.assert_close(vector[0] / vector[1], torch.tanh(torch.tensor(0.5)))


def test_histories_and_users_do_not_pass_through_it(shop: Shop) -> None:
    model, data, _ = towers(shop.dataset("time"), item_hidden=[5])
    users = np.arange(data.history.num_users)
    before = query_vectors(model, data, users, data.ends(Part.TEST)), item_vectors(model, data)
    assert model.item_network is not None
    for parameter in model.item_network.parameters():
        torch.nn.init.normal_(parameter)
    assert np.array_equal(query_vectors(model, data, users, data.ends(Part.TEST)), before[0])
    assert not np.allclose(item_vectors(model, data), before[1])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("loss", ["full_softmax", "in_batch", "mixed", "sampled", "bce", "exposures"])
def test_it_learns_under_every_loss(shop: Shop, loss: str, similarity: str) -> None:
    dataset = shop.dataset("time")
    model, data, config = towers(dataset, loss, similarity=similarity, item_hidden=[5], hidden_gate="tanh")
    exposures = Exposures.of(dataset, data.history, "click") if loss == "exposures" else None
    step = RetrievalStep(model, data, config, 0, False, exposures)
    step(step.prepare(next(iter(WindowLoader(data, Part.VALID, 100, 1, exposures)))))["loss"].backward()
    assert model.item_network is not None
    assert sum(isinstance(module, HiddenGate) for module in model.item_network.modules()) == 1
    for name, parameter in nonempty([*model.item_network.named_parameters(), *model.item_content.named_parameters()]):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_new_items_get_vectors_from_their_content_through_the_network(shop: Shop) -> None:
    frame = shop.events[~shop.events["item_id"].isin(["i6", "i7", "i8"])]
    items = shop.items.copy()
    content = ["genre", "tags", "price", "text"]
    items.loc[8, content] = items.loc[6, content]
    dataset = build_dataset(read_tables(frame, shop.users, items), shop.config("time"), 1)
    model, data, _ = towers(dataset, item_hidden=[5])
    vectors = item_vectors(model, data)
    six, seven, eight = (vectors[dataset.item_rows[name]] for name in ("i6", "i7", "i8"))
    assert np.array_equal(six, eight)  # the same content, and no id of their own
    assert not np.allclose(six, seven)


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_vectors_kept_for_the_index_are_those_made_anew(
    shop: Shop, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, _ = towers(shop.dataset("time"), item_hidden=[5], dropout=0.5)
    kept = Retriever(model, data, {}).item_vectors
    monkeypatch.setattr(train, "ITEM_BLOCK", block)
    model.train()  # embedding the catalogue leaves dropout out, whatever the mode
    np.testing.assert_allclose(item_vectors(model, data), kept, rtol=1e-5, atol=1e-6)
    assert model.training


def test_hidden_ids_reach_the_network_as_unknown(shop: Shop) -> None:
    model, data, _ = towers(shop.dataset("time"), item_hidden=[5], dropout=0.0, id_dropout=0.9)
    unknown = data.items.categorical.clone()
    unknown[:, 0] = 1
    hidden = compared(model, replace(data, items=replace(data.items, categorical=unknown)))
    own = compared(model, data)
    seen = model.train().embed_items(data.items)[1]
    as_unknown, as_known = (torch.isclose(seen, other, atol=1e-6).all(1) for other in (hidden, own))
    assert (as_unknown | as_known).all()
    assert as_unknown.float().mean() > 0.5


def test_its_output_layer_begins_as_the_paper_says(shop: Shop) -> None:
    """Even in +-sqrt(6 / (fan in + fan out)): no activation follows that wants He's wider one."""
    model, _, _ = towers(shop.dataset("time"), item_hidden=[50])
    assert model.item_network is not None
    output = model.item_network[1]
    assert isinstance(output, torch.nn.Linear)
    bound = (6 / (50 + 8)) ** 0.5
    assert 0.9 * bound < output.weight.abs().max().item() <= bound
    assert not output.bias.any()
