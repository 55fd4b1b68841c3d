"""Lists of everybody on disk: the answers of `recommend`, in any format, whole or absent, and resumable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recsys
from recsys.base.errors import ConfigError, RunError
from recsys.base.files import locked
from recsys.cli.main import main
from recsys.data.dataset import NOW
from recsys.data.reading.queries import query_table
from recsys.data.reading.readers import read
from recsys.funnel.bulk import write_lists
from recsys.funnel.funnel import Funnel
from recsys.funnel.recommendations import Recommendations
from recsys.funnel.run import assemble_retriever
from recsys.funnel.vectors import write_vectors
from recsys.recommender import Recommender
from recsys.retrieval.towers.train import build_two_tower
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def rec(tiny_run: TinyRun) -> Recommender:
    return recsys.load(tiny_run.folder)


class Interrupted(Funnel):
    """Answers so many blocks and is then killed."""

    def __init__(self, whole: Funnel, blocks: int) -> None:
        super().__init__(whole.trained)
        self.left = blocks

    def recommend(self, users: Sequence[Any], *args: Any, **options: Any) -> Recommendations:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().recommend(users, *args, **options)


def assert_same_lists(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows; numbers to 1e-6, for blocks of other users round differently."""
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_everybody_gets_what_recommend_answers(rec: Recommender, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"lists.{suffix}"
    report = rec.write_lists(file, k=7)
    everybody = list(rec.trained.dataset.user_ids)
    expected = rec.recommend(everybody, k=7)
    if suffix == "parquet":
        found = pd.read_parquet(file)
    elif suffix == "csv":
        found = pd.read_csv(file, dtype={"user": str, "item": str})
    else:
        found = pd.DataFrame([json.loads(line) for line in file.read_text().splitlines()])
    expected["user"] = expected["user"].astype(found["user"].dtype)
    expected["item"] = expected["item"].astype(found["item"].dtype)
    expected["source"] = expected["source"].astype(found["source"].dtype)
    assert_same_lists(found, expected)
    assert (report.users, report.rows, report.resumed) == (len(everybody), len(expected), 0)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_lists_and_vectors_go_to_a_database_and_to_the_folder_of_a_day(
    tiny_run: TinyRun,
    rec: Recommender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What SQLite and a day's folder hold are the lists and vectors of the files."""
    monkeypatch.chdir(tmp_path)
    run, where = ["--run", str(tiny_run.folder)], ["--database", "sqlite:///shop.db"]
    assert main(["recommend", *run, "--all-users", "-k", "3", "--out", "sql:lists", *where, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["rows"]) == ("sql:lists", 3 * rec.trained.dataset.num_users)
    rec.write_lists("lists/day=2026-11-29", k=3)
    expected = read("lists").table.drop_columns(["day"]).to_pandas()
    found = query_table("sql:SELECT * FROM lists", "sqlite:///shop.db", tmp_path).to_pandas()
    assert_same_lists(found.astype({"user": str}), expected.astype({"user": str}))
    assert main(["export", *run, "--out", "sql:shop_", *where, "-k", "0"]) == 0
    rec.export_vectors("vectors/day=2026-11-29")
    items = read("vectors/item_vectors").table
    kept = query_table("sql:SELECT * FROM shop_item_vectors", "sqlite:///shop.db", tmp_path)
    assert [json.loads(one) for one in kept["vector"].to_pylist()] == items["vector"].to_pylist()
    assert query_table("sql:SELECT * FROM shop_vocabularies", "sqlite:///shop.db", tmp_path).num_rows > 80
    with pytest.raises(ConfigError, match="networks are files"):
        recsys.export(rec, "sql:shop_", "onnx", database="sqlite:///shop.db")


def test_filters_and_a_list_of_users_are_those_of_recommend(rec: Recommender, tmp_path: Path) -> None:
    file = tmp_path / "lists.parquet"
    asked = ["7", "nobody", "3"]
    rec.write_lists(file, 5, 'category = "c1" or price > 10', users=asked, block=["4"])
    found = pd.read_parquet(file)
    expected = rec.recommend(asked, 5, 'category = "c1" or price > 10', block=["4"])
    for name in ("user", "item", "source"):
        expected[name] = expected[name].astype(found[name].dtype)
    assert_same_lists(found, expected)
    assert found.loc[found["user"] == "nobody", "click"].isna().all()


def test_threads_change_nothing_and_answer_in_order(rec: Recommender, tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        write_lists(rec.funnel, one, k=5, part=16)
        torch.set_num_threads(2)
        write_lists(rec.funnel, two, k=5, part=16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert pq.read_table(one).equals(pq.read_table(two))


def test_towers_that_were_just_trained_drop_nothing_while_threads_answer(rec: Recommender) -> None:
    """A mode that each answer sets and puts back is met by the answers beside it."""
    trained = rec.trained
    assert trained.retriever is not None
    trained.retriever.model.train()
    funnel = Funnel(trained)
    funnel.recommend(["1"], 3)
    assert not any(module.training for module in trained.retriever.model.modules())


def test_a_killed_call_leaves_the_old_file_and_the_next_one_goes_on(rec: Recommender, tmp_path: Path) -> None:
    file, whole = tmp_path / "lists.csv", tmp_path / "whole.csv"
    file.write_text("yesterday's")
    write_lists(rec.funnel, whole, k=5, part=16)
    with pytest.raises(KeyboardInterrupt):
        write_lists(Interrupted(rec.funnel, 3), file, k=5, part=16)
    assert file.read_text() == "yesterday's"
    going_on = Interrupted(rec.funnel, 10**6)
    report = write_lists(going_on, file, k=5, part=16)
    assert report.resumed == 48
    assert 10**6 - going_on.left == -(-(report.users - 48) // 16)
    assert file.read_text() == whole.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists.csv", "whole.csv"]


def test_parts_of_another_question_are_not_taken_up(rec: Recommender, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    funnel = rec.funnel
    with pytest.raises(KeyboardInterrupt):
        write_lists(Interrupted(funnel, 3), file, k=5, part=16)
    questions: list[dict[str, Any]] = [
        {"k": 6, "part": 16},
        {"k": 5, "part": 16, "allowed": funnel.select("price > 1")},
        {"k": 5, "part": 16, "users": [*funnel.dataset.user_ids[1:], "nobody"]},
        {"k": 5, "part": 15},
    ]
    for question in questions:
        with pytest.raises(KeyboardInterrupt):
            write_lists(Interrupted(funnel, 0), file, **question)
        kept = [path for path in (tmp_path / ".lists.csv.parts").iterdir() if path.suffix == ".arrow"]
        assert not kept
        with pytest.raises(KeyboardInterrupt):
            write_lists(Interrupted(funnel, 3), file, k=5, part=16)


def test_two_processes_do_not_write_one_file(rec: Recommender, tmp_path: Path) -> None:
    (tmp_path / ".lists.csv.parts").mkdir()
    with locked(tmp_path / ".lists.csv.parts"), pytest.raises(RunError, match="another process is writing"):
        rec.write_lists(tmp_path / "lists.csv")


def test_what_cannot_be_written_is_said_before_the_work(rec: Recommender, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lists\.xlsx has no suffix of a table; .* \.parquet, \.csv, \.jsonl"):
        rec.write_lists(tmp_path / "lists.xlsx")
    with pytest.raises(ConfigError, match=r"there is no folder .*missing"):
        rec.write_lists(tmp_path / "missing" / "lists.csv")
    with pytest.raises(ConfigError, match="k=81 exceeds the 80 items"):
        rec.write_lists(tmp_path / "lists.csv", k=81)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_and_says_what(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lists.jsonl"
    given = ["recommend", "--run", str(tiny_run.folder)]
    assert main([*given, "--all-users", "-k", "3", "--out", str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == len(file.read_text().splitlines()) == 3 * printed["users"]
    assert main([*given, "--user", "7", "-k", "3", "--out", str(file)]) == 0
    assert [json.loads(line)["user"] for line in file.read_text().splitlines()] == ["7"] * 3
    capsys.readouterr()
    for wrong, sentence in (
        (["--all-users"], "--all-users writes a table; say where with --out FILE.parquet"),
        (["--all-users", "--user", "7", "--out", str(file)], "leave --user and --users out"),
        (["--user", "7", "--explain", "--out", str(file)], "--explain has no column in a table"),
    ):
        assert main([*given, *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_vectors_order_items_as_the_retriever_does(
    tiny_run: TinyRun, rec: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--run", str(tiny_run.folder), "--out", str(tmp_path / "v"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    items, users = (pd.read_parquet(file) for file in printed["files"])
    data, retriever = rec.trained.dataset, rec.funnel.retriever
    assert items["item"].tolist() == list(data.item_ids[: data.num_catalogue])
    assert users["user"].tolist() == list(data.user_ids)
    assert users["events"].tolist() == np.diff(retriever.data.history.ptr).tolist()
    products = np.stack(users["vector"].tolist()) @ np.stack(items["vector"].tolist()).T
    rows = np.arange(data.num_users)
    queries, histories = retriever.queries(rows, NOW), retriever.histories(rows, NOW)
    best = retriever.propose("two_tower", queries, histories, 1, exact=True)[:, 0]
    seen = histories.events
    products[seen.users, seen.items] = -np.inf
    assert (products.argmax(1) == best).mean() > 0.99


def test_every_interest_is_a_row(rec: Recommender, tmp_path: Path) -> None:
    trained = rec.trained
    retriever = rec.funnel.retriever
    several = trained.config.retrieval.tower.model_copy(update={"interests": 2})
    model = build_two_tower(retriever.data, several, seed=1).eval()
    other = assemble_retriever(trained.config, model, retriever.data, retriever.companions)
    report = write_vectors(Funnel(replace(trained, retriever=other)), tmp_path)
    users = pq.read_table(tmp_path / "user_vectors.parquet")
    assert report["interests"] == 2
    assert users["interest"].to_pylist() == [0, 1] * report["users"]
    rows = nonempty(np.flatnonzero(np.diff(retriever.data.history.ptr) > 3)[:5])
    for row in rows:
        wanted = other.queries(np.array([row]), NOW)[0]
        found = np.array(users.slice(2 * int(row), 2)["vector"].to_pylist(), dtype=np.float32)
        assert np.allclose(found, wanted, atol=1e-6)
    assert users.schema.field("vector").type == pa.list_(pa.float32(), model.width)
