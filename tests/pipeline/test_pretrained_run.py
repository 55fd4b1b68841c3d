"""A whole run on given vectors: both stages start from them, frozen ones are found again in the trained models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.artifacts.folder import open_run
from recsys.configs.run import load_config
from recsys.data.batch import Block
from recsys.data.vocabulary import FIRST
from recsys.funnel.folder import load_run
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.pretrained import Projection
from recsys.pipeline.publish import train_run
from recsys.tests.support.tiny import TinyRun

WIDTH, NARROW = 8, 6


@pytest.fixture(scope="module")
def world(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world's tables, in a folder of their own."""
    out = tmp_path_factory.mktemp("pretrained") / "world"
    shutil.copytree(tiny_run.world, out, ignore=shutil.ignore_patterns("runs"))
    return out


@pytest.fixture(scope="module")
def given(world: Path) -> dict[str, np.ndarray]:
    """A vector for two items in three, in a file beside the tables."""
    items = [str(raw) for raw in pd.read_csv(world / "items.csv")["item_id"]]
    known = [raw for place, raw in enumerate(items) if place % 3]
    vectors = np.random.default_rng(2).normal(size=(len(known), WIDTH)).astype(np.float32)
    pd.DataFrame({"item": known, "vector": list(vectors)}).to_parquet(world / "text.parquet")
    return dict(zip(known, vectors, strict=True))


def test_frozen_vectors_survive_the_training_of_both_stages(
    tiny_run: TinyRun, world: Path, given: dict[str, np.ndarray]
) -> None:
    text = tiny_run.config_file.read_text()
    item_id = 'name = "item_id"\nside = "item"\n'
    assert item_id in text
    pretrained = 'pretrained = "text.parquet"\n'
    content = f'\n[[data.features]]\nname = "content"\nside = "item"\ncolumn = "item_id"\nkind = "vector"\n{pretrained}'
    text = text.replace(item_id, f"{item_id}{pretrained}frozen = true\n")
    text = text.replace("\n[[data.counts]]", f"{content}\n[[data.counts]]", 1)
    file = world / "pretrained.toml"
    file.write_text(text)
    # the ranker's rows are narrower than the towers', from which it is warm-started
    epochs = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", f"ranking.model.input.embedding_dim={NARROW}")
    config = replace(tiny_run, config_file=file).config(*epochs)
    folder = train_run(config, world / "runs" / "pretrained", base=world)

    stages = load_run(open_run(folder), with_index=False)
    assert stages.retriever is not None
    assert stages.ranker is not None
    values = stages.dataset.encoders.vocabularies["item_id"].values
    with_vector = [row for row, value in enumerate(values) if value in given]
    assert 20 < len(with_vector) < len(values)
    truth = np.stack([given[values[row]] for row in with_vector])
    for table in (stages.retriever.model.table, *stages.ranker.tables()):
        assert isinstance(table, EmbeddingTable)
        rows = table.rows_of("item_id").detach()[[FIRST + row for row in with_vector]]
        expected = Projection(np.stack(list(given.values())), table.dim, table.std).apply(truth)
        np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-4, atol=1e-6)

    block = stages.dataset.items.whole()
    assert isinstance(block, Block)
    (content_rows,) = block.vectors
    for raw, row in stages.dataset.item_rows.items():
        np.testing.assert_allclose(content_rows[row].numpy(), given.get(raw, np.zeros(WIDTH)), rtol=1e-6)

    kept = load_config(Path(folder) / "config.toml", [])
    named = {spec.pretrained for spec in kept.data.features if spec.pretrained}
    assert [(folder / name).resolve() for name in named] == [(world / "text.parquet").resolve()]
