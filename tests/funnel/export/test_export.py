"""`recsys export`: folders that answer without recsys, are whole or absent, and say what they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recsys
from recsys.base.package import install_hint
from recsys.cli.main import main
from recsys.data.dataset import NOW
from recsys.funnel.export.predict import Exported, check
from recsys.recommender import Recommender
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

ALONE = """
import runpy, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("recsys", "torch", "pyarrow", "pandas", "scipy", "pydantic"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def rec(tiny_run: TinyRun) -> Recommender:
    return recsys.load(tiny_run.folder)


@pytest.fixture(scope="module")
def folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as ONNX, its tables in int8."""
    out = tmp_path_factory.mktemp("export") / "shop"
    assert main(["export", "--run", str(tiny_run.folder), "--format", "onnx", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def programs(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as torch programs. Copy the folder before changing it."""
    out = tmp_path_factory.mktemp("programs") / "plain"
    assert "same_items" not in recsys.export(tiny_run.folder, out, "torch")
    return out


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    return Exported(folder)


def test_the_folder_answers_with_numpy_and_onnxruntime_alone(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder / "predict.py")], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["requests"] == 20
    assert {"user.vector", "item.embedding", "score", "click", "conversion", "select"} == set(
        found["largest_difference"]
    )
    assert max(found["largest_difference"].values()) < 1e-5


def test_answers_that_are_not_the_runs_are_told(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).symlink_to(file)
    about = json.loads((folder / "io.json").read_text())
    about["tasks"]["click"]["shift"] += 1e-3
    (other / "io.json").unlink()
    (other / "io.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="largest differences"):
        check(other)
    (other / "io.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no io\.json, so it is no whole export"):
        Exported(other)


def test_raw_values_become_what_the_run_made_of_them(exported: Exported, rec: Recommender, tiny_run: TinyRun) -> None:
    """Columns of users and items as they stand in the tables, encoded without recsys."""
    data = rec.trained.dataset
    for name, block, rows, ids in (
        ("users", data.users.whole(), "query", list(data.user_ids)),
        ("items", data.items.whole(), "item", list(data.item_ids)),
    ):
        table = pd.read_csv(tiny_run.world / f"{name}.csv").astype(object)
        table = table.where(table.notna(), None).set_index(f"{name[:-1]}_id", drop=False)
        raw = [table.loc[int(raw_id)].to_dict() for raw_id in ids]
        layout = data.sides[name[:-1]]
        found = exported.encode(rows, raw)
        for kind, columns, wanted in (
            ("categorical", layout.categorical, block.categorical),
            ("numeric", layout.numeric, block.numeric),
        ):
            [about] = [one for one in exported.networks["ranker"]["inputs"] if one["name"] == f"{rows}.{kind}"]
            for place, column in enumerate(nonempty(columns)):
                mine = found[f"{rows}.{kind}"][:, about["columns"].index(column)]
                np.testing.assert_allclose(mine, wanted[:, place].numpy(), rtol=1e-6, err_msg=column)


def test_histories_of_raw_ids_find_the_items_of_the_towers(exported: Exported, rec: Recommender) -> None:
    data, retriever = rec.trained.dataset, rec.funnel.retriever
    for user in nonempty(range(0, data.num_users, 17)):
        users = np.array([user])
        history = retriever.histories(users, NOW)
        ids = [data.item_ids[row] for row in history.events.items]
        columns = retriever.data.users.select(_rows(user))
        vector = exported.user_vector({**exported.window(ids), "user.categorical": columns.categorical.numpy()})
        np.testing.assert_allclose(vector, retriever.queries(users, NOW)[0], atol=1e-5)
        wanted = retriever.propose("two_tower", retriever.queries(users, NOW), history, 5, exact=True)[0]
        found = exported.nearest(vector, 5, without=[data.item_ids[row] for row in history.excluded.items])
        np.testing.assert_allclose(
            [product for _, product in found], retriever.item_vectors[wanted] @ vector, atol=1e-5
        )


def test_candidates_by_id_are_the_runs_columns(exported: Exported, rec: Recommender) -> None:
    data = rec.trained.dataset
    items = np.array([3, 0, 41, 7])
    inputs = exported.candidates([data.item_ids[row] for row in items])
    wanted = data.candidates(np.array([0]), items[None], NOW).item
    columns = {one["name"]: one["columns"] for one in exported.networks["ranker"]["inputs"]}
    pairs = exported.about["pairs"]
    assert {"user_id*subcategory.n", "recent_clicks.brand.matches"} <= set(pairs)
    for name, values in (("item.categorical", wanted.categorical), ("item.numeric", wanted.numeric)):
        of_item = [place for place, column in enumerate(columns[name]) if column not in pairs]
        np.testing.assert_array_equal(inputs[name][:, of_item], values[:, of_item].numpy())
    with pytest.raises(KeyError):
        exported.candidates(["nobody sells it"])
    with pytest.raises(ValueError, match=r"needs the input candidate\.opinions: float32"):
        exported.rank(exported.encode("query", [{}]) | inputs)


def test_tables_in_fewer_bytes_say_what_they_cost(tiny_run: TinyRun, programs: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    rec = recsys.load(tiny_run.folder)
    before = rec.funnel.recommend(["7"], 5).scores
    told = recsys.export(rec, out, "torch", table_dtype="int8")
    assert 0.97 <= told["same_items"] <= 1
    assert set(told["validation_auc"]) == {"click", "conversion"}
    for values in nonempty(told["validation_auc"].values()):
        assert abs(values["as_trained"] - values["int8"]) < 0.02
    about = json.loads((out / "io.json").read_text())
    assert about["table_dtype"] == "int8"
    sizes = [sum(f.stat().st_size for f in one.glob("*tower.safetensors")) for one in (out, programs)]
    assert sizes[0] < sizes[1]
    assert np.array_equal(rec.funnel.recommend(["7"], 5).scores, before)  # the run itself is as it was


def test_a_folder_is_replaced_as_a_whole_or_refused(tiny_run: TinyRun, programs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(programs, out)
    (out / "stale.txt").write_text("of the export before")
    recsys.export(tiny_run.folder, out, "torch")
    assert not (out / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    with pytest.raises(recsys.ConfigError, match="holds other files; name a new folder"):
        recsys.export(tiny_run.folder, mine, "torch")
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_networks_that_answer_otherwise_never_appear(rec: Recommender, tmp_path: Path) -> None:
    """Item vectors that are not those of the towers: the examples tell."""
    trained = recsys.load(rec.folder).trained
    assert trained.retriever is not None
    trained.retriever.item_vectors = trained.retriever.item_vectors + np.float32(0.01)
    with pytest.raises(recsys.RunError, match="do not answer as the run does"):
        recsys.export(Recommender(trained), tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_one_sentence_says_what_to_install(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "--run", str(tiny_run.folder), "--format", "onnx", "--out", str(tmp_path / "o")]) == 2
    assert install_hint("onnx") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_vocabularies_and_lists_as_tables(
    tiny_run: TinyRun, rec: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", "--run", str(tiny_run.folder), "--out", str(tmp_path / "t"), "-k", "3", "--json"]
    assert main(given) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(told["files"]) == 2
    values, encoders = pd.read_parquet(told["vocabularies"]), rec.trained.dataset.encoders
    for name, vocabulary in nonempty(encoders.vocabularies.items()):
        mine = values[values.feature == name]
        assert vocabulary.rows(pa.array(mine.value)).tolist() == mine.row.tolist()
    age = values[values.feature == "age"]
    edges = [float(value) for value in age.value[2:]]
    assert encoders.numerics["age"].buckets(np.array(edges, np.float32)).tolist() == age.row[2:].tolist()
    lists = pd.read_parquet(told["lists"])
    assert lists.groupby("user").size().tolist() == [3] * rec.trained.dataset.num_users
    assert main([*given[:-2], "0", "--json", "--table-dtype", "int8"]) == 2
    assert "table_dtype belongs to the formats onnx and torch" in capsys.readouterr().err


def _rows(user: int) -> Any:
    import torch

    return torch.tensor([user])
