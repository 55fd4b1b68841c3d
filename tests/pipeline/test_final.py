"""The last fit: more rows, the chosen epochs, nothing judged that was learned from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys
from recsys.base.errors import ConfigError, RunError
from recsys.cli.main import main
from recsys.data.dataset import NOW
from recsys.data.split import Part
from recsys.pipeline.auto import auto
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.final import settled_final
from recsys.pipeline.start import Start
from recsys.pipeline.train import train_retriever
from recsys.recommender import Recommender
from recsys.retrieval.towers.adjustment import Adjustment
from recsys.retrieval.towers.horizon import events_ahead
from recsys.tests.support.tiny import TINY, TinyRun
from recsys.training.runtime import runtime_session


@pytest.fixture(scope="module")
def everything(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("final") / "run"
    given = [option for setting in TINY for option in ("--set", setting)]
    assert main(["train", str(tiny_run.config_file), "--run", str(folder), "--final", *given]) == 0
    return recsys.load(folder)


@pytest.fixture(scope="module")
def without_test(tiny_run: TinyRun) -> Recommender:
    return recsys.train(config=tiny_run.config_file, settings=[*TINY, 'final.rows="valid"'])


def test_every_row_is_learned_from_and_histories_and_counts_end_with_the_log(
    everything: Recommender, tiny_run: TinyRun
) -> None:
    chosen, final = recsys.load(tiny_run.folder).trained.dataset, everything.trained.dataset
    assert (chosen.events.parts > Part.TRAIN).any()
    assert (final.events.parts == Part.TRAIN).all()
    assert len(final.events) == len(chosen.events)
    item_counts = {table.spec.name: table for table in final.counts}["item_id"]
    known = final.key_codes["item_id"][final.events.items] >= 2
    assert item_counts.seen.sum() == known.sum()
    popularity = everything.funnel.retriever.companions["popularity"]
    clicks = int((final.events.labels[:, 0] > 0).sum())
    assert popularity.state()["counts"].sum() == clicks


def test_towers_are_trained_again_and_the_chosen_rankers_verdicts_are_kept(
    everything: Recommender, tiny_run: TinyRun
) -> None:
    before, after = recsys.load(tiny_run.folder), everything
    assert before.trained.model is not None
    assert after.trained.model is not None
    old, new = before.trained.model.state_dict(), after.trained.model.state_dict()
    dense = [name for name in old if "table" not in name]
    assert len(dense) > 5
    assert all(np.array_equal(old[name].numpy(), new[name].numpy()) for name in dense)
    assert after.trained.calibrators.keys() == before.trained.calibrators.keys()
    for task, calibrator in before.trained.calibrators.items():
        for key, values in calibrator.to_arrays().items():
            assert np.array_equal(after.trained.calibrators[task].to_arrays()[key], values)
    users = np.arange(20)
    assert not np.allclose(
        before.funnel.retriever.queries(users, NOW), after.funnel.retriever.queries(users, NOW), atol=1e-3
    )


def test_what_was_learned_from_is_not_judged_and_the_chosen_runs_figures_are_kept(
    everything: Recommender, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert everything.folder is not None
    kept = json.loads((everything.folder / "final.json").read_text())
    assert kept["rows"] == "all"
    assert kept["epochs"].keys() == {"retrieval", "ranking"}
    chosen = recsys.load(tiny_run.folder).trained
    assert chosen.retriever is not None
    figures = evaluate(replace(chosen, retriever=chosen.retriever.searching(None))).result["funnel"]
    assert kept["chosen"]["funnel"]["ndcg@5"] == pytest.approx(figures["ndcg@5"], abs=1e-9)
    with pytest.raises(RunError, match=r"the last fit learned from every row.*final\.json keeps.*ndcg@5"):
        everything.evaluate()
    assert main(["evaluate", "--run", str(everything.folder)]) == 1
    assert "the last fit learned from every row" in capsys.readouterr().err


def test_a_last_fit_without_the_test_rows_is_judged_on_them(without_test: Recommender, tiny_run: TinyRun) -> None:
    data = without_test.trained.dataset
    assert set(np.unique(data.events.parts)) == {Part.TRAIN, Part.TEST}
    before = recsys.load(tiny_run.folder).trained.dataset
    assert (data.events.parts == Part.TEST).sum() == (before.events.parts == Part.TEST).sum()
    result = evaluate(without_test.trained).result
    assert 0 < result["funnel"]["ndcg@5"] < 1
    assert result["protocol"]["users"] > 10
    assert result["protocol"]["last_fit"] == "valid"


def test_a_ranker_alone_is_trained_again_on_everything(tiny_run: TinyRun) -> None:
    short = ["retrieval.fit.epochs=1", "ranking.fit.epochs=1", "retrieval.scorers=[]"]
    alone = [*TINY, *short, "ranking.select.enabled=false", 'final.rows="all"']
    final = recsys.train(config=tiny_run.config_file, settings=alone).trained
    chosen = recsys.train(config=tiny_run.config_file, settings=alone[:-1]).trained
    assert final.final is not None
    assert final.final["ranker"] == "trained again"
    assert final.model is not None
    assert chosen.model is not None
    old, new = chosen.model.state_dict(), final.model.state_dict()
    assert any(not np.array_equal(old[name].numpy(), new[name].numpy()) for name in old if "towers" in name)
    assert final.calibrators.keys() == {"click", "conversion"}


def test_a_last_fit_that_would_not_be_one_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = [*TINY, 'final.rows="all"']
    with pytest.raises(ConfigError, match="a last fit is of both stages; leave --stage retrieval out"):
        recsys.train(config=tiny_run.config_file, settings=settings, run=tmp_path / "run", stage="retrieval")
    with pytest.raises(ConfigError, match="a last fit begins anew and --from goes on"):
        recsys.train(config=tiny_run.config_file, settings=settings, source=tiny_run.folder)
    assert not (tmp_path / "run").exists()


AUTO = 'final.rows="auto"'


@pytest.mark.parametrize(
    ("settings", "training", "rows"),
    [
        ([], {}, "valid"),
        (['data.split.kind="leave_last"'], {}, "valid"),
        ([], {"stage": "retrieval"}, "none"),
        ([], {"goes_on": True}, "none"),
        ([], {"built": True}, "none"),
        (["ranking.trees.enabled=true"], {}, "none"),
        (["ranking.distil.share=0.5", 'ranking.distil.by="trees"'], {}, "valid"),
    ],
)
def test_auto_asks_for_nothing_that_is_refused(
    tiny_run: TinyRun, settings: list[str], training: dict[str, Any], rows: str
) -> None:
    settled = settled_final(tiny_run.config(AUTO, *settings), **{"stage": "all", "goes_on": False, **training})
    assert settled.final.rows == rows
    assert settled == tiny_run.config(f'final.rows="{rows}"', *settings)


def test_auto_is_the_last_fit_that_it_stands_for(tiny_run: TinyRun) -> None:
    short = [*TINY, "retrieval.fit.epochs=1", "ranking.fit.epochs=1"]
    found, named = (
        recsys.train(config=tiny_run.config_file, settings=[*short, f'final.rows="{rows}"']).trained
        for rows in ("auto", "valid")
    )
    assert found.final is not None
    assert found.final == named.final
    assert set(np.unique(found.dataset.events.parts)) == {Part.TRAIN, Part.TEST}
    assert found.config == named.config


def test_the_best_of_a_short_list_has_its_last_fit(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run.config("retrieval.fit.epochs=1", "ranking.fit.epochs=1", 'final.rows="valid"')
    with pytest.raises(ConfigError, match="a last fit is of both stages"):
        auto(config, 0, tmp_path / "run", base=tiny_run.world, stage="retrieval")
    auto(config, 0, tmp_path / "run", base=tiny_run.world)
    found = recsys.load(tmp_path / "run").trained
    assert found.final is not None
    assert found.final["rows"] == "valid"
    assert set(np.unique(found.dataset.events.parts)) == {Part.TRAIN, Part.TEST}


def test_a_last_fit_takes_what_validation_chose(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Popularity that is added and how far ahead the towers look: neither is measured on rows that are learned now."""
    added: list[Adjustment] = []
    looked: list[int] = []
    found = Adjustment(0.5, 3.0, 8.0)

    def ahead(users: int, length: int, horizon: int, generator: torch.Generator) -> torch.Tensor:
        looked.append(horizon)
        return events_ahead(users, length, horizon, generator)

    monkeypatch.setattr("recsys.pipeline.train.chosen_adjustment", lambda *_: found)
    monkeypatch.setattr("recsys.pipeline.train.adjust", lambda model, data, by, rank: added.append(by))
    monkeypatch.setattr("recsys.retrieval.towers.step.events_ahead", ahead)
    auto = ['retrieval.logit_adjustment="auto"', 'retrieval.horizon="auto"']
    trained = recsys.train(config=tiny_run.config_file, settings=[*TINY, *auto, 'final.rows="valid"']).trained
    assert added == [found, found]
    record = trained.training["retrieval"][-1]
    assert Adjustment.of_record(record) == found
    assert record["horizon"] > 1
    assert set(looked) == {record["horizon"]}
    monkeypatch.setattr("recsys.pipeline.train.chosen_adjustment", lambda *_: pytest.fail("chosen a second time"))
    added.clear()
    plain = trained.config.model_copy(update={"final": trained.config.final.model_copy(update={"rows": "none"})})
    start = Start.of(None, plain, "all")
    with runtime_session(plain.runtime, plain.seed) as runtime:
        train_retriever(trained.dataset, plain, runtime, start, epochs=(1,), adjustment=Adjustment(0.25))
    assert added == [Adjustment(0.25)]
