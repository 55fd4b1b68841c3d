"""Texts become a file that a `vector` feature reads: by one's own fit or by a model, each text once, and no event."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.cli.main import main
from recsys.data.reading.vectors import read_pretrained
from recsys.pipeline.embed import FITTED, embed_items
from recsys.tests.support.tiny import TinyRun

ITEMS = pd.DataFrame(
    {
        "item_id": [str(number) for number in range(8)],
        "title": [
            *("Toy Story", "Toy Story 2", "Heat", "Heat of the Night", "The Night Train", "Train to Heat", "", None),
        ],
        "genres": [["toys"], ["toys"], ["crime"], ["crime"], ["crime", "rail"], ["rail"], [], ["toys"]],
    }
)


def vectors(file: Path) -> dict[str, np.ndarray]:
    found = read_pretrained(file)
    return dict(zip(found.values.to_pylist(), found.vectors, strict=True))


def test_items_with_a_text_have_a_vector_and_the_report_says_of_the_others(tmp_path: Path) -> None:
    report = embed_items(ITEMS, tmp_path / "v.parquet", ["title", "genres"], width=3)
    assert (report.items, report.without, report.fitted_on, report.width) == (7, 1, 7, 3)
    found = vectors(tmp_path / "v.parquet")
    assert sorted(found) == ["0", "1", "2", "3", "4", "5", "7"]
    assert found["0"] @ found["1"] > 0.9 > found["0"] @ found["2"]


def test_called_again_nothing_is_made_anew_and_other_texts_are(tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    embed_items(ITEMS, out, ["title"], width=3)
    before = out.stat().st_mtime_ns, out.read_bytes()
    assert embed_items(ITEMS, out, ["title"], width=3).kept == 6
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    changed = ITEMS.assign(title=["Toy Train", *ITEMS["title"][1:]])
    assert embed_items(changed, out, ["title"], width=3).kept == 0
    assert out.read_bytes() != before[1]
    assert embed_items(changed, out, ["title"], width=2).kept == 0


def test_items_that_may_not_be_learned_from_leave_the_space_as_it_is(tmp_path: Path) -> None:
    """What `--fit-on` leaves out changes no other vector, and gets the one that a later call would give it."""
    known = [str(number) for number in range(5)]
    few = ITEMS[ITEMS["item_id"].isin(known)]
    embed_items(few, tmp_path / "few.parquet", ["title"], width=3)
    report = embed_items(ITEMS, tmp_path / "all.parquet", ["title"], width=3, fit_on=known)
    assert report.fitted_on == 5
    alone, together = vectors(tmp_path / "few.parquet"), vectors(tmp_path / "all.parquet")
    assert sorted(together) == ["0", "1", "2", "3", "4", "5"]
    for item in known:
        np.testing.assert_array_equal(together[item], alone[item])
    late = ITEMS[ITEMS["item_id"] == "5"]
    kept = str(tmp_path / f"few{FITTED}")
    assert embed_items(late, tmp_path / "late.parquet", ["title"], kept).fitted == ""
    np.testing.assert_array_equal(vectors(tmp_path / "late.parquet")["5"], together["5"])


class Model:
    """In place of sentence-transformers': a vector of a text's letters; what it reads is noted."""

    read: list[str] = []

    def __init__(self, name: str, device: str | None = None) -> None:
        if name == "unknown":
            raise OSError("unknown is not a local folder\nand more")

    def encode(self, sentences: list[str], batch_size: int, normalize_embeddings: bool, **_: Any) -> np.ndarray:
        assert normalize_embeddings
        assert batch_size == 2
        Model.read += sentences
        counts = np.array([[text.lower().count(letter) + 0.1 for letter in "aeiou"] for text in sentences])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sentence_transformers")
    vars(module)["SentenceTransformer"] = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(Model, "read", [])


@pytest.mark.usefixtures("_installed")
def test_a_model_reads_each_text_once_whatever_is_around_it(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "v.parquet"
    folder.mkdir()
    (folder / "weights").write_text("1")
    report = embed_items(ITEMS, out, ["title"], str(folder), batch=2)
    assert (report.items, report.width, report.kept, report.fitted) == (6, 5, 0, "")
    assert len(Model.read) == 6
    more = pd.concat([ITEMS.iloc[::-1], pd.DataFrame({"item_id": ["8"], "title": ["Up"], "genres": [[]]})])
    first = vectors(out)
    assert embed_items(more, out, ["title"], str(folder), batch=2).kept == 6
    assert Model.read[6:] == ["Up"]
    again = vectors(out)
    for item, vector in first.items():
        np.testing.assert_array_equal(again[item], vector)
    (folder / "weights").write_text("2")  # another model in the same folder
    assert embed_items(ITEMS, out, ["title"], str(folder), batch=2).kept == 0
    with pytest.raises(ConfigError, match=r'finds no model "unknown" \(unknown is not a local folder\); name a folder'):
        embed_items(ITEMS, out, ["title"], "unknown", batch=2)


def test_without_the_package_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        ConfigError, match=r"not installed; run `pip install 'recsys-funnel\[texts\]'`, or take --model"
    ):
        embed_items(ITEMS, tmp_path / "v.parquet", ["title"], "all-MiniLM-L6-v2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "error", "told"),
    [
        ({"columns": []}, ConfigError, "no column of texts"),
        ({"columns": ["plot"]}, DataError, "plot"),
        ({"out": "v.csv"}, ConfigError, "ends with .parquet"),
        ({"model": f"gone{FITTED}"}, DataError, "there is no file"),
        ({"model": "m", "fit_on": ["1"]}, ConfigError, "has learned already"),
        ({"items": pd.concat([ITEMS, ITEMS])}, DataError, "one item twice"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, keys: dict[str, Any], error: type[Exception], told: str) -> None:
    given = {"items": ITEMS, "columns": ["title"], "out": "v.parquet", **keys}
    with pytest.raises(error, match=told):
        embed_items(given.pop("items"), tmp_path / given.pop("out"), given.pop("columns"), **given)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_a_run_is_trained_with(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, out = tiny_run.world / "items.csv", tmp_path / "v.parquet"
    assert main(["embed", str(items), "--column", "title", "--out", str(out), "--width", "4"]) == 0
    assert 'kind = "vector"' in capsys.readouterr().out
    section = tiny_run.config().data
    feature = {"name": "text", "column": "item_id", "side": "item", "kind": "vector", "pretrained": str(out)}
    data = section.model_copy(
        update={"features": (*section.features, type(section.features[0]).model_validate(feature))}
    )
    config = tiny_run.config("retrieval.fit.epochs=1", "ranking.fit.epochs=1").model_copy(update={"data": data})
    tables = {name: tiny_run.world / f"{name}.csv" for name in ("events", "items", "users")}
    trained = recsys.train(**tables, config=config).trained
    at = [name for name, _ in trained.dataset.layout.item.vectors].index("text")
    assert dict(trained.dataset.layout.item.vectors)["text"] == 4
    made = trained.dataset.items.select(np.arange(trained.dataset.num_catalogue)).vectors[at]
    expected = vectors(out)
    for row, item in enumerate(trained.dataset.item_ids[:5]):
        np.testing.assert_allclose(made[row].numpy(), expected[item], rtol=1e-6)
