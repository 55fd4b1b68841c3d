"""Vectors computed elsewhere follow raw values, whatever the order of a file, and bad files are told by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from recsys.base.errors import DataError
from recsys.data.build import build_dataset, load_dataset
from recsys.data.dataset import Dataset
from recsys.data.feature_spec import FeatureSpec
from recsys.data.reading.readers import read_tables
from recsys.data.reading.vectors import read_pretrained
from recsys.data.schema import DataConfig
from recsys.data.vocabulary import FIRST, Vocabulary
from recsys.tests.support.shop import Shop

NAMES = [f"i{i}" for i in (7, 3, 11, 0, 19, 5, 2)]
"""Items with a vector, in the order of the file."""


def vectors(width: int = 5) -> np.ndarray:
    return np.random.default_rng(8).normal(size=(len(NAMES), width)).astype(np.float32)


def written(folder: Path, kind: str) -> Path:
    """The same vectors in every form that is read."""
    given, path = vectors(), folder / f"text.{kind}"
    if kind == "npy":
        np.save(path, given)
        path.with_suffix(".txt").write_text("\n".join(NAMES) + "\n")
    elif kind == "parquet":
        pd.DataFrame({"item": NAMES, "vector": list(given)}).to_parquet(path)
    elif kind == "columns.csv":
        pd.DataFrame(given.astype(np.float64)).assign(item=NAMES).set_index("item").to_csv(path)
    else:
        text = ["|".join(repr(float(x)) for x in row) for row in given]
        pd.DataFrame({"item": NAMES, "vector": text}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["npy", "parquet", "columns.csv", "csv"])
def test_every_form_of_a_file_says_the_same(tmp_path: Path, kind: str) -> None:
    found = read_pretrained(written(tmp_path, kind))
    assert found.width == 5
    asked = pa.array(["i0", None, "i7", "nobody", "i0", ""])
    expected = np.zeros((6, 5), dtype=np.float32)
    expected[[0, 4]], expected[2] = vectors()[3], vectors()[0]
    np.testing.assert_allclose(found.lookup(asked), expected, rtol=1e-6)
    rows, given = found.rows_of(Vocabulary(("i5", "other", "i2")))
    assert rows.tolist() == [FIRST, FIRST + 2]
    np.testing.assert_allclose(given, vectors()[[5, 6]], rtol=1e-6)


def dataset(shop: Shop, path: Path, spec: dict[str, Any]) -> Dataset:
    config: DataConfig = shop.config()
    feature = FeatureSpec.model_validate({"side": "item", "pretrained": str(path), **spec})
    config = config.model_copy(update={"features": (*config.features, feature)})
    tables = read_tables(shop.events, shop.users, shop.items)
    return build_dataset(replace(tables, vectors={feature.name: read_pretrained(path)}), config, seed=1)


def test_a_vector_feature_is_looked_up_by_the_items_raw_id(shop: Shop, tmp_path: Path) -> None:
    path = written(tmp_path, "parquet")
    found = dataset(shop, path, {"name": "content", "kind": "vector", "column": "item_id"})
    assert ("content", 5) in found.layout.item.vectors
    block = found.items.vectors[[name for name, _ in found.layout.item.vectors].index("content")]
    for raw, row in found.item_rows.items():
        expected = vectors()[NAMES.index(raw)] if raw in NAMES else np.zeros(5)
        np.testing.assert_allclose(block[row], expected, rtol=1e-6)
    assert block.any(1).sum() == len(set(NAMES) & set(found.item_ids))


def test_a_vector_feature_may_be_looked_up_by_any_column(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "genres.csv"
    path.write_text("genre,a,b\ng2,1,2\ng1,3,4\n")
    found = dataset(shop, path, {"name": "look", "kind": "vector", "column": "genre"})
    block = found.items.vectors[[name for name, _ in found.layout.item.vectors].index("look")]
    table = {"g1": [3.0, 4.0], "g2": [1.0, 2.0], "g3": [0.0, 0.0]}
    of_item = dict(zip(shop.items["item_id"], shop.items["genre"], strict=True))
    assert block.tolist() == [table[of_item[raw]] for raw in found.item_ids]


def test_a_table_start_belongs_to_its_vocabulary(shop: Shop, tmp_path: Path) -> None:
    spec = {"name": "film", "column": "item_id", "frozen": True}
    found = dataset(shop, written(tmp_path, "npy"), spec)
    start = found.table_starts["film"]
    assert start.frozen
    assert start.vocabulary == found.encoders.vocabularies["film"]


def test_the_files_content_is_part_of_the_fingerprint(shop: Shop, tmp_path: Path) -> None:
    shop.events.to_csv(tmp_path / "events.csv", index=False)
    shop.items.to_csv(tmp_path / "items.csv", index=False)
    shop.users.to_csv(tmp_path / "users.csv", index=False)
    path = written(tmp_path, "npy")
    spec = FeatureSpec(name="film", side="item", column="item_id", pretrained=path.name)
    config: DataConfig = shop.config()
    changes = {"events": "events.csv", "items": "items.csv", "users": "users.csv"}
    config = config.model_copy(update={"features": (*config.features, spec), **changes})
    before = load_dataset(config, tmp_path, 1)
    assert before.fingerprint == load_dataset(config, tmp_path, 1).fingerprint
    np.save(path, vectors() + 1.0)
    assert before.fingerprint != load_dataset(config, tmp_path, 1).fingerprint
    moved = config.relocated(lambda name: f"elsewhere/{name}")
    assert [f.pretrained for f in moved.features if f.pretrained] == ["elsewhere/text.npy"]
    assert (moved.events, moved.items) == ("elsewhere/events.csv", "elsewhere/items.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,a\ni1,1\ni1,2\n", '"i1" more than once'),
        ("item,a\ni1,1\n,2\n", "nothing"),
        ("item,a,b\ni1,1,1\ni2,,3\n", '"i2" is not of finite'),
        ("item,a\ni1,1\ni2,\n", r"\[0, 1\]"),
        ("item,a\ni1,one\n", "no number"),
        ("item,a\ni1,1|2\ni2,1|2|3\n", r"\[2, 3\]"),
        ("item\ni1\n", "one column"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as found:
        read_pretrained(path)
    assert "v.csv" in str(found.value)


def test_an_array_needs_its_values(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"v\.txt"):
        read_pretrained(tmp_path / "v.npy")
    (tmp_path / "v.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="2 lines"):
        read_pretrained(tmp_path / "v.npy")
    (tmp_path / "w.npy").write_bytes(b"no array")
    (tmp_path / "w.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"w\.npy"):
        read_pretrained(tmp_path / "w.npy")


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "numeric", "pretrained": "v.npy"},
        {"frozen": True},
        {"kind": "vector", "pretrained": "v.npy", "frozen": True},
    ],
)
def test_settings_that_mean_nothing_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"pretrained|frozen"):
        FeatureSpec.model_validate({"name": "x", "side": "item", **spec})


def test_reading_leaves_lookups_independent(tmp_path: Path) -> None:
    found = read_pretrained(written(tmp_path, "npy"))
    first = found.lookup(pa.array(["i7"]))
    torch.from_numpy(first).zero_()
    np.testing.assert_allclose(found.lookup(pa.array(["i7"]))[0], vectors()[0], rtol=1e-6)
