"""Several seeds as one model: means of scores and logits, on disk and back, with everything that stands on a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.base.errors import ConfigError
from recsys.data.dataset import NOW
from recsys.pipeline.evaluate import evaluate
from recsys.ranking.requests import RequestRanker, request_batch
from recsys.recommender import Recommender
from recsys.retrieval.towers.ensemble import TowerEnsemble
from recsys.retrieval.towers.train import item_vectors, query_vectors
from recsys.tests.support.tiny import TINY, TinyRun

SHORT = [
    *TINY,
    "retrieval.fit.epochs=1",
    "ranking.fit.epochs=1",
    "retrieval.scorers=['popularity']",
    "retrieval.tower.similarity='cosine'",
]


@pytest.fixture(scope="module")
def both(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    settings = [*SHORT, "ensemble.seeds=2", 'final.rows="valid"']
    return recsys.train(config=tiny_run.config_file, settings=settings, run=folder)


def test_a_pairs_score_is_the_mean_of_the_towers_scores(both: Recommender) -> None:
    retriever = both.funnel.retriever
    ensemble, data, users = retriever.model, retriever.data, np.arange(30)
    assert isinstance(ensemble, TowerEnsemble)
    ends = data.ends(NOW)[users]
    each = []
    for member in ensemble.towers():
        with torch.no_grad():
            scale = float(member.scale)
        each.append(scale * query_vectors(member, data, users, ends) @ item_vectors(member, data).T)
    assert not np.allclose(each[0], each[1], atol=1e-2)
    found = query_vectors(ensemble, data, users, ends) @ retriever.item_vectors.T
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-4)
    assert retriever.item_vectors.shape[1] == sum(member.width for member in ensemble.towers())


def test_a_logit_is_the_mean_of_the_rankers_logits(both: Recommender) -> None:
    trained, users = both.trained, np.arange(8)
    model = trained.model
    assert isinstance(model, RequestRanker)
    found = both.funnel.retriever.candidates(users, NOW, 20)
    asked = request_batch(trained.dataset, NOW, users, found.rows, found.features, found.prior)
    with torch.no_grad():
        whole = model(asked)
        each = [member(asked) for member in model.members]  # type: ignore[union-attr]
        rows = trained.ranker(asked.batch) if trained.ranker is not None else {}
    assert len(each) == 2
    for name, logits in whole.items():
        assert not torch.allclose(each[0][name], each[1][name], atol=1e-3)
        torch.testing.assert_close(logits, (each[0][name] + each[1][name]) / 2)
    torch.testing.assert_close(rows["click"], whole["click"])


def test_the_run_answers_is_indexed_exported_and_judged_like_any_other(both: Recommender, tmp_path: Path) -> None:
    answers = both.recommend(["1", "2"], k=5)
    assert len(answers) == 10
    saved = recsys.load(both.save(tmp_path / "copy").folder)
    assert saved.recommend(["1", "2"], k=5).equals(answers)
    saved.build_index("Flat")
    assert set(saved.recommend(["1"], k=5)["item"]) == set(answers["item"][:5])
    assert saved.export_vectors(tmp_path / "vectors")["width"] == both.funnel.retriever.model.width
    assert both.explain("1", answers["item"][0])["because_of"]
    result = evaluate(both.trained).result
    assert 0 < result["funnel"]["ndcg@5"] < 1
    assert result["ranking"]["click"]["auc"] > 0.5


def test_what_cannot_be_one_model_is_refused(tiny_run: TinyRun) -> None:
    with pytest.raises(ConfigError, match="interests of several seeds have no common order"):
        recsys.train(config=tiny_run.config_file, settings=["ensemble.seeds=2", "retrieval.tower.interests=2"])
    with pytest.raises(ConfigError, match="an ensemble begins anew, and --from goes on from one model"):
        recsys.train(config=tiny_run.config_file, settings=["ensemble.seeds=2"], source=tiny_run.folder)
