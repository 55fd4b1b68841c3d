"""The Python door: tables in, frames out, and the process as it was."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from markupsafe import escape

import recsys
from recsys import ConfigError, Recommender, RunError
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def frames(tiny_world: Path) -> Frames:
    return {name: pd.read_csv(tiny_world / f"{name}.csv") for name in ("events", "users", "items")}


@pytest.fixture(scope="module")
def trained(frames: Frames) -> Recommender:
    """Trained on frames whose ids are numbers, the schema inferred."""
    return recsys.train(events=frames["events"], items=frames["items"], users=frames["users"], tasks=["click"])


def test_importing_the_package_loads_nothing_heavy_and_every_name_is_there() -> None:
    code = "import sys, recsys; print(sorted({'torch', 'pandas', 'numpy', 'faiss', 'pydantic'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
    assert {name for name in recsys.__all__ if getattr(recsys, name) is None} == set()
    assert set(recsys.__all__) <= set(dir(recsys))
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = recsys.trane  # type: ignore[attr-defined]


def test_recommendations_are_a_frame_with_ids_as_they_were_given(trained: Recommender, frames: Frames) -> None:
    users = frames["events"]["user_id"].unique()[:3].tolist()
    table = trained.recommend(users, k=5)
    assert list(table.columns) == [
        "user",
        "rank",
        "item",
        "score",
        *trained.trained.dataset.task_names,
        "select",
        "source",
    ]
    assert table["user"].tolist() == [user for user in users for _ in range(5)]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    assert table["item"].dtype == np.int64
    assert set(table["item"]) <= set(frames["items"]["item_id"])
    assert table.groupby("user")["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()
    as_text = trained.recommend([str(user) for user in users], k=5)
    assert as_text["user"].tolist() == [str(user) for user in users for _ in range(5)]
    pd.testing.assert_frame_equal(as_text.drop(columns="user"), table.drop(columns="user"))
    unknown = trained.recommend("nobody", k=4)
    assert unknown["source"].tolist() == ["popular"] * 4


def test_users_are_one_id_or_any_column_of_them(trained: Recommender, frames: Frames) -> None:
    column = frames["events"]["user_id"].head(3)
    expected = trained.recommend(column.tolist(), k=2)
    columns = [column, column.to_numpy(), column.astype("Int64"), column.astype("category"), pl.from_pandas(column)]
    for users in [*columns, pa.array(column), pa.chunked_array([pa.array(column)])]:
        assert trained.recommend(users, k=2)[["user", "item"]].astype("int64").equals(expected[["user", "item"]])
    for stranger in (uuid.UUID(int=1), 7.5, b"bytes"):
        assert trained.recommend(stranger, k=2)["user"].tolist() == [stranger] * 2
    for missing in (None, float("nan"), pd.NA, pd.NaT):
        with pytest.raises(ConfigError, match=r"id 2 of 2 is missing .*; leave such rows out"):
            trained.recommend([1, missing])
    with pytest.raises(ConfigError, match="a DataFrame was given as ids; give a column"):
        trained.recommend(frames["events"])
    with pytest.raises(ConfigError, match="catalogue"):
        trained.recommend(1, k=10**6)


def test_every_kind_of_table_gives_the_same_recommender(trained: Recommender, frames: Frames, tiny_world: Path) -> None:
    users = frames["events"]["user_id"].unique()[:5].tolist()
    expected = trained.recommend(users)
    kinds: dict[str, dict[str, Any]] = {
        "polars": {name: pl.from_pandas(frame) for name, frame in frames.items()},
        "arrow": {name: pa.Table.from_pandas(frame) for name, frame in frames.items()},
    }
    for tables in kinds.values():
        other = recsys.train(**tables, tasks=["click"], config=None)
        pd.testing.assert_frame_equal(other.recommend(users), expected)


def test_training_leaves_the_process_as_it_was(frames: Frames, tiny_run: TinyRun) -> None:
    torch.manual_seed(5)
    np.random.seed(6)  # noqa: NPY002 - the state that must survive
    random.seed(7)
    threads = torch.get_num_threads()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    config = tiny_run.config("runtime.threads=1")
    recsys.train(**frames, config=config)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == threads


def test_a_saved_recommender_is_the_same_when_loaded(trained: Recommender, frames: Frames, tmp_path: Path) -> None:
    users = frames["events"]["user_id"].unique()[:4].tolist()
    trained.save(tmp_path / "shop")
    loaded = recsys.load(tmp_path / "shop")
    pd.testing.assert_frame_equal(loaded.recommend(users), trained.recommend(users))
    assert loaded.config == trained.config
    report = loaded.evaluate()
    table = report.to_frame()
    assert {"retrieval", "ranking", "funnel"} <= set(table["section"])
    assert "ndcg@10" in set(table["metric"])
    assert report.to_html(tmp_path / "report.html").read_text().startswith("<!doctype html")
    loaded.build_index("Flat")
    pd.testing.assert_frame_equal(loaded.recommend(users)[["user", "item"]], trained.recommend(users)[["user", "item"]])
    again = loaded.save(tmp_path / "copy")
    assert recsys.load(tmp_path / "copy").trained.index_report is not None
    assert again.folder == tmp_path / "copy"
    with pytest.raises(RunError, match="there is no run"):
        recsys.load(tmp_path / "nowhere")


def test_scores_rank_and_reasons_speak_of_the_same_items(trained: Recommender, frames: Frames) -> None:
    user = int(frames["events"]["user_id"].iloc[0])
    candidates = [*frames["items"]["item_id"].tolist()[:8], 10**9]
    ranked = trained.rank(user, candidates)
    assert ranked["rank"].tolist() == list(range(1, 10))
    assert ranked["score"].iloc[:8].is_monotonic_decreasing
    assert ranked["item"].iloc[-1] == 10**9
    assert np.isnan(ranked["score"].iloc[-1])
    scored = trained.score([user] * 9, candidates).set_index("item")["score"]
    pd.testing.assert_series_equal(ranked.set_index("item")["score"].sort_index(), scored.sort_index())
    listed = trained.recommend(user, k=5)
    for row in nonempty(listed.itertuples()):
        why = trained.explain(user, row.item)
        assert (why["rank"], why["score"]) == (row.rank, pytest.approx(row.score, rel=1e-4))
        assert why["tasks"]["click"] == pytest.approx(row.click, rel=1e-4)
    why = trained.explain(user, candidates[0])
    assert why["item"] == candidates[0]
    assert {reason["item"] for reason in why["because_of"]} <= set(frames["events"]["item_id"].astype(str))
    with pytest.raises(ConfigError, match="knows no user"):
        trained.rank("nobody", candidates)
    with pytest.raises(ConfigError, match="one item per user"):
        trained.score([user], candidates)


def test_wrong_arguments_are_named(frames: Frames, tiny_run: TinyRun) -> None:
    with pytest.raises(ConfigError, match="give events="):
        recsys.train()
    with pytest.raises(ConfigError, match="tasks= is for a schema that is inferred"):
        recsys.train(events=frames["events"], config=tiny_run.config(), tasks=["click"])
    with pytest.raises(ConfigError, match="name it with run="):
        recsys.train(events=frames["events"], resume=True)


def test_how_the_schema_was_inferred_stays_with_the_run(frames: Frames, tiny_run: TinyRun, tmp_path: Path) -> None:
    few = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", "retrieval.tower.dim=8")
    kept = recsys.train(**frames, run=tmp_path / "inferred", settings=few)
    assert any('"user_id" is the user column' in note for note in kept.notes)
    assert recsys.load(tmp_path / "inferred").notes == kept.notes
    assert recsys.load(tmp_path / "inferred").save(tmp_path / "copy").notes == kept.notes
    assert recsys.load(tmp_path / "copy").notes == kept.notes
    kept.evaluate("retrieval").to_html(tmp_path / "page.html")
    assert f"Inferred: {escape(kept.notes[0])}" in (tmp_path / "page.html").read_text()
    assert recsys.load(tiny_run.folder).notes == ()


def test_settings_change_a_configuration_wherever_it_comes_from(frames: Frames, tiny_run: TinyRun) -> None:
    few = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", "retrieval.tower.dim=8")
    for config in nonempty((None, tiny_run.config())):
        trained = recsys.train(**frames, config=config, settings=few)
        assert (trained.config.retrieval.fit.epochs, trained.config.retrieval.tower.dim) == (1, 8)
        assert "epochs = 1" in str(trained.config)
    with pytest.raises(ConfigError, match=r"retrieval\.fit\.epoch"):
        recsys.train(events=frames["events"], config=tiny_run.config(), settings=["retrieval.fit.epoch=1"])


def test_rows_left_out_are_counted(frames: Frames, tiny_run: TinyRun, caplog: pytest.LogCaptureFixture) -> None:
    events = frames["events"].astype({"click": str})
    events.loc[[3, 5], "click"] = "maybe"
    few = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", 'data.on_bad_rows="drop"')
    with caplog.at_level(logging.WARNING, "recsys"):
        recsys.train(**{**frames, "events": events}, config=tiny_run.config(), settings=few)
    assert "2 bad rows were left out" in caplog.text
