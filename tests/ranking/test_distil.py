"""Teachers: what they predict enters training labels in the stated share and nothing else, and students learn of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.data.dataset import Dataset
from recsys.data.schema import TaskSpec
from recsys.data.split import Part
from recsys.evaluation.metrics.rows import logloss
from recsys.funnel.folder import load_run
from recsys.ranking.config import RankingConfig
from recsys.ranking.distil import taught
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import train_ranker
from recsys.ranking.trees.settings import BesideConfig
from recsys.ranking.trees.teach import out_of_fold
from recsys.tests.support.tiny import TinyRun
from recsys.training.runtime import Runtime

RUNTIME = Runtime(1)


@pytest.fixture(scope="module")
def dataset(tiny_run: TinyRun) -> Dataset:
    return load_run(open_run(tiny_run.folder), with_index=False).dataset


def predictions(dataset: Dataset, values: float) -> dict[str, np.ndarray]:
    rows = len(dataset.rows(Part.TRAIN))
    return {name: np.full(rows, values, dtype=np.float32) for name in dataset.task_names}


def ranking(kind: str = "shared_bottom", epochs: int = 2, **distil: Any) -> RankingConfig:
    table = {
        "model": {"kind": kind, "input": {"embedding_dim": 4}, "tower_hidden": [8]},
        "batch_size": 256,
        "optim": {"lr": 5e-3, "warmup_steps": 5},
        "fit": {"epochs": epochs, "metric": ""},
        "calibration": {"kind": "none"},
        "distil": distil,
    }
    return RankingConfig.model_validate(table)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_training_labels_are_mixed_in_the_stated_share_and_no_others(dataset: Dataset, share: float) -> None:
    teachers = [predictions(dataset, logit) for logit in (-3.0, 1.0)]
    rows = dataset.rows(Part.TRAIN).numpy()
    before, after = dataset.events.labels, taught(dataset, torch.from_numpy(rows), teachers, share).events.labels
    said = 1 / (1 + np.exp(1.0))  # the mean of the logits is -1
    np.testing.assert_allclose(after[rows], (1 - share) * before[rows] + share * said, rtol=1e-5)
    others = np.setdiff1d(np.arange(len(before)), rows)
    assert len(others)
    np.testing.assert_array_equal(after[others], before[others])


def test_a_number_that_is_learned_as_its_logarithm_is_mixed_as_itself(dataset: Dataset) -> None:
    task = TaskSpec(name="seconds", column="seconds", kind="regression", log1p=True)
    events = replace(dataset.events, labels=np.full((len(dataset.events), 1), 8.0, dtype=np.float32))
    numbers = replace(dataset, events=events, config=dataset.config.model_copy(update={"tasks": (task,)}))
    rows = numbers.rows(Part.TRAIN)
    said = {"seconds": np.full(len(rows), np.log1p(4.0))}
    found = taught(numbers, rows, [said], 0.5).events.labels[rows.numpy(), 0]
    np.testing.assert_allclose(found, 6.0, rtol=1e-6)


def test_a_student_of_good_teachers_predicts_better_than_from_noisy_labels_alone(dataset: Dataset) -> None:
    """Labels are drawn from known probabilities; the teachers know these, the student meets them in training only."""
    rng = np.random.default_rng(5)
    rows, valid = dataset.rows(Part.TRAIN), dataset.rows(Part.VALID)
    truth = rng.normal(size=dataset.num_catalogue)[dataset.events.items]  # a logit per item
    drawn = (rng.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    events = replace(dataset.events, labels=np.stack([drawn, drawn], 1), mask=np.ones((len(truth), 2), bool))
    noisy = replace(dataset, events=events)
    said = dict.fromkeys(dataset.task_names, truth[rows.numpy()])
    probability = 1 / (1 + np.exp(-truth[valid.numpy()]))

    def error(data: Dataset) -> float:
        ranker = train_ranker(data, ranking(epochs=3), RUNTIME, 1).ranker
        found = 1 / (1 + np.exp(-score_rows(ranker, noisy, valid)["click"].astype(np.float64)))
        return float(np.mean((found - probability) ** 2))

    assert error(taught(noisy, rows, [said], 0.5)) < 0.9 * error(noisy)


def test_a_share_trains_teachers_and_changes_the_student(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    plain, own = (train_ranker(dataset, ranking(), RUNTIME, seed).ranker for seed in (1, 1))
    rows = dataset.rows(Part.VALID)
    with caplog.at_level("INFO"):
        student = train_ranker(dataset, ranking(share=0.5, teachers=2, hidden=[8]), RUNTIME, 1).ranker
    assert [record.message for record in caplog.records if "teacher" in record.message] == [
        "teacher 1 of 2: a network for every task alone",
        "teacher 2 of 2: a network for every task alone",
    ]
    logits = [score_rows(ranker, dataset, rows)["click"] for ranker in (plain, own, student)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])
    labels = dataset.events.labels[rows.numpy(), 0].astype(np.float64)
    assert logloss(labels, 1 / (1 + np.exp(-logits[2].astype(np.float64)))) < np.log(2)


def test_trees_teach_rows_that_they_did_not_grow_on(dataset: Dataset) -> None:
    """What a row's own label is never reaches what is said of it, and reaches what is said of others."""
    config = ranking(share=0.9, by="trees").model_copy(update={"trees": BesideConfig(rounds=5, min_rows=5)})
    rows = dataset.rows(Part.TRAIN).numpy()
    said = out_of_fold(dataset, config, 0, 1)["click"]
    labels = dataset.events.labels.copy()
    column = dataset.task_names.index("click")
    labels[rows[0], column] = 1 - labels[rows[0], column]
    other = replace(dataset, events=replace(dataset.events, labels=labels))
    changed = out_of_fold(other, config, 0, 1)["click"]
    assert changed[0] == said[0]
    assert (changed != said).any()


def test_trees_that_teach_make_a_student_of_their_opinion(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    settings = BesideConfig(rounds=20, min_rows=5)
    config = ranking(epochs=4, share=0.9, by="trees", teachers=1).model_copy(update={"trees": settings})
    alone = ranking(epochs=4)
    with caplog.at_level("INFO"):
        student, plain = (train_ranker(dataset, one, RUNTIME, 1).ranker for one in (config, alone))
    assert "teachers: boosted trees, 1 times 5 folds" in caplog.messages
    rows = dataset.rows(Part.TRAIN)
    trees = torch.sigmoid(torch.from_numpy(out_of_fold(dataset, config, 1, 1)["click"]))
    said = (torch.sigmoid(torch.from_numpy(score_rows(one, dataset, rows)["click"])) for one in (student, plain))
    near, far = (float((one - trees).square().mean()) for one in said)
    assert near < 0.5 * far
