"""One planted fault of each kind is found, and named, by the evaluation of a run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.errors import DataError
from recsys.data.packed import Packed
from recsys.data.split import Part
from recsys.data.world.simulate import load_truth
from recsys.funnel.folder import load_run
from recsys.funnel.run import TrainedRun
from recsys.pipeline import evaluate as evaluation
from recsys.pipeline.evaluate import evaluate, evaluate_run
from recsys.pipeline.leaks import leak_findings, refuse_leaks
from recsys.pipeline.off_policy import off_policy_report
from recsys.pipeline.trace import Bench
from recsys.ranking.calibrate import Calibrator
from recsys.tests.support.tiny import TinyRun


@pytest.fixture
def run(tiny_run: TinyRun, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    return folder


@pytest.fixture
def stages(tiny_run: TinyRun) -> TrainedRun:
    return load_run(open_run(tiny_run.folder))


def planted(stages: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations see these stages instead of those of the folder."""
    monkeypatch.setattr(evaluation, "load_run", lambda run, with_index=True, device=None: stages)


def named(result: dict[str, Any]) -> set[str]:
    return {finding["name"] for finding in result["findings"]}


def test_a_sound_run_has_no_leak(stages: TrainedRun) -> None:
    assert leak_findings(stages.dataset) == []


def test_a_column_that_is_the_label_stops_the_evaluation_by_name(
    stages: TrainedRun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = stages.dataset
    place = dataset.sides["context"].categorical.index("position")
    spoilt = dataset.row_query.whole().categorical
    spoilt[:, place] = torch.from_numpy(dataset.events.labels[:, 0].astype(np.int64)) + 2
    row_query = Packed.of(dataclasses.replace(dataset.row_query.whole(), categorical=spoilt))
    planted(dataclasses.replace(stages, dataset=dataclasses.replace(dataset, row_query=row_query)), monkeypatch)
    with pytest.raises(DataError, match=r"leakage: .*'position'.*'click'"):
        evaluate_run(run)


def test_counts_fitted_on_test_rows_are_named(stages: TrainedRun) -> None:
    dataset = stages.dataset
    table = dataset.counts[0]
    fuller = dataclasses.replace(table, seen=table.seen + 1)
    spoilt = dataclasses.replace(dataset, counts=(fuller, *dataset.counts[1:]))
    with pytest.raises(DataError, match=table.spec.name):
        refuse_leaks(spoilt)


def test_a_user_known_from_test_rows_only_is_named(stages: TrainedRun) -> None:
    dataset = stages.dataset
    train = np.unique(dataset.events.users[dataset.events.parts == Part.TRAIN])
    stranger = np.setdiff1d(np.arange(dataset.num_users), train)
    users = dataset.users.whole().categorical
    column = dataset.sides["user"].categorical.index("user_id")
    parts = dataset.events.parts.copy()
    if not len(stranger):  # make one: their training rows move to the test part
        parts[dataset.events.users == 0] = Part.TEST
        stranger = np.array([0])
    users[stranger[0], column] = 5
    table = Packed.of(dataclasses.replace(dataset.users.whole(), categorical=users))
    spoilt = dataclasses.replace(dataset, users=table, events=dataclasses.replace(dataset.events, parts=parts))
    sentences = " ".join(finding.sentence for finding in leak_findings(spoilt))
    assert "vocabulary user_id was fitted on" in sentences


def test_a_history_that_reaches_past_its_row_is_time_travel(stages: TrainedRun) -> None:
    dataset = stages.dataset
    name = next(iter(dataset.sequences))
    later = dataset.sequences[name].ptr[1:][dataset.events.users]
    spoilt = dataclasses.replace(dataset, sequence_ends={**dataset.sequence_ends, name: later})
    with pytest.raises(DataError, match="histories"):
        refuse_leaks(spoilt)


def test_shuffled_ids_in_the_index_are_named(stages: TrainedRun, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = stages.retriever
    assert retriever is not None
    assert retriever.index is not None
    mixed = np.random.default_rng(0).permutation(len(retriever.item_vectors))
    retriever.index.upsert(np.arange(len(mixed)), retriever.item_vectors[mixed])
    planted(stages, monkeypatch)
    assert "shuffled_ids" in named(evaluate_run(run, "retrieval"))


def test_an_index_of_another_metric_is_named(stages: TrainedRun, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = stages.retriever
    assert retriever is not None
    assert retriever.index is not None
    unit = retriever.item_vectors / np.linalg.norm(retriever.item_vectors, axis=1, keepdims=True)
    search = retriever.index.search

    def by_cosine(queries: np.ndarray, k: int, *rest: Any) -> Any:
        found = search(queries, k, *rest)
        length = np.linalg.norm(queries, axis=1, keepdims=True)
        similarity = queries @ unit.T
        rows = np.argsort(-similarity, axis=1)[:, :k]
        return dataclasses.replace(found, rows=rows, scores=np.take_along_axis(similarity, rows, 1) / length)

    monkeypatch.setattr(retriever.index, "search", by_cosine)
    planted(stages, monkeypatch)
    assert "wrong_metric" in named(evaluate_run(run, "retrieval"))


def test_a_miscalibrated_task_is_named(stages: TrainedRun, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(dataclasses.replace(stages, calibrators={"click": Calibrator(1.0, 2.0)}), monkeypatch)
    result = evaluate_run(run, "ranking")
    sentences = [f["sentence"] for f in result["findings"] if f["name"] == "miscalibrated"]
    assert any("'click'" in sentence for sentence in sentences)


def test_a_filter_that_drops_what_users_want_is_named(
    stages: TrainedRun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(stages, Part.TEST, 80)
    trace = bench.trace
    assert trace.candidates is not None
    wanted = np.zeros(stages.dataset.num_catalogue, dtype=bool)
    wanted[trace.truth.items] = True
    hidden = np.where(wanted[np.maximum(trace.candidates, 0)], -1, trace.candidates)
    spoilt = dataclasses.replace(trace, candidates=hidden, filters=True)
    monkeypatch.setattr(Bench, "trace", spoilt)
    assert "filters_drop_relevant" in named(evaluate_run(run, "funnel"))


def test_off_policy_estimates_stand_near_the_truth(stages: TrainedRun, tiny_world: Path) -> None:
    bench = Bench(stages, Part.TEST, 10)
    found = off_policy_report(bench, "click")
    assert 0.5 < found["mean_weight"] < 1.5
    assert found["effective_sample_size"] > 20
    truth = load_truth(tiny_world)
    # No policy earns more than the best item in the first slot, or less than the worst in the last.
    assert truth.p_click.min() * truth.examination[-1] <= found["dr"] <= truth.p_click.max()
    assert found["dr_ci"][0] <= found["snips_ci"][1]
    assert found["snips_ci"][0] <= found["dr_ci"][1]


def test_rows_that_were_not_drawn_are_left_out_of_off_policy_estimates(stages: TrainedRun) -> None:
    events, test = stages.dataset.events, stages.dataset.rows(Part.TEST).numpy()
    assert events.propensities is not None
    drawn = events.propensities.copy()
    drawn[test[::3]] = np.nan
    some = dataclasses.replace(events, propensities=drawn)
    dataset = dataclasses.replace(stages.dataset, events=some)
    found = off_policy_report(Bench(dataclasses.replace(stages, dataset=dataset), Part.TEST, 10), "click")
    kept = test[np.isfinite(drawn[test])]
    assert (found["rows"], found["without_propensity"]) == (len(kept), len(test[::3]))
    assert found["logged"] == pytest.approx(events.labels[kept, 0].mean())
    drawn[test] = np.nan
    assert "off_policy" not in evaluate(dataclasses.replace(stages, dataset=dataset), "funnel").result


def test_off_policy_without_propensities_is_refused(stages: TrainedRun) -> None:
    events = dataclasses.replace(stages.dataset.events, propensities=None)
    without = dataclasses.replace(stages, dataset=dataclasses.replace(stages.dataset, events=events))
    with pytest.raises(DataError, match=r"set data\.propensity"):
        off_policy_report(Bench(without, Part.TEST, 10), "click")


@pytest.mark.parametrize("rows", [8, 10, 14])
def test_a_log_of_a_few_rows_is_measured_and_not_taken_for_a_leak(rows: int) -> None:
    """A few rows of two labels are ordered perfectly by many a column; that proves nothing."""
    rng = np.random.default_rng({8: 0, 10: 1, 14: 2}[rows])
    table = pd.DataFrame(
        {
            "user_id": rng.integers(0, 4, rows),
            "item_id": rng.integers(0, 5, rows),
            "timestamp": 1_700_000_000 + np.arange(rows) * 3600,
            "click": rng.integers(0, 2, rows),
        }
    )
    assert "leaking_column" not in {one["name"] for one in recsys.train(table).evaluate("ranking")["findings"]}
