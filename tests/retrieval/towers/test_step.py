"""One step of the towers: shares of the positives, and the second softmax among what the model itself confuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.split import Part
from recsys.retrieval.towers.losses import bpr_max_loss, gbce_loss, top1_max_loss
from recsys.retrieval.towers.step import RetrievalStep, hidden_events
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop


def stepping(
    shop: Shop, loss: str = "full_softmax", interests: int = 1, encoder: str = "mean", **keys: Any
) -> tuple[TwoTower, TowerData, RetrievalStep]:
    history = {"encoder": encoder, "dropout": 0.0, "hidden": 8}
    tower = {"dim": 8, "init_std": 0.5, "dropout": 0.0, "interests": interests, "history": history}
    config = RetrievalConfig.model_validate({"loss": loss, "tower": tower, "hard_refresh": 1, **keys})
    data = TowerData.of(shop.dataset("leave_last"), config.tower, "")
    model = build_two_tower(data, config.tower, 3)
    return model, data, RetrievalStep(model, data, config, 0, reduced=False)


def test_the_share_of_each_item_among_the_positives_is_what_log_q_corrects_by(shop: Shop) -> None:
    _, data, step = stepping(shop, loss="mixed")
    early = data.history.items[data.history.parts < Part.VALID]
    shares = np.bincount(early, minlength=data.num_items) / len(early)
    np.testing.assert_allclose(step.loss.frequency.numpy(), shares[shares > 0], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_hard_part_is_a_softmax_among_the_models_best_items(shop: Shop, count: int) -> None:
    """By hand: scores of all items, the target's own and the `count` highest others; 30 are more than there are."""
    model, data, step = stepping(shop, hard_negatives=count)
    windows = next(iter(WindowLoader(data, Part.VALID, 100, 0)))
    with torch.no_grad():
        found = step(step.prepare(windows))["hard"].item()
        content, vectors = model.embed_items(step.items)
        places = step.place[windows.items]
        users = model.states_before(windows, content[places])[windows.present]
        scores, targets = users @ vectors.T, places[windows.present]
        own = scores.gather(1, targets[:, None])
        others = scores.scatter(1, targets[:, None], -torch.inf).sort(1, descending=True).values[:, :count]
        expected = (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]).mean().item()
    assert (targets != 0).any(), "item 0 is a negative of some row"
    assert found == pytest.approx(expected, rel=1e-5)


def test_of_several_interests_the_one_nearest_to_the_target_mines(shop: Shop) -> None:
    model, data, step = stepping(shop, interests=2, hard_negatives=3)
    windows = next(iter(WindowLoader(data, Part.VALID, 100, 0)))
    with torch.no_grad():
        found = step(step.prepare(windows))["hard"].item()
        content, vectors = model.embed_items(step.items)
        places = step.place[windows.items]
        scores = model.states_before(windows, content[places])[windows.present] @ vectors.T  # [P, M, n]
        losses = []
        for score, target in zip(scores, nonempty(places[windows.present].tolist()), strict=True):
            nearest = score[score[:, target].argmax()].clone()
            nearest[target] = -torch.inf
            mined = nearest.argsort(descending=True)[:3]
            best = score[:, [target, *mined.tolist()]].exp().sum(0)
            losses.append(-(best[0] / best.sum()).log().item())
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("interests", [1, 2])
def test_an_estimate_from_the_whole_catalogue_is_the_full_softmax(shop: Shop, interests: int) -> None:
    losses = []
    for loss in ("full_softmax", "estimated"):
        _, data, step = stepping(shop, loss=loss, interests=interests, negatives=10_000)
        windows = next(iter(WindowLoader(data, Part.VALID, 100, 0)))
        losses.append(step(step.prepare(windows))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_items_drawn_by_popularity_are_corrected_by_how_often_they_are_drawn(shop: Shop) -> None:
    """By hand: the positive's score as it is, those of the drawn items lowered by log(M q)."""
    model, data, step = stepping(shop, loss="sampled", popularity=0.75, negatives=16)
    windows = next(iter(WindowLoader(data, Part.VALID, 100, 0)))
    batch = step.prepare(windows)
    with torch.no_grad():
        found = step(batch)["loss"].item()
        content, vectors = model.embed_items(step.items)
        users = model.states_before(windows, content[step.place[windows.items]])[windows.present]
        scores = model.scale * users @ vectors.T
        shares = step.loss.frequency.double() ** 0.75
        expected = (16 * shares / shares.sum()).log().float()
        own = scores.gather(1, batch.targets[:, None])
        others = scores[:, batch.drawn] - expected[batch.drawn]
        others[batch.drawn == batch.targets[:, None]] = -torch.inf
        losses = torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]
    assert found == pytest.approx(losses.mean().item(), rel=1e-4)


def test_popularity_is_of_losses_that_draw_by_it() -> None:
    with pytest.raises(
        ValueError, match='popularity is of loss = "sampled", "bpr_max", "top1_max", and loss is "mixed"'
    ):
        RetrievalConfig.model_validate({"loss": "mixed", "popularity": 0.5})


@pytest.mark.parametrize("loss", ["gbce", "bpr_max", "top1_max"])
def test_each_position_is_set_against_the_items_drawn(shop: Shop, loss: str) -> None:
    """By the loss's own function, on the vectors of the whole catalogue; gSASRec's strength from what is drawn."""
    model, data, step = stepping(shop, loss=loss, negatives=5, calibration=0.6, score_penalty=0.3)
    windows = next(iter(WindowLoader(data, Part.VALID, 100, 0)))
    batch = step.prepare(windows)
    with torch.no_grad():
        found = step(batch)["loss"].item()
        content, vectors = model.embed_items(step.items)
        users = model.states_before(windows, content[step.place[windows.items]])[windows.present]
        ids = {"positive_ids": batch.targets, "negative_ids": batch.drawn}
        given = users, vectors[batch.targets], vectors[batch.drawn]
        if loss == "gbce":
            rate = 5 / (len(vectors) - 1)
            strength = rate * (0.6 * (1 - 1 / rate) + 1 / rate)  # as the paper writes it
            expected = gbce_loss(*given, model.scale, strength, model.pair_bias, **ids)
        else:
            more = {"penalty": 0.3} if loss == "bpr_max" else {}
            expected = {"bpr_max": bpr_max_loss, "top1_max": top1_max_loss}[loss](*given, model.scale, **more, **ids)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_hidden_events_are_learned_from_both_sides_and_the_first_from_nothing(shop: Shop) -> None:
    """The full softmax at hidden events, of vectors made by hand from windows in which they are hidden."""
    model, data, step = stepping(shop, encoder="bert4rec", hidden_share=0.3)
    torch.nn.init.normal_(model.encoder.no_history)
    windows = next(iter(WindowLoader(data, Part.VALID, 200, 0)))
    batch = step.prepare(windows)
    hidden = batch.windows.hidden
    assert hidden is not None
    learned = hidden.clone()
    learned[:, 0] |= windows.from_start
    assert torch.equal(batch.positions, learned.flatten().nonzero()[:, 0])
    assert torch.equal(batch.targets, step.place[windows.items][learned])
    with torch.no_grad():
        content, vectors = model.embed_items(step.items)
        history = content[step.place[windows.items]]
        events, _ = model._events(windows, history)
        states = model.encoder.filled(events, None, hidden, windows.lengths)
        users = model._finish(states, model._profile(windows.users))[learned]
        expected = torch.nn.functional.cross_entropy(model.scale * users @ vectors.T, batch.targets)
        assert step(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_hidden_is_a_share_of_what_may_be_learned_and_in_some_windows_the_last_alone(shop: Shop) -> None:
    _, data, _ = stepping(shop)
    windows = data.windows(np.arange(20), data.ends(Part.VALID)[:20])
    generator, drawn = torch.Generator().manual_seed(1), []
    for _ in range(200):
        hidden = hidden_events(windows, 0.3, generator)
        assert not (hidden & ~windows.present).any()
        assert hidden.any(1).all()
        drawn.append(hidden)
    every, long = torch.stack(drawn), windows.lengths >= 5
    last = torch.zeros_like(windows.present)
    last[torch.arange(20), windows.lengths - 1] = True
    alone = (every == last).all(2)[:, long].float().mean().item()
    assert 0.05 < alone < 0.3  # one in eleven, and those that the draw itself leaves so
    elsewhere = every[..., 0][:, long].float().mean().item()
    assert elsewhere == pytest.approx(0.3 * 10 / 11, abs=0.02)
    fresh = replace(windows, to_learn=last)
    assert torch.equal(hidden_events(fresh, 0.3, generator), last)


def test_an_encoder_that_fills_in_has_no_use_for_exposures_or_a_horizon() -> None:
    tower = {"history": {"encoder": "bert4rec"}}
    for keys, said in (({"horizon": 3}, "horizon"), ({"loss": "exposures", "positive": "click"}, 'loss = "exposures"')):
        with pytest.raises(
            ValueError, match=f"bert4rec encoder learns to fill in hidden events .* {said}; leave it out"
        ):
            RetrievalConfig.model_validate({"tower": tower, **keys})
