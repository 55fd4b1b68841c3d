"""Training on exposures: every logged row of the training part once, with the history before its second."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.base.errors import ConfigError, DataError
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.retrieval.towers.exposures import Exposures
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import (
    RetrievalConfig,
    build_two_tower,
    item_vectors,
    query_vectors,
    train_two_tower,
)
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.training.runtime import Runtime

Row = tuple[int, int, float, tuple[int, ...]]
"""User, item, label, items of the history before it."""


def section(similarity: Literal["cosine", "dot"] = "cosine", max_length: int = 200, **keys: Any) -> RetrievalConfig:
    history = {"encoder": "mean", "dropout": 0.0, "max_length": max_length}
    tower = {"dim": 8, "init_std": 0.5, "dropout": 0.0, "similarity": similarity, "history": history, **keys}
    return RetrievalConfig.model_validate({"loss": "exposures", "positive": "click", "tower": tower})


def towers(dataset: Dataset, config: RetrievalConfig) -> tuple[TwoTower, TowerData, Exposures]:
    data = TowerData.of(dataset, config.tower, config.positive)
    model = build_two_tower(data, config.tower, 3).eval()
    return model, data, Exposures.of(dataset, data.history, config.positive)


def by_hand(dataset: Dataset, data: TowerData) -> list[Row]:
    """Every training row of the clicks' sample space, its history searched event by event."""
    events, rows = dataset.events, []
    for row in np.flatnonzero((events.parts == Part.TRAIN) & events.mask[:, 0]):
        user = events.users[row]
        early = data.history.items[data.history.ptr[user] : data.history.ptr[user + 1]]
        prior = early[data.history.parts[data.history.ptr[user] : data.history.ptr[user + 1]] == Part.PRIOR]
        past = (events.users == user) & (events.parts == Part.TRAIN) & (events.labels[:, 0] > 0)
        past &= events.times < events.times[row]
        known = (*prior.tolist(), *events.items[past].tolist())
        rows.append((int(user), int(events.items[row]), float(events.labels[row, 0]), known))
    return sorted(rows)


@pytest.mark.parametrize("kind", ["time", "leave_last", "random"])
def test_every_training_row_is_an_exposure_with_the_history_before_its_second(shop: Shop, kind: str) -> None:
    dataset = shop.dataset(kind)
    _, data, exposures = towers(dataset, section())
    found = []
    for user in range(dataset.num_users):
        for row in range(exposures.ptr[user], exposures.ptr[user + 1]):
            past = data.history.items[data.history.ptr[user] : exposures.ends[row]]
            found.append((user, int(exposures.items[row]), float(exposures.labels[row]), tuple(past.tolist())))
    expected = by_hand(dataset, data)
    assert len({label for _, _, label, _ in expected}) == 2
    assert sorted(found) == expected


def test_later_labels_change_no_exposure(shop: Shop) -> None:
    dataset = shop.dataset("time")
    labels = dataset.events.labels.copy()
    later = dataset.events.parts > Part.TRAIN
    labels[later] = 1 - labels[later]
    turned = replace(dataset, events=replace(dataset.events, labels=labels))
    _, data, before = towers(dataset, section())
    _, others, after = towers(turned, section())
    assert len(data.history.items) != len(others.history.items), "the change reaches the later histories"
    assert np.array_equal(before.items, after.items)
    assert np.array_equal(before.labels, after.labels)
    lengths = [e.ends - np.repeat(d.history.ptr[:-1], np.diff(e.ptr)) for e, d in ((before, data), (after, others))]
    assert np.array_equal(*lengths)


def test_an_epoch_shows_every_exposure_once_beside_its_history(shop: Shop) -> None:
    dataset = shop.dataset("time")
    _, data, exposures = towers(dataset, section())
    loader = WindowLoader(data, Part.VALID, 60, 1, exposures)
    pieces, found = loader.batches(0), []
    for users, windows in zip(nonempty(pieces), loader, strict=True):
        shown = windows.shown
        assert shown is not None
        for window, known, item, label in zip(
            *(t.tolist() for t in (shown.window, shown.known, shown.items, shown.labels)), strict=True
        ):
            assert known <= windows.lengths[window]
            found.append((int(users[window]), item, label, tuple(windows.items[window, :known].tolist())))
    assert sorted(found) == by_hand(dataset, data)


def test_a_cut_history_explains_what_was_shown_within_it_alone(shop: Shop) -> None:
    """Before its first event the user's past is not empty but unknown."""
    dataset = shop.dataset("time")
    _, data, exposures = towers(dataset, section(max_length=3))
    loader = WindowLoader(data, Part.VALID, 60, 1, exposures)
    cut = 0
    for _, windows in zip(range(20 * len(loader)), (w for _ in range(20) for w in loader), strict=False):
        assert windows.shown is not None
        inside = ~windows.from_start[windows.shown.window]
        assert (windows.shown.known[inside] > 0).all()
        cut += int(inside.sum())
    assert cut > 100


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_loss_is_the_cross_entropy_of_every_row_by_itself(shop: Shop, similarity: Literal["cosine", "dot"]) -> None:
    """Vectors made as in service, one row at a time; the formula written out."""
    dataset = shop.dataset("time")
    weights = np.random.default_rng(0).random(len(dataset.events)).astype(np.float32)
    dataset = replace(dataset, events=replace(dataset.events, weights=weights))
    config = section(similarity, item_hidden=(6,), activation="tanh")
    model, data, exposures = towers(dataset, config)
    assert model.pair_bias is not None
    torch.nn.init.constant_(model.pair_bias, -0.7)
    step = RetrievalStep(model, data, config, 0, False, exposures)
    items, scale = item_vectors(model, data), float(torch.as_tensor(model.scale).detach())
    loader = WindowLoader(data, Part.VALID, 60, 1, exposures)
    for users, windows in zip(nonempty(loader.batches(0)), loader, strict=True):
        total = mass = 0.0
        for user in users.tolist():
            for row in range(exposures.ptr[user], exposures.ptr[user + 1]):
                vector = query_vectors(model, data, np.array([user]), exposures.ends[[row]])[0]
                logit = scale * float(vector @ items[exposures.items[row]]) - 0.7
                chance = 1 / (1 + math.exp(-logit))
                label, weight = exposures.labels[row], float(exposures.weights[row])
                total -= weight * (label * math.log(chance) + (1 - label) * math.log(1 - chance))
                mass += weight
        assert step(step.prepare(windows))["loss"].item() == pytest.approx(total / mass, rel=1e-4)


def test_every_part_of_both_towers_and_the_bias_learn(shop: Shop) -> None:
    config = section("cosine", item_hidden=(6,))
    model, data, exposures = towers(shop.dataset("time"), config)
    step = RetrievalStep(model, data, config, 0, False, exposures)
    batches = WindowLoader(data, Part.VALID, 60, 1, exposures)
    torch.stack([step(step.prepare(windows))["loss"] for windows in batches]).sum().backward()
    for name, parameter in nonempty(model.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.to_dense().abs().sum() > 0, name


@pytest.fixture(scope="module")
def tastes() -> Dataset:
    """Users of two tastes are shown items of two kinds at random; of their own kind they take 6 of 10, else 1 of 10."""
    rng = np.random.default_rng(1)
    users, shown = 300, 20
    taste = np.repeat(rng.integers(0, 2, users), shown)
    item = rng.integers(0, 40, users * shown)
    click = rng.random(users * shown) < np.where(item % 2 == taste, 0.6, 0.1)
    times = np.tile(np.arange(shown), users) * 10.0
    events = pd.DataFrame(
        {"user_id": np.repeat(np.arange(users), shown), "item_id": item, "timestamp": times, "click": click.astype(int)}
    )
    kinds = pd.DataFrame({"item_id": np.arange(40), "kind": np.arange(40) % 2})
    config = {
        "events": "events",
        "features": [{"name": "item_id", "side": "item"}, {"name": "kind", "side": "item"}],
        "tasks": [{"name": "click"}],
        "split": {"kind": "time", "valid_from": "150", "test_from": "180"},
    }
    return build_dataset(read_tables(events, None, kinds), DataConfig.model_validate(config), 0)


@pytest.mark.learns
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_tastes_are_learned_and_chances_are_calibrated(tastes: Dataset, similarity: str) -> None:
    table = {
        "loss": "exposures",
        "positive": "click",
        "tower": {
            "dim": 8,
            "similarity": similarity,
            "event_features": [],
            "item_hidden": [8],
            "user_hidden": [8],
            "dropout": 0.0,
            "history": {"encoder": "mean", "dropout": 0.0},
        },
        "optim": {"lr": 2e-2, "warmup_steps": 5, "schedule": "cosine", "final_fraction": 0.0},
        "fit": {"epochs": 8, "metric": ""},
        "tokens": 100,
    }
    config = RetrievalConfig.model_validate(table)
    model, data, _ = train_two_tower(tastes, config, Runtime(1), seed=1)
    exposures = Exposures.of(tastes, data.history, "click")
    owner = np.repeat(np.arange(tastes.num_users), np.diff(exposures.ptr))
    queries = query_vectors(model, data, owner, exposures.ends)
    assert model.pair_bias is not None
    pairs = (queries * item_vectors(model, data)[exposures.items]).sum(1)
    chance = 1 / (1 + np.exp(-(float(torch.as_tensor(model.scale).detach()) * pairs + model.pair_bias.item())))
    assert chance.mean() == pytest.approx(exposures.rate, abs=0.03)
    settled = exposures.ends - data.history.ptr[owner] >= 3
    kinds = data.items.categorical[:, data.layout.item.categorical.index("kind")].numpy()
    own = np.array(
        [
            np.bincount(kinds[data.history.items[data.history.ptr[user] : end]], minlength=4).argmax()
            for user, end in zip(owner[settled], exposures.ends[settled], strict=True)
        ]
    )
    same = kinds[exposures.items[settled]] == own
    assert chance[settled][same].mean() > chance[settled][~same].mean() + 0.25


def test_the_bias_begins_at_the_share_of_positives(shop: Shop) -> None:
    model, _, exposures = towers(shop.dataset("time"), section())
    model.start_at(exposures.rate)
    assert model.pair_bias is not None
    assert torch.sigmoid(model.pair_bias).item() == pytest.approx(exposures.labels.mean(), abs=1e-6)


def test_only_losses_of_single_pairs_get_a_bias() -> None:
    for loss, biased in (("exposures", True), ("bce", True), ("full_softmax", False), ("auto", False)):
        assert RetrievalConfig.model_validate({"loss": loss}).tower.pair_bias is biased


@pytest.mark.parametrize("keys", [{"horizon": 3}, {"hard_negatives": 2}])
def test_what_belongs_to_next_events_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"no next events; leave {next(iter(keys))} at its default"):
        RetrievalConfig.model_validate({"loss": "exposures", **keys})


def test_without_labels_to_compare_it_says_what_is_missing(shop: Shop) -> None:
    dataset = shop.dataset("time")
    data = TowerData.of(dataset, section().tower, "")
    with pytest.raises(ConfigError, match=r"name it in retrieval\.positive, one of: click, like"):
        Exposures.of(dataset, data.history, "")
    events = replace(dataset.events, labels=np.ones_like(dataset.events.labels))
    with pytest.raises(DataError, match='training rows of "click" do not hold both labels'):
        Exposures.of(replace(dataset, events=events), data.history, "click")
    task = dataset.config.tasks[0].model_copy(update={"kind": "regression"})
    numbers = replace(dataset, config=dataset.config.model_copy(update={"tasks": (task,)}))
    with pytest.raises(ConfigError, match='needs a binary task; "click" is a regression'):
        Exposures.of(numbers, data.history, "click")


def test_batches_hold_about_as_many_rows_whatever_their_users_did(tastes: Dataset) -> None:
    """A batch is a mean: were some far larger than others, the rows of the small ones would weigh more."""
    _, data, exposures = towers(tastes, section(event_features=()))
    sizes = [len(w.shown.items) for w in WindowLoader(data, Part.VALID, 150, 1, exposures) if w.shown is not None]
    assert len(sizes) > 20
    assert max(sizes) <= 170
    assert min(sizes[:-1]) >= 75


def test_of_a_long_history_the_share_that_a_window_holds_is_counted(shop: Shop) -> None:
    dataset = shop.dataset("time")
    _, data, exposures = towers(dataset, section())
    whole, cut = (exposures.expected(data.history.ptr, length) for length in (10_000, 3))
    assert np.array_equal(whole, np.diff(exposures.ptr))
    for user in nonempty(np.flatnonzero(whole > 0)):
        last = exposures.ends[exposures.ptr[user + 1] - 1] - data.history.ptr[user]
        assert cut[user] == math.ceil(whole[user] * min(1.0, 3 / max(last, 1)))
    assert (cut < whole).sum() > 10


def test_of_several_interests_the_smooth_best_is_judged(shop: Shop) -> None:
    config = section("dot", interests=3)
    model, data, exposures = towers(shop.dataset("time"), config)
    step = RetrievalStep(model, data, config, 0, False, exposures)
    windows = next(iter(WindowLoader(data, Part.VALID, 60, 1, exposures)))
    shown = windows.shown
    assert shown is not None
    with torch.no_grad():
        loss = step(step.prepare(windows))["loss"].item()
        content = model.embed_content(data.items)
        users = model.states_between(windows, content[windows.items])[shown.window, shown.known]
        items = model.item_vectors(data.items, content)[shown.items]
        logits = torch.einsum("pmd,pd->pm", users, items).exp().sum(1).log()
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, shown.labels, reduction="none")
    assert loss == pytest.approx(each.mean().item(), rel=1e-4)
