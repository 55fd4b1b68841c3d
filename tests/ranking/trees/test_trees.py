"""Boosted trees as second stage: what they read, that they learn, and that they answer as they were trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.arrays import I64
from recsys.base.errors import ConfigError
from recsys.configs.run import RunConfig, load_config
from recsys.data.schema import TaskSpec
from recsys.data.split import Part
from recsys.evaluation.metrics.rows import auc
from recsys.funnel.folder import load_run
from recsys.pipeline.evaluate import evaluate_run
from recsys.pipeline.publish import train_run
from recsys.pipeline.requests import select_requests
from recsys.ranking.config import RankingConfig
from recsys.ranking.ensemble import build_members
from recsys.ranking.held import divided
from recsys.ranking.requests import PADDED, SELECT, RequestBatch, RequestSet, SelectConfig
from recsys.ranking.scoring import request_logits, score_rows
from recsys.ranking.trees.columns import Columns
from recsys.ranking.trees.fit import _drawn, check_trees, grow
from recsys.ranking.trees.forest import Forest, RequestForest
from recsys.ranking.trees.mixed import MixedRanker, RequestMixed
from recsys.ranking.trees.settings import TreesConfig, TreeSettings
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun

SMALL = ("rounds=30", "patience=5", "min_rows=5", "leaves=7", "requests=60", "candidates=10")
ALONE = ('ranking.model.kind="trees"', *(f"ranking.model.{key}" for key in SMALL))
BESIDE = ("ranking.trees.enabled=true", *(f"ranking.trees.{key}" for key in SMALL))


def settings_for(tiny_run: TinyRun, *overrides: str) -> RunConfig:
    return tiny_run.config("retrieval.fit.epochs=1", "ranking.fit.epochs=1", *overrides)


@pytest.fixture(scope="module", params=["alone", "beside"])
def grown(request: pytest.FixtureRequest, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with trees, alone or beside a network."""
    if request.param == "alone":
        base = load_config(
            tiny_run.config_file, ["runtime.threads=1", "retrieval.fit.epochs=1", "retrieval.num_candidates=20", *ALONE]
        )
    else:
        base = settings_for(tiny_run, *BESIDE)
    return train_run(base, tmp_path_factory.mktemp(request.param) / "run", base=tiny_run.world)


def test_a_table_holds_codes_numbers_lists_and_vectors_and_no_ids(toy: Toy) -> None:
    columns = Columns.of(toy.layout, TreeSettings(most_values=8))
    batch = toy.requests(candidates=3, queries=2)
    table = columns.table(batch)
    assert columns.names[:3] == ("tab", "age", "activity")  # `user` has 9 values
    assert "category" in columns.names
    assert "item" not in columns.names
    np.testing.assert_array_equal(table[:, 0], batch.query.categorical[:, 1][batch.owner])
    np.testing.assert_array_equal(table[:, columns.names.index("price")], batch.item.numeric[:, 0])
    tags = [columns.names.index(f"tag has value {value}") for value in range(1, 7)]
    for row, bag in enumerate(nonempty(batch.item.bags[0].tolist())):
        assert [bag.count(value) for value in range(1, 7)] == table[row, tags].tolist()
    np.testing.assert_array_equal(table[:, -3:], batch.item.vectors[0])
    assert [columns.names[place] for place in columns.categories] == ["tab", "category"]


def test_long_lists_tell_their_length_only(toy: Toy) -> None:
    columns = Columns.of(toy.layout, TreeSettings(bag_values=3))
    batch = toy.batch(20)
    lengths = columns.table(batch)[:, columns.names.index("tag length")]
    np.testing.assert_array_equal(lengths, (batch.item.bags[0] > 0).sum(1))


def test_a_run_with_trees_answers_as_it_was_trained_after_it_was_read_back(grown: Path) -> None:
    first, again = (load_run(open_run(grown), with_index=False) for _ in range(2))
    assert first.ranker is not None
    assert again.ranker is not None
    rows = first.dataset.rows("test")
    texts = sorted(path.name for path in open_run(grown).directory("ranking/trees").iterdir())
    assert any(name.endswith("select.txt") for name in texts)
    told, repeated = score_rows(first.ranker, first.dataset, rows), score_rows(again.ranker, again.dataset, rows)
    for task in nonempty(told):
        np.testing.assert_array_equal(told[task], repeated[task])
        assert task == SELECT or len(np.unique(told[task])) > 2


def test_a_request_is_answered_and_measured_like_any_other(grown: Path) -> None:
    recommender = recsys.load(grown)
    one, two = recommender.recommend(["1", "2"], k=5), recommender.recommend(["2"], k=5)
    assert one[one.user == "2"].item.tolist() == two.item.tolist()
    assert len(one) == 10
    result = evaluate_run(grown, "all")
    assert all(0 <= result["ranking"][task]["auc"] <= 1 for task in nonempty(result["ranking"]))
    assert 0 <= result["funnel"]["ndcg@10" if "ndcg@10" in result["funnel"] else "ndcg@5"] <= 1


def test_the_report_says_what_the_trees_read(grown: Path) -> None:
    told = open_run(grown).read_lines("ranking/history.jsonl")[-1]["trees"]
    gain = told[SELECT]["gain"]
    assert told[SELECT]["trees"] >= 1
    assert sum(gain.values()) <= 1 + 1e-9
    assert {"retriever"} & set(gain) or any(name.startswith("opinion") for name in gain)


def test_a_share_of_zero_is_the_network_and_of_one_the_trees(tiny_run: TinyRun, tmp_path: Path) -> None:
    path = train_run(settings_for(tiny_run, *BESIDE), tmp_path / "run", base=tiny_run.world)
    run = load_run(open_run(path), with_index=False)
    assert isinstance(run.ranker, MixedRanker)
    rows = run.dataset.rows("test")[:50]
    apart = score_rows(run.ranker.network, run.dataset, rows), score_rows(run.ranker.forest, run.dataset, rows)
    for share in (0.0, 1.0, 0.25):
        run.ranker.shares.update(dict.fromkeys(run.ranker.shares, share))
        mixed = score_rows(run.ranker, run.dataset, rows)
        for task in nonempty(apart[1]):
            expected = (1 - share) * apart[0][task] + share * apart[1][task]
            np.testing.assert_allclose(mixed[task], expected, rtol=1e-5, atol=1e-6)


def planted(shop: Shop, seed: int = 0) -> I64:
    """Click where the tab is home and the hour late, or neither: no sum of the two tells."""
    hours, tabs = shop.events["hour"].to_numpy(), shop.events["tab"].to_numpy()
    return ((hours > 11) ^ (tabs == "home")).astype(int)


def test_trees_find_what_two_columns_say_together(shop: Shop) -> None:
    events = shop.events.assign(click=planted(shop))
    dataset = shop.dataset(events=events)
    config = RankingConfig(model=TreesConfig(min_rows=5, leaves=8, columns=1.0))
    held = divided(dataset, config, None, 0)
    model, forest, history = grow(dataset, config, config.model, held, 0, 1)
    rows = dataset.rows("test")
    logits = score_rows(forest, dataset, rows)["click"]
    assert (auc(dataset.events.labels[rows.numpy(), 0].astype(float), logits.astype(float)) or 0) > 0.95
    assert model is forest
    assert history.records[0]["auc/click"] > 0.9
    again = grow(dataset, config, config.model, held, 0, 1)[1]
    np.testing.assert_array_equal(logits, score_rows(again, dataset, rows)["click"])


def test_labels_of_the_test_part_reach_no_tree(shop: Shop) -> None:
    found = []
    for flip in (False, True):
        late = shop.events["timestamp"] >= shop.CUTS[1]
        events = shop.events.assign(click=np.where(late & flip, 1 - shop.events["click"], shop.events["click"]))
        dataset = shop.dataset(events=events)
        config = RankingConfig(model=TreesConfig(min_rows=5, leaves=4))
        forest = grow(dataset, config, config.model, divided(dataset, config, None, 0), 0, 1)[1]
        found.append(forest.texts()["00.txt"])
    assert found[0] == found[1]


def test_a_forest_that_has_not_grown_keeps_the_order_of_the_retriever(toy: Toy) -> None:
    tasks = [TaskSpec(name="click")]
    forest = RequestForest(Forest(TreeSettings(), toy.layout, tasks), 2, SelectConfig())
    batch = toy.requests(candidates=4, queries=1)
    prior = torch.tensor([-3.0, -1.0, -2.0, PADDED])
    told = forest(RequestBatch(batch, torch.zeros(4, 2), prior, torch.zeros(4, dtype=torch.bool)))
    assert told[SELECT].argsort(descending=True).tolist() == [1, 2, 0, 3]
    assert told["click"].tolist() == [0.0] * 4


def test_trees_of_several_seeds_answer_with_their_mean(tiny_run: TinyRun) -> None:
    trained = load_run(open_run(tiny_run.folder), with_index=False)
    config = trained.config.ranking.model_copy(update={"model": TreesConfig()})
    model, ranker = build_members(config, trained.dataset.layout, trained.dataset.config.tasks, 0, 0, 2)
    rows = trained.dataset.rows("test")[:4]
    assert all((values == 0).all() for values in nonempty(list(score_rows(ranker, trained.dataset, rows).values())))
    assert model is ranker


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ((*ALONE, "ranking.trees.enabled=true"), "are trees already"),
        ((*BESIDE, 'final.rows="valid"'), "no part in a last fit"),
        ((*ALONE, "ranking.distil.share=0.5"), "not from teachers"),
    ],
)
def test_what_trees_cannot_do_is_refused_before_the_towers_learn(
    tiny_run: TinyRun, tmp_path: Path, keys: tuple[str, ...], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(tiny_run.config_file, ["runtime.threads=1", *keys])
    with pytest.raises(ConfigError, match=sentence):
        train_run(config, tmp_path / "run", base=tiny_run.world)
    assert "training the retriever" not in caplog.text


def test_without_lightgbm_one_sentence_says_what_to_install(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    config = load_config(tiny_run.config_file, list(ALONE)).ranking
    with pytest.raises(ConfigError, match=r"need the package LightGBM; run `pip install 'recsys-funnel\[trees\]'`"):
        check_trees(config, goes_on=False, last_fit=False)


def test_a_drawn_list_keeps_candidates_that_were_not_taken() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 900, (40, 300))
    rows[:, 280:] = -1
    taken = (random.random(rows.shape) < np.linspace(0.01, 0.9, 40)[:, None]) & (rows >= 0)
    nothing: Any = None
    asked = RequestSet(
        dataset=nothing,
        moment=int(Part.VALID),
        users=np.arange(40),
        rows=rows,
        features=np.zeros((*rows.shape, 1), dtype=np.float32),
        prior=np.broadcast_to(-np.arange(300, dtype=np.float32), rows.shape),
        taken=taken,
        wanted=taken.sum(1),
    )
    answered = np.flatnonzero(asked.answered)
    drawn = _drawn(asked, TreeSettings(candidates=100), np.random.default_rng(1))
    assert drawn.rows.shape[1] == 100
    assert (drawn.rows >= 0).all()
    expected = np.minimum(taken[answered].sum(1), 50)
    others = (~taken & (rows >= 0))[answered].sum(1)
    expected = np.maximum(expected, 100 - others)  # more where there is nothing else
    assert drawn.taken.sum(1).tolist() == expected.tolist()
    assert (np.diff(drawn.prior, axis=1) < 0).all()  # the retriever's order


def test_a_network_and_trees_share_the_listwise_task(grown: Path) -> None:
    run = load_run(open_run(grown), with_index=False)
    assert isinstance(run.model, RequestForest | RequestMixed)
    assert run.retriever is not None
    requests = select_requests(run.dataset, run.retriever, run.config).take(np.arange(3))
    told = request_logits(run.model, requests)
    assert np.isfinite(told[SELECT][requests.rows >= 0]).all()
