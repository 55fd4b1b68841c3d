"""Going on from a run: what was learned stays in place with its moments, new rows begin at their neighbours."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from recsys.artifacts.folder import open_run
from recsys.artifacts.names import WARM_START
from recsys.base.errors import RunError
from recsys.data.build import load_dataset
from recsys.data.dataset import Dataset
from recsys.data.pretrained import Pretrained, TableStart
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from recsys.funnel.folder import OPTIMIZERS, load_run
from recsys.funnel.neighbours import NEAREST, from_vectors, neighbour_means, start_new_rows
from recsys.nn.embedding import EmbeddingTable, tables_of
from recsys.pipeline.continuation import Learned, SourceRun, remember, take_up
from recsys.pipeline.evaluate import evaluate_run
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.pipeline.start import Start
from recsys.ranking.train import build_model
from recsys.retrieval.towers.train import build_towers, build_two_tower
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.days import Days
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.training.optim import OptimConfig, Optimizer

STILL = ["retrieval.optim.lr=1e-12", "ranking.optim.lr=1e-12", "retrieval.fit.epochs=1", "ranking.fit.epochs=1"]


def fresh(stage: str, days: Days, dataset: Dataset) -> tuple[nn.Module, Optimizer, Learned]:
    """A new model of the second day, its optimiser, and what the first day's learned."""
    config, source = days.tiny.config(), SourceRun.open(days.run)
    learned = source.towers() if stage == "retrieval" else source.ranker()
    assert learned is not None
    if stage == "retrieval":
        data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
        model: nn.Module = build_two_tower(data, config.retrieval.tower, 77)
        return model, Optimizer(model, config.retrieval.optim, 10), learned
    assert source.trained.retriever is not None
    features = len(source.trained.retriever.feature_names)
    model, _ = build_model(config.ranking, dataset.layout, dataset.config.tasks, features, 77)
    return model, Optimizer(nn.ModuleDict({"model": model}), config.ranking.optim, 10), learned


@pytest.mark.parametrize("stage", ["retrieval", "ranking"])
def test_old_rows_and_their_moments_are_where_they_were(days: Days, stage: str) -> None:
    dataset = days.dataset()
    model, optimizer, learned = fresh(stage, days, dataset)
    report = {entry.vocabulary: entry for entry in take_up(model, optimizer, dataset, learned)}
    assert report["item_id"].new > 5
    assert report["user_id"].new > 5
    before, prefix = tables_of(learned.model), "" if stage == "retrieval" else "model."
    moved = 0
    for name, table in tables_of(model).items():
        state = optimizer.state_dict()
        for vocabulary in table.sizes:
            theirs = before[name].rows_of(vocabulary)
            assert torch.equal(table.rows_of(vocabulary)[: len(theirs)], theirs), vocabulary
            for slot in ("mean", "square", "steps"):
                key = f"table/{prefix}{name}/{vocabulary}/{slot}"
                assert torch.equal(state[key][: len(theirs)], learned.state[key]), key
                assert not state[key][len(theirs) :].any(), key
                moved += int(learned.state[key].any())
        assert not table.weight[table.pad_rows].any()
    assert moved > 3
    weights = dict(learned.model.named_parameters())
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in before:
            assert torch.equal(parameter, weights[name]), name
            key = f"dense/{prefix}{name}/exp_avg"
            assert torch.equal(optimizer.state_dict()[key], learned.state[key])
    assert optimizer.steps == 0


def test_the_weight_of_popularity_is_chosen_anew(days: Days) -> None:
    """What an earlier run chose for users without a history would else be multiplied into what is tried now."""
    source, config = SourceRun.open(days.run), days.tiny.config()
    learned = source.towers()
    assert learned is not None
    assert isinstance(learned.model, TwoTower)
    learned.model.empty_weight.fill_(3.0)
    training = build_towers(days.dataset(), config.retrieval, 77)
    Start.of(source, config, "all").towers(training, days.dataset())
    assert training.model.empty_weight.item() == 1.0


def overlaps(dataset: Dataset, known: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By the definition, pair by pair: new item rows, old item rows, and how much each pair shares."""
    columns = [dataset.sides["item"].categorical.index(n) for n in ("category", "subcategory", "brand")]
    own = dataset.items.whole().categorical[:, dataset.sides["item"].categorical.index("item_id")].numpy()
    content = dataset.items.whole().categorical[:, columns].numpy()
    old, new = np.flatnonzero((own >= FIRST) & (own < known)), np.flatnonzero(own >= known)
    shared = np.zeros((len(new), len(old)))
    for i, item in enumerate(new):
        for column in range(content.shape[1]):
            same = (content[old, column] == content[item, column]) & (content[item, column] >= FIRST)
            if same.any():
                shared[i, same] += math.log(len(old) / same.sum()) / same.sum()
    return own[new], own[old], shared


@pytest.mark.parametrize("stage", ["retrieval", "ranking"])
def test_a_new_item_begins_at_the_mean_of_the_items_like_it(days: Days, stage: str) -> None:
    dataset = days.dataset()
    model, optimizer, learned = fresh(stage, days, dataset)
    report = take_up(model, optimizer, dataset, learned)
    known = len(learned.dataset.encoders.vocabularies["item_id"])
    new, old, shared = overlaps(dataset, known)
    assert len(new) == next(entry.new for entry in report if entry.vocabulary == "item_id")
    alike = shared.sum(1) > 0
    assert alike.sum() > 5
    assert {e.neighbours for e in report if e.vocabulary == "item_id"} == {int(alike.sum())}
    for table in tables_of(model).values():  # the towers have one of embeddings and one of item biases
        rows = table.rows_of("item_id").detach().double().numpy()
        expected = (shared[alike] / shared[alike].sum(1, keepdims=True)) @ rows[old]
        assert np.allclose(rows[new[alike]], expected, atol=1e-6)
        assert np.ptp(rows[new[alike]], axis=0).max() > 1e-4


@pytest.mark.parametrize("stage", ["retrieval", "ranking"])
def test_a_new_user_begins_as_yesterdays_unknown_one(days: Days, stage: str) -> None:
    """In the ranker rare users trained the unknown row; the towers here never met it, and take the mean user."""
    dataset = days.dataset()
    model, optimizer, learned = fresh(stage, days, dataset)
    take_up(model, optimizer, dataset, learned)
    known = len(learned.dataset.encoders.vocabularies["user_id"])
    (name, table), *_ = tables_of(model).items()
    prefix = "" if stage == "retrieval" else "model."
    rows = table.rows_of("user_id").detach()
    trained = bool(learned.state[f"table/{prefix}{name}/user_id/square"][UNKNOWN].any())
    expected = rows[UNKNOWN] if trained else rows[FIRST:known].mean(0)
    assert len(rows) > known
    assert torch.allclose(rows[known:], expected.expand_as(rows[known:]))


def test_unknown_rows_count_only_when_they_were_trained(days: Days) -> None:
    dataset = days.dataset()
    size = len(dataset.encoders.vocabularies["user_id"])
    for trained in (True, False):
        table = EmbeddingTable({"user_id": size}, 3)
        rows = table.rows_of("user_id").detach()
        start_new_rows(table, "user_id", size - 4, dataset, trained)
        expected = rows[UNKNOWN] if trained else rows[FIRST : size - 4].mean(0)
        assert torch.allclose(rows[-4:], expected.expand(4, 3))


def test_items_near_by_their_vectors_are_neighbours_too(shop: Shop) -> None:
    """The hand-made shop: genre, tags and a text vector; half of the items are new."""
    dataset = shop.dataset("time")
    size = len(dataset.encoders.vocabularies["item_id"])
    known = size - 8
    rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    at, means = neighbour_means(dataset, "item_id", rows, torch.arange(size) >= known)
    layout = dataset.sides["item"]
    own = dataset.items.whole().categorical[:, layout.categorical.index("item_id")].numpy()
    genre = dataset.items.whole().categorical[:, layout.categorical.index("genre")].numpy()
    tags, text = dataset.items.whole().bags[0].numpy(), dataset.items.whole().vectors[0].double().numpy()
    old = np.flatnonzero((own >= FIRST) & (own < known))
    there = old[np.abs(text[old]).sum(1) > 0]
    assert len(at) == 8
    for row, mean in zip(at.tolist(), means.double().numpy(), strict=True):
        (item,) = np.flatnonzero(own == row)
        shared = dict.fromkeys(old.tolist(), 0.0)
        groups = [old[genre[old] == genre[item]], *(old[(tags[old] == t).any(1)] for t in tags[item] if t >= FIRST)]
        if np.abs(text[item]).sum():
            cosine = text[there] @ text[item] / np.linalg.norm(text[there], axis=1) / np.linalg.norm(text[item])
            groups.append(there[np.argsort(-cosine)[: min(NEAREST, len(there))]])
        for group in groups:
            for other in group.tolist():
                shared[other] += math.log(len(old) / len(group)) / len(group)
        weights = np.array(list(shared.values()))
        expected = weights @ rows.double().numpy()[own[list(shared)]] / weights.sum()
        assert np.allclose(mean, expected, atol=1e-6)


def test_training_from_a_run_starts_where_it_ended(days: Days, tmp_path: Path) -> None:
    """With steps of almost no length, what the first day knew comes out of the second as it went in."""
    config = days.tiny.config(*STILL, "retrieval.optim.weight_decay=0")
    run = train_run(config, tmp_path / "run", base=days.second, source_run=days.run)
    old, new = (load_run(open_run(folder), with_index=False) for folder in (days.run, run))
    assert old.retriever is not None
    assert new.retriever is not None
    count = old.dataset.num_catalogue
    assert new.dataset.item_ids[:count] == old.dataset.item_ids[:count]
    rows = np.array(
        [raw in old.dataset.encoders.vocabularies["item_id"].values for raw in old.dataset.item_ids[:count]]
    )
    assert np.allclose(old.retriever.item_vectors[rows], new.retriever.item_vectors[:count][rows], atol=1e-5)
    assert old.ranker is not None
    assert new.ranker is not None
    theirs = dict(old.ranker.named_parameters())
    for name, parameter in new.ranker.named_parameters():
        if "table" not in name:
            assert torch.allclose(parameter, theirs[name], atol=1e-5), name
    report = open_run(run).read_json(WARM_START)
    assert {stage: entry["from"] for stage, entry in report.items()} == {"retrieval": "run", "ranking": "run"}
    items = next(entry for entry in report["ranking"]["vocabularies"] if entry["vocabulary"] == "item_id")
    assert items["kept"] == len(old.dataset.encoders.vocabularies["item_id"].values)
    assert items["new"] >= items["neighbours"] > 5
    # and the moments go on from where they were: 1e-12 does not move them back to zero
    before, after = (load_file(open_run(folder).file(OPTIMIZERS["ranking"])) for folder in (days.run, run))
    key = next(name for name in before if name.endswith("item_id/steps"))
    assert (after[key][: len(before[key])] >= before[key]).all()
    assert before[key].max() > 1


def test_a_run_that_went_on_is_judged_and_goes_on(days: Days, tmp_path: Path) -> None:
    """Index, evaluation with its leak checks, and a third run on the second."""
    config = days.tiny.config("retrieval.fit.epochs=1", "ranking.fit.epochs=1")
    run = train_run(config, tmp_path / "second", base=days.second, source_run=days.run)
    build_run_index(run)
    assert evaluate_run(run)["retrieval"]  # it would have refused counts and vocabularies that know too much
    third = train_run(config, tmp_path / "third", base=days.second, source_run=run)
    one, other = (load_run(open_run(folder), with_index=False).dataset for folder in (run, third))
    assert other.encoders.vocabularies["user_id"] == one.encoders.vocabularies["user_id"]
    assert len(other.events) == len(one.events)


def test_the_towers_learn_the_new_events_and_see_the_old_ones(days: Days) -> None:
    config, dataset = days.tiny.config(), days.dataset()
    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
    loader = WindowLoader(data, Part.VALID, 200, 3)
    history = data.history
    fresh_events = (history.parts == Part.TRAIN) & (history.rows >= 0)
    owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    assert 0 < fresh_events.sum() < (history.parts < Part.VALID).sum()
    users, targets, seen = [], 0, 0
    for windows in loader:
        assert windows.to_learn is not None
        learned = windows.to_learn & windows.present
        assert learned.any(1).all()
        targets += int(learned.sum())
        seen += int(windows.present.sum())
        users.append(len(learned))
    assert targets == fresh_events.sum()
    assert seen > targets
    assert sum(users) == len(np.unique(owner[fresh_events]))
    alone = TowerData.of(SourceRun.open(days.run).trained.dataset, config.retrieval.tower, config.retrieval.positive)
    assert alone.to_learn is None


def test_a_long_history_is_cut_where_there_is_something_to_learn(days: Days) -> None:
    config, dataset = days.tiny.config("retrieval.tower.history.max_length=3"), days.dataset()
    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
    for epoch in range(6):
        loader = WindowLoader(data, Part.VALID, 60, 3)
        loader.epoch = epoch
        for windows in nonempty(loader):
            assert windows.to_learn is not None
            last = windows.present.sum(1) - 1
            assert windows.to_learn[torch.arange(len(last)), last].all()


def test_without_moments_the_weights_go_on(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    dataset = days.dataset()
    model, optimizer, learned = fresh("retrieval", days, dataset)
    with caplog.at_level(logging.INFO):
        take_up(model, optimizer, dataset, Learned(learned.model, learned.dataset, {}))
    assert "moments begin at zero" in caplog.text
    assert not any(value.any() for name, value in optimizer.state_dict().items() if name.endswith("mean"))
    assert torch.equal(
        next(iter(tables_of(model).values())).weight[FIRST], learned.model.state_dict()["table.weight"][FIRST]
    )


def test_a_run_keeps_its_moments_unless_told_otherwise(days: Days, tmp_path: Path) -> None:
    assert set(OPTIMIZERS.values()) <= set(open_run(days.run).manifest.files)
    settings = ["retrieval.optim.keep_state=false", "ranking.optim.keep_state=false"]
    config = days.tiny.config("retrieval.fit.epochs=1", "ranking.fit.epochs=1", *settings)
    small = train_run(config, tmp_path / "small", base=days.first)
    assert not {OPTIMIZERS["retrieval"], OPTIMIZERS["ranking"]} & set(open_run(small).manifest.files)
    train_run(config, small, base=days.first, stage="ranking")
    shutil.copytree(days.run, tmp_path / "again")
    train_run(days.tiny.config(), tmp_path / "again", base=days.first, stage="ranking")
    assert open_run(tmp_path / "again").file(OPTIMIZERS["retrieval"]).exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ranking.model.input.embedding_dim=4", r"embeddings are 8 wide in the source run and 4 here"),
        ("ranking.model.expert_hidden=[24]", r'the source run has another model: ".*" is \[.*\] there and \[.*\] here'),
        ("ranking.select.enabled=false", r"the source run has another model"),
        ('retrieval.scorers=["popularity"]', r"reads the opinions of .*, here there are popularity"),
        ("retrieval.tower.dim=16", r"embeddings are 8 wide in the source run and 16 here"),
        ('retrieval.tower.item_features=["item_id"]', r'"\w+" is embedded only in the source run'),
        ('retrieval.optim.table_optimizer="rowwise_adagrad"', r"it belongs to another table or table_optimizer"),
    ],
)
def test_another_model_is_refused_in_a_sentence(
    days: Days, tmp_path: Path, override: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any training: the towers of a ranker that cannot go on are not trained first."""
    monkeypatch.setattr("recsys.training.loop._run_epoch", lambda *_: pytest.fail("a training began"))
    with pytest.raises(RunError, match=sentence):
        train_run(days.tiny.config(override), tmp_path / "run", base=days.second, source_run=days.run)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_was_not_built_on_the_sources_is_refused(days: Days) -> None:
    alone = load_dataset(days.tiny.config().data, days.second, 1)
    model, optimizer, learned = fresh("retrieval", days, alone)
    with pytest.raises(RunError, match="stand for other values than in the source run"):
        take_up(model, optimizer, alone, learned)


def test_parameters_of_helpers_go_on_too() -> None:
    """A learned task balance is no part of the model, and is carried all the same."""

    def parts(value: float) -> tuple[nn.Module, Optimizer]:
        model = nn.Linear(2, 1)
        whole = nn.ModuleDict({"model": model, "balance": nn.ParameterDict({"log_variance": torch.full((2,), value)})})
        return model, Optimizer(whole, OptimConfig(), 3)

    model, optimizer = parts(0.7)
    state = remember(optimizer, model)
    assert [name for name in state if name.startswith("weight/")] == ["weight/balance.log_variance"]
    again, other = parts(0.0)
    empty: Any = type("Data", (), {"encoders": type("Encoders", (), {"vocabularies": {}})})
    take_up(again, other, empty, Learned(model, empty, state))
    assert torch.equal(other.dense["balance.log_variance"], torch.full((2,), 0.7))
    assert torch.equal(again.weight, model.weight)


def test_new_values_with_vectors_of_their_own_begin_in_the_space_of_the_known_ones() -> None:
    """Whatever map led from vectors to rows, turned, moved and scaled: it is found again."""
    generator = np.random.default_rng(1)
    values = tuple(f"v{i}" for i in range(30))
    given = Pretrained(pa.array(values[:25]), generator.normal(size=(25, 5)).astype(np.float32), "")
    turn, shift = generator.normal(size=(5, 3)), generator.normal(size=3)
    rows = torch.from_numpy(np.vstack([np.zeros((2, 3)), given.vectors[:15] @ turn + shift]).astype(np.float32))
    rows = torch.cat([rows, torch.zeros(15, 3)])
    new = torch.arange(len(rows)) >= FIRST + 15
    at, begun = from_vectors(TableStart(given, Vocabulary(values), True), rows, new)
    assert at.tolist() == [FIRST + i for i in range(15, 25)]  # the last five have no vector
    assert np.allclose(begun.numpy(), given.vectors[15:] @ turn + shift, atol=1e-4)
    assert not len(from_vectors(TableStart(given, Vocabulary(values[:15]), True), rows, new)[0])
