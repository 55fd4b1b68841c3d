"""Without FAISS everything works and searches exactly; without `implicit` its baselines fail before the training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.artifacts.names import INDEX_REPORT
from recsys.base.errors import ConfigError
from recsys.base.package import install_hint
from recsys.pipeline.evaluate import evaluate_run
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.retrieval.towers import negatives
from recsys.tests.support.tiny import TinyRun

USERS = ["1", "2", "3"]
INSTALL = install_hint("cpu")


@pytest.fixture
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now fails


@pytest.fixture
def copied(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """The tiny run, whose index is one of FAISS."""
    return Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))


def test_a_run_is_trained_indexed_evaluated_and_asked_without_faiss(
    no_faiss: None, tiny_run: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_run(tiny_run.config("retrieval.fit.epochs=1"), tmp_path / "run", base=tiny_run.world)
    report = build_run_index(run)
    assert (report.factory, report.ann_recall) == ("Exact", 1.0)
    assert [record.message for record in caplog.records if INSTALL in record.message] == [
        f"FAISS is not installed, so each search scores all 80 items exactly; for a large catalogue run {INSTALL}"
    ]
    assert evaluate_run(run, "all")["index"]["factory"] == "Exact"
    assert [len(answer["items"]) for answer in recsys.load(run).funnel.recommend(USERS, 5).to_json()] == [5, 5, 5]


def test_a_family_of_faiss_is_refused_and_the_run_stays_as_it_was(no_faiss: None, copied: Path) -> None:
    before = open_run(copied).read_json(INDEX_REPORT)
    with pytest.raises(ConfigError, match=r"FAISS cannot be imported .* or search exactly with") as refusal:
        build_run_index(copied, factory="HNSW16")
    assert INSTALL in str(refusal.value)
    assert open_run(copied).read_json(INDEX_REPORT) == before


def test_a_run_with_a_faiss_index_answers_the_same_without_faiss(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    indexed = recsys.load(copied).funnel.recommend(USERS, 5).to_json()
    assert INSTALL not in caplog.text
    monkeypatch.setitem(sys.modules, "faiss", None)
    exact = recsys.load(copied).funnel.recommend(USERS, 5).to_json()
    assert [[item["item"] for item in answer["items"]] for answer in exact] == [
        [item["item"] for item in answer["items"]] for answer in indexed
    ]
    assert "the index is of FAISS (Flat), which is not installed" in caplog.text
    assert INSTALL in caplog.text


def test_hard_negatives_of_a_large_catalogue_are_searched_exactly(
    no_faiss: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negatives, "EXACT_ITEMS", 10)
    items, queries = torch.randn(50, 8), torch.randn(4, 8)
    hard = negatives.HardNegatives(count=3)
    hard.refresh(items)
    mined = hard.mine(queries, torch.full((4, 1), -1))
    assert mined.tolist() == (queries @ items.T).topk(3).indices.tolist()


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_a_baseline_without_its_package_fails_before_the_towers_learn(
    name: str, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    caplog.set_level("INFO")
    config = tiny_run.config(f'retrieval.baselines=["popularity", "{name}"]')
    with pytest.raises(ConfigError, match=f"the {name} baseline needs the package 'implicit'") as refusal:
        train_run(config, tmp_path / "run", base=tiny_run.world)
    assert install_hint("bench") in str(refusal.value)
    assert "training the retriever" not in caplog.text  # what each epoch of the towers logs
