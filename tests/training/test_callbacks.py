"""Who looks on at a training sees it as it is, and changes nothing."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import recsys
from recsys.base.errors import ConfigError, RecsysError
from recsys.tests.support.tiny import TinyRun
from recsys.training.callbacks import Callback, Started
from recsys.training.log import TrainingLog
from recsys.training.tracking import trackers

SHORT = ("retrieval.fit.epochs=2", "ranking.fit.epochs=1")


class Witness(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_start(self, training: Started) -> None:
        self.seen.append(("start", training))

    def on_step(self, step: int, terms: Mapping[str, Tensor]) -> None:
        self.seen.append(("step", (step, set(terms))))

    def on_epoch(self, record: Mapping[str, float]) -> None:
        self.seen.append(("epoch", dict(record)))

    def on_end(self, history: TrainingLog) -> None:
        self.seen.append(("end", history))


@pytest.fixture(scope="module")
def watched(tiny_run: TinyRun) -> tuple[Witness, recsys.Recommender, recsys.Recommender]:
    """A training that somebody watched, and the same unwatched."""
    witness = Witness()
    config = tiny_run.config(*SHORT)
    tables = {"events": str(tiny_run.world / "events.csv")}
    found = [
        recsys.train(
            tables["events"],
            items=tiny_run.world / "items.csv",
            users=tiny_run.world / "users.csv",
            config=config,
            callbacks=callbacks,
        )
        for callbacks in ((witness,), ())
    ]
    return witness, found[0], found[1]


def test_a_callback_hears_of_both_stages_in_order(
    watched: tuple[Witness, recsys.Recommender, recsys.Recommender],
) -> None:
    seen = watched[0].seen
    starts = [told for kind, told in seen if kind == "start"]
    assert [(start.stage, start.epochs) for start in starts] == [("retrieval", 2), ("ranking", 1)]
    assert starts[0].metric == "ndcg@10"
    assert [kind for kind, _ in seen if kind != "step"] == ["start", "epoch", "epoch", "end", "start", "epoch", "end"]
    steps = [told[0] for kind, told in seen if kind == "step"]
    first = starts[0].epochs * starts[0].steps
    assert steps[:first] == list(range(1, first + 1))
    assert all("loss" in told[1] for kind, told in seen if kind == "step")


def test_what_it_hears_is_what_the_history_keeps(
    watched: tuple[Witness, recsys.Recommender, recsys.Recommender],
) -> None:
    witness, recommender, _ = watched
    told = [record for kind, record in witness.seen if kind == "epoch"]
    kept = [*recommender.trained.training["retrieval"], *recommender.trained.training["ranking"]]
    for record, epoch in zip(told, kept, strict=True):
        assert {name: epoch[name] for name in record} == record
    assert any("select_loss" in record for record in told)


def test_a_watched_training_learns_the_same(watched: tuple[Witness, recsys.Recommender, recsys.Recommender]) -> None:
    _, first, second = watched
    assert first.trained.retriever is not None
    assert second.trained.retriever is not None
    np.testing.assert_array_equal(first.trained.retriever.item_vectors, second.trained.retriever.item_vectors)


def test_what_a_callback_raises_ends_the_training(tiny_run: TinyRun, tmp_path: Path) -> None:
    from recsys.pipeline.publish import train_run

    class Enough(Callback):
        def on_epoch(self, record: Mapping[str, float]) -> None:
            raise RecsysError("enough")

    with pytest.raises(RecsysError, match="enough"):
        train_run(tiny_run.config(*SHORT), tmp_path / "run", base=tiny_run.world, callbacks=[Enough()])
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (writer,) = trackers([f"tensorboard:{tmp_path}"], "shop", {"seed": 3})
    writer.on_start(Started("ranking", 1, 5, 0, "auc", True))
    writer.on_epoch({"epoch": 1, "steps": 5, "auc": 0.75, "loss": 0.5})
    writer.on_end(TrainingLog())
    events = EventAccumulator(str(tmp_path / "shop"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"ranking/auc", "ranking/loss"}
    assert [(event.step, event.value) for event in events.Scalars("ranking/auc")] == [(5, 0.75)]


class FakeClient:
    """The part of MLflow's client that is used."""

    calls: list[tuple[Any, ...]] = []

    def __init__(self, tracking_uri: str) -> None:
        self.calls.append(("at", tracking_uri))

    def get_experiment_by_name(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.calls.append(("run", experiment, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def log_param(self, run: str, key: str, value: str) -> None:
        self.calls.append(("param", key, value))

    def log_metric(self, run: str, key: str, value: float, step: int) -> None:
        self.calls.append(("metric", key, value, step))

    def set_terminated(self, run: str) -> None:
        self.calls.append(("end", run))


def test_mlflow_gets_parameters_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient.calls = []
    fake: Any = types.ModuleType("mlflow.tracking")
    fake.MlflowClient = FakeClient
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", fake)
    (writer,) = trackers(["mlflow:sqlite:///m.db"], "shop", {"seed": 3})
    writer.on_start(Started("retrieval", 1, 5, 0, "ndcg@10", True))
    writer.on_epoch({"epoch": 1, "steps": 5, "ndcg@10": 0.25, "loss": float("nan")})
    writer.on_end(TrainingLog())
    assert FakeClient.calls == [
        ("at", "sqlite:///m.db"),
        ("experiment", "recsys"),
        ("run", "7", "shop"),
        ("param", "seed", "3"),
        ("metric", "retrieval/ndcg_at_10", 0.25, 5),
        ("end", "r1"),
    ]


@pytest.mark.parametrize("entry", ["wandb:x", "tensorboard", "tensorboard:"])
def test_another_place_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="expected tensorboard:DIR or mlflow:URI"):
        trackers([entry], "shop", {})


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"needs MLflow; run `pip install 'recsys-funnel\[mlflow\]'`"):
        trackers(["mlflow:x"], "shop", {})
