"""Training the towers: they learn what is planted under every loss, and their validation metric is the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.topk import exact_ranks
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.funnel.folder import VECTORS, load_run
from recsys.retrieval.towers.horizon import events_ahead, horizon_of
from recsys.retrieval.towers.negatives import HardNegatives
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import (
    RetrievalConfig,
    build_two_tower,
    item_vectors,
    query_vectors,
    requests,
    train_two_tower,
    validation_metrics,
)
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun
from recsys.training.checkpoint import Checkpointer
from recsys.training.loop import FitOptions
from recsys.training.optim import OptimConfig
from recsys.training.runtime import Runtime

RUNTIME = Runtime(1)


@pytest.fixture(scope="module")
def planted() -> Dataset:
    """Two clusters of ten items; after any item of a cluster, everybody takes the cluster's last one."""
    rng = np.random.default_rng(0)
    users = 260
    cluster, first = rng.integers(0, 2, users), rng.integers(0, 9, users)
    late = np.arange(users) >= 200
    events = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), 2),
            "item_id": np.stack([10 * cluster + first, 10 * cluster + 9], axis=1).ravel(),
            "timestamp": np.stack([np.arange(users), np.where(late, 2000 + np.arange(users), 500)], axis=1).ravel(),
        }
    )
    split = {"kind": "time", "valid_from": "2200", "test_from": "2230"}
    features = [{"name": "user_id", "side": "user", "min_count": 9}, {"name": "item_id", "side": "item"}]
    config = DataConfig.model_validate({"events": "events", "features": features, "split": split})
    return build_dataset(read_tables(events.sort_values("timestamp")), config, 0)


def retrieval(loss: str = "full_softmax", epochs: int = 15, **tower: Any) -> RetrievalConfig:
    return RetrievalConfig.model_validate(
        {
            "loss": loss,
            "negatives": 64,
            "tower": TwoTowerConfig(
                dim=16,
                user_features=(),
                event_features=(),
                history=TowerHistory(encoder="mean", dropout=0.0),
                user_hidden=(16,),
                **{"dropout": 0.0, **tower},
            ),
            "optim": OptimConfig(lr=2e-2, warmup_steps=5).model_dump(),
            "fit": FitOptions(epochs=epochs).model_dump(),
            "tokens": 40,
        }
    )


@pytest.mark.learns
@pytest.mark.parametrize(
    ("loss", "similarity"),
    [
        *((loss, "dot") for loss in ("full_softmax", "in_batch", "estimated", "mixed", "sampled", "bce")),
        ("full_softmax", "cosine"),
        ("bce", "cosine"),
        *(pytest.param(loss, "cosine", marks=pytest.mark.exhaustive) for loss in ("in_batch", "estimated")),
        *(pytest.param(loss, "cosine", marks=pytest.mark.exhaustive) for loss in ("mixed", "sampled")),
    ],
)
def test_two_planted_clusters_are_learned(planted: Dataset, loss: str, similarity: str) -> None:
    model, data, _ = train_two_tower(planted, retrieval(loss, similarity=similarity), RUNTIME, seed=1)
    users, seen, truth = requests(data, Part.TEST)
    assert len(users) == 30
    scores = query_vectors(model, data, users, data.ends(Part.TEST)[users]) @ item_vectors(model, data).T
    for row, past in enumerate(seen.items.reshape(len(users), -1)):
        scores[row, past] = -np.inf
    assert (scores.argmax(1) == truth.items).mean() > 0.95


@pytest.mark.learns
@pytest.mark.parametrize(
    "extra",
    [
        {"memory": 100, "memory_after": 20},
        {"hard_negatives": 3, "hard_refresh": 5},
        {"hard_negatives": 4, "hard_skip": 1, "hard_weight": 1.0, "loss": "full_softmax"},
    ],
)
def test_further_negatives_still_learn_the_clusters(planted: Dataset, extra: dict[str, Any]) -> None:
    config = retrieval("in_batch").model_copy(update=extra)
    model, data, history = train_two_tower(planted, config, RUNTIME, seed=1)
    users, seen, truth = requests(data, Part.TEST)
    ranks = exact_ranks(
        query_vectors(model, data, users, data.ends(Part.TEST)[users]), item_vectors(model, data), truth, seen
    )
    assert (ranks.items == 1).mean() > 0.95
    assert ("hard" in history.records[0]) == ("hard_negatives" in extra)


@pytest.mark.learns
def test_several_interests_serve_a_user_of_both_clusters(planted: Dataset) -> None:
    """A score is the best product of any interest, in training, in validation and in exact search."""
    model, data, _ = train_two_tower(planted, retrieval(interests=3), RUNTIME, seed=1)
    users, seen, truth = requests(data, Part.TEST)
    queries, items = query_vectors(model, data, users, data.ends(Part.TEST)[users]), item_vectors(model, data)
    assert queries.shape == (30, 3, model.width)
    scores = (queries @ items.T).max(1)
    for row, past in enumerate(seen.items.reshape(len(users), -1)):
        scores[row, past] = -np.inf
    assert (scores.argmax(1) == truth.items).mean() > 0.95
    assert validation_metrics(model, data, Part.TEST)["recall@10"] == 1.0


def test_the_memory_holds_earlier_batches_and_waits_for_its_turn(planted: Dataset) -> None:
    config = retrieval("in_batch").model_copy(update={"memory": 50, "memory_after": 2})
    data = TowerData.of(planted, config.tower, "")
    model = build_two_tower(data, config.tower, 0)
    loader = WindowLoader(data, Part.VALID, 40, 0)
    batches = list(loader)[:4]
    plain = RetrievalStep(model, data, retrieval("in_batch"), 0, reduced=False)
    step = RetrievalStep(model, data, config, 0, reduced=False)
    differences = [
        abs((step(step.prepare(batch))["loss"] - plain(plain.prepare(batch))["loss"]).item()) for batch in batches
    ]
    assert differences[:2] == [0.0, 0.0], "the memory is not used before its turn"
    assert min(differences[2:]) > 1e-3


@pytest.mark.parametrize("count", [2, 5])
def test_hard_negatives_are_the_best_items_of_the_snapshot_but_the_target(planted: Dataset, count: int) -> None:
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    targets = (queries @ vectors.T).argsort(1, descending=True)[:, [1]]  # the second best is the target
    hard = HardNegatives(count, skip_top=1)
    hard.refresh(vectors)
    vectors.neg_()  # the snapshot is a copy
    expected = (queries @ -vectors.T).argsort(1, descending=True)[:, 2 : count + 2]
    assert torch.equal(hard.mine(queries, targets), expected)
    again = HardNegatives(count, skip_top=1)
    again.load_state_dict(hard.state_dict())
    assert torch.equal(again.mine(queries, targets), expected)


@pytest.mark.parametrize("extra", [{"memory": 60, "memory_after": 3}, {"hard_negatives": 3, "hard_refresh": 7}])
def test_what_a_step_remembers_is_part_of_a_checkpoint(
    planted: Dataset, tmp_path: Path, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch and resumed: the same weights, bit for bit."""
    config = retrieval("in_batch", epochs=3).model_copy(update=extra)
    whole = train_two_tower(planted, config, RUNTIME, 1)[0].state_dict()
    keeper = Checkpointer(tmp_path, every_steps=4)
    original, calls = RetrievalStep.__call__, 0

    def killed(self: RetrievalStep, windows: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 18:
            raise KeyboardInterrupt
        return original(self, windows)

    monkeypatch.setattr(RetrievalStep, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        train_two_tower(planted, config, RUNTIME, 1, keeper)
    monkeypatch.undo()
    resumed = train_two_tower(planted, config, RUNTIME, 1, Checkpointer(tmp_path, every_steps=4, resume=True))[0]
    assert all(torch.equal(whole[name], value) for name, value in resumed.state_dict().items())


def test_auto_takes_the_softmax_over_everything_for_a_small_catalogue(planted: Dataset) -> None:
    data = TowerData.of(planted, retrieval().tower, "")
    model = build_two_tower(data, retrieval().tower, 0)
    for most, kind in ((30_000, "full_softmax"), (3, "mixed")):
        config = retrieval("auto").model_copy(update={"full_softmax_items": most})
        assert RetrievalStep(model, data, config, 0, reduced=False).kind == kind


def test_the_same_seed_trains_the_same_towers(planted: Dataset) -> None:
    config = retrieval("mixed", epochs=2, dropout=0.3, id_dropout=0.1)
    runs = [train_two_tower(planted, config, RUNTIME, seed)[0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_step_leaves_the_first_state_of_a_cut_history_out(shop: Shop) -> None:
    """The past of a stretch from the middle of a history is not empty but unknown: predicting from it is no example."""
    dataset = shop.dataset("time")
    config = retrieval()
    history = TowerHistory(encoder="mean", max_length=3, dropout=0.0)
    tower = config.tower.model_copy(update={"history": history})
    data = TowerData.of(dataset, tower, "")
    step = RetrievalStep(build_two_tower(data, tower, 0).eval(), data, config, 0, reduced=False)
    users = np.arange(4)
    whole = data.windows(users, data.history.ptr[users] + 3)
    late = data.windows(users, data.history.ptr[users] + 5)
    assert whole.from_start.all()
    assert not late.from_start.any()
    pretended = replace(late, from_start=torch.ones(4, dtype=torch.bool))
    with torch.no_grad():
        assert step(step.prepare(late))["loss"].item() != pytest.approx(
            step(step.prepare(pretended))["loss"].item(), abs=1e-4
        )


def test_requests_ask_for_new_items_of_the_part_given_what_came_before(shop: Shop) -> None:
    for kind in ("time", "leave_last", "random"):
        dataset = shop.dataset(kind)
        data = TowerData.of(dataset, TwoTowerConfig(dim=4), "click")
        events = dataset.events
        chosen = (events.labels[:, 0] > 0) & (events.items < dataset.num_catalogue)
        for part in (Part.VALID, Part.TEST):
            users, seen, truth = requests(data, part)
            for place, user in nonempty(enumerate(users)):
                own = chosen & (events.users == user)
                early = data.history.items[data.history.ptr[user] : data.history.ptr[user + 1]]
                prior = early[data.history.parts[data.history.ptr[user] : data.history.ptr[user + 1]] == Part.PRIOR]
                before = {*events.items[own & (events.parts < part)].tolist(), *prior.tolist()}
                assert set(seen[place].tolist()) == before
                assert sorted(truth[place].tolist()) == sorted(set(events.items[own & (events.parts == part)]) - before)
            asked = set(users.tolist())
            for user in set(range(dataset.num_users)) - asked:
                own = chosen & (events.users == user) & (events.parts == part)
                known = data.history.items[data.history.ptr[user] : data.ends(part)[user]]
                assert set(events.items[own].tolist()) <= set(known.tolist())


def test_under_leave_last_a_test_request_knows_everything_but_the_last_event(shop: Shop) -> None:
    dataset = shop.dataset("leave_last")
    data = TowerData.of(dataset, TwoTowerConfig(dim=4), "")
    ends = data.ends(Part.TEST)
    counts = np.bincount(dataset.events.users, minlength=dataset.num_users)
    assert (counts >= 3).all()
    early = np.add.reduceat(data.history.parts == Part.PRIOR, data.history.ptr[:-1])
    assert (ends - data.history.ptr[:-1] == counts - 1 + early).all()
    users, seen, _ = requests(data, Part.TEST)
    for place, user in enumerate(users):
        rows = np.flatnonzero(dataset.events.users == user)
        assert seen[place].tolist()[-len(rows) + 1 :] == dataset.events.items[rows[:-1]].tolist()


def test_validation_metrics_are_the_plain_ones(shop: Shop) -> None:
    dataset = shop.dataset("time")
    config = TwoTowerConfig(dim=8, history=TowerHistory(encoder="mean"), init_std=0.5)
    data = TowerData.of(dataset, config, "")
    model = build_two_tower(data, config, 2)
    found = validation_metrics(model, data)
    users, seen, truth = requests(data, Part.VALID)
    scores = query_vectors(model, data, users, data.ends(Part.VALID)[users]) @ item_vectors(model, data).T
    recall, ndcg = [], []
    for place in range(len(users)):
        scores[place, seen[place]] = -np.inf
        best = np.argsort(-scores[place], kind="stable")[:10]
        hits = np.isin(best, truth[place])
        recall.append(hits.sum() / len(truth[place]))
        ideal = (1 / np.log2(np.arange(min(10, len(truth[place]))) + 2)).sum()
        ndcg.append((hits / np.log2(np.arange(10) + 2)).sum() / ideal)
    assert found["recall@10"] == pytest.approx(np.mean(recall), abs=1e-6)
    assert found["ndcg@10"] == pytest.approx(np.mean(ndcg), abs=1e-6)


def test_saved_vectors_are_those_the_saved_model_makes(tiny_run: TinyRun) -> None:
    run = open_run(Path(tiny_run.folder))
    stages = load_run(run)
    assert stages.retriever is not None
    kept = np.load(run.file(VECTORS), allow_pickle=False)
    assert np.array_equal(kept, item_vectors(stages.retriever.model, stages.retriever.data))


@pytest.fixture(scope="module")
def with_new(planted: Dataset) -> Dataset:
    """The same clusters, and five items that nobody met, of the kind of the first cluster."""
    names = list(planted.item_ids)
    owners, items = planted.events.users, planted.events.items
    events = pd.DataFrame(
        {
            "user_id": [planted.user_ids[user] for user in owners],
            "item_id": [names[item] for item in items],
            "timestamp": planted.events.times,
        }
    )
    kinds = ["one" if int(name) < 10 else "two" for name in names] + ["one"] * 5
    table = pd.DataFrame({"item_id": [*names, *(f"new{i}" for i in range(5))], "kind": kinds})
    spec = planted.config.model_dump()
    spec["features"] = (*spec["features"], {"name": "kind", "side": "item"})
    tables = read_tables(events.sort_values("timestamp"), None, table)
    return build_dataset(tables, DataConfig.model_validate(spec), 0)


@pytest.mark.parametrize("loss", ["full_softmax", "estimated", "mixed", "sampled", "bce"])
def test_what_nobody_met_is_no_negative(with_new: Dataset, loss: str) -> None:
    """The row that all new items share learns nothing from their not being taken."""
    config = retrieval(loss, epochs=2)
    config = config.model_copy(update={"hard_negatives": 3, "hard_refresh": 1})
    data = TowerData.of(with_new, config.tower, config.positive)
    before = build_two_tower(data, config.tower, 0)
    model, _, _ = train_two_tower(with_new, config, RUNTIME, 0)
    assert model.bias is not None
    for table, old in ((model.table, before.table), (model.bias, before.bias)):
        rows, fresh = table.rows_of("item_id"), old.rows_of("item_id")
        assert torch.allclose(rows[1], fresh[1], atol=1e-3)  # weight decay apart
        assert not torch.allclose(rows[2:], fresh[2:], atol=1e-2)


@pytest.mark.learns
def test_a_new_item_is_found_by_its_content(with_new: Dataset) -> None:
    model, data, _ = train_two_tower(with_new, retrieval(epochs=10, id_dropout=0.3), RUNTIME, 0)
    users = np.flatnonzero(data.ends(Part.TEST) > data.history.ptr[:-1])
    first = data.history.items[data.history.ptr[users]]
    kind = data.items.categorical[:, data.layout.item.categorical.index("kind")].numpy()
    scores = query_vectors(model, data, users, data.ends(Part.TEST)[users]) @ item_vectors(model, data).T
    new = np.flatnonzero(data.popularity(Part.TEST).numpy() == 0)
    assert len(new) == 5
    mine = kind[first] == kind[new[0]]
    assert scores[mine][:, new].mean() > scores[~mine][:, new].mean() + 1.0


@pytest.mark.parametrize("horizon", [1, 4, 50])
def test_a_state_learns_events_ahead_of_it_and_none_behind(horizon: int) -> None:
    ahead = events_ahead(400, 12, horizon, torch.Generator().manual_seed(3))
    own = torch.arange(12)
    last = (own + horizon - 1).clamp(max=11)
    assert torch.equal(ahead.amin(0), own)  # never the past, and the next event too
    assert torch.equal(ahead.amax(0), last)
    if horizon == 4:
        shares = torch.bincount(ahead[:, 2] - 2, minlength=4) / 400
        assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.08)


def test_the_horizon_is_what_a_known_user_takes_in_the_validation_part(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RetrievalConfig.model_validate({"horizon": "auto"})
    for kind in ("time", "leave_last"):
        data = TowerData.of(shop.dataset(kind), config.tower, "")
        parts, owner = data.history.parts, np.repeat(np.arange(len(data.history.ptr) - 1), np.diff(data.history.ptr))
        taken = [
            int((parts[owner == user] == Part.VALID).sum())
            for user in np.unique(owner)
            if (parts[owner == user] < Part.VALID).any() and (parts[owner == user] == Part.VALID).any()
        ]
        assert horizon_of(config, data) == int(np.mean(taken))
        assert (horizon_of(config, data) == 1) == (kind == "leave_last")
    assert horizon_of(RetrievalConfig.model_validate({"horizon": 7}), data) == 7
    monkeypatch.setattr("recsys.retrieval.towers.horizon.MOST", 2)
    data = TowerData.of(shop.dataset("time"), config.tower, "")
    assert horizon_of(config, data) == 2  # users of the shop take more, and nobody looks as far as they might


@pytest.mark.parametrize("loss", ["full_softmax", pytest.param("mixed", marks=pytest.mark.exhaustive)])
def test_with_a_horizon_a_state_expects_what_comes_later(planted: Dataset, loss: str) -> None:
    """Every user's second event is item 9 or 19: who looks two events ahead expects these from the start."""

    def first_two(horizon: int) -> set[str]:
        config = retrieval(loss, similarity="dot").model_copy(update={"horizon": horizon})
        model, data, _ = train_two_tower(planted, config, RUNTIME, seed=1)
        users = np.array([0])
        nobody = query_vectors(model, data, users, data.history.ptr[users])
        best = np.argsort(-(nobody @ item_vectors(model, data).T)[0])[:2]
        return {str(planted.item_ids[row]) for row in best}

    assert first_two(2) == {"9", "19"}
    assert not first_two(1) & {"9", "19"}
