"""Warm starts: rows follow their raw ids, new rows stay fresh, and the counts are told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.build import load_dataset
from recsys.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from recsys.funnel.artifacts import open_run
from recsys.funnel.chain import train_run
from recsys.funnel.stages import load_stages
from recsys.funnel.warm_start import Copied, copy_dense, copy_rows, warm_start_ranker, warm_start_towers
from recsys.nn.embedding import EmbeddingTable
from recsys.ranking.ranker import build_ranker
from recsys.retrieval.train import build_two_tower
from recsys.retrieval.windows import TowerData


def vocabularies(**values: str) -> dict[str, Vocabulary]:
    return {name: Vocabulary(tuple(text)) for name, text in values.items()}


def table(known: dict[str, Vocabulary], dim: int = 4, **others: int) -> EmbeddingTable:
    return EmbeddingTable({name: len(v) for name, v in known.items()} | others, dim, 1.0)


def test_rows_follow_their_raw_values() -> None:
    here, there = vocabularies(item="cabx", tab="pq"), vocabularies(item="abcd", shop="z")
    target, source = table(here, gap=6), table(there, gap=6)
    fresh, given = target.weight.detach().clone(), source.weight.detach().clone()
    report = copy_rows(target, here, source, there)
    assert report == [Copied("item", 3, 1, 1), Copied("gap", 6, 0, 0)]
    assert str(report[0]) == "item: 3 kept, 1 new, 1 dropped"
    mine, theirs = target.rows_of("item"), source.rows_of("item")
    for row, value in enumerate("cab"):
        assert torch.equal(mine[FIRST + row], theirs[FIRST + "abcd".index(value)])
    assert torch.equal(mine[UNKNOWN], theirs[UNKNOWN])
    assert torch.equal(mine[FIRST + 3], fresh[target.offsets["item"] + FIRST + 3])
    assert torch.equal(target.rows_of("tab")[FIRST:], fresh[target.offsets["tab"] + FIRST :][:2])
    assert torch.equal(target.rows_of("gap")[1:], source.rows_of("gap")[1:])
    assert torch.equal(source.weight, given)
    assert not mine[0].any()


def test_a_copy_is_no_bond() -> None:
    known = vocabularies(item="ab")
    target, source = table(known), table(known)
    copy_rows(target, known, source, known)
    with torch.no_grad():
        target.weight += 1.0
    assert not torch.equal(target.rows_of("item"), source.rows_of("item"))


def test_other_widths_and_other_buckets_are_left_alone() -> None:
    known = vocabularies(item="ab")
    target = table(known, price=9)
    before = target.weight.detach().clone()
    assert copy_rows(target, known, table(known, dim=5, price=9), known) == []
    assert torch.equal(target.weight, before)
    report = copy_rows(target, known, table(known, price=8), known)
    assert [entry.vocabulary for entry in report] == ["item"]


def test_dense_layers_of_equal_name_and_shape_are_copied() -> None:
    one = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    before = one[1].weight.detach().clone()
    assert copy_dense(one, other) == 2
    assert torch.equal(one[0].weight, other[0].weight)
    assert torch.equal(one[1].weight, before)


def test_the_ranker_begins_with_the_retrievers_directions_at_its_own_spread(tiny_run: Any) -> None:
    stages = load_stages(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    config = stages.config.ranking.model
    config = config.model_copy(update={"input": config.input.model_copy(update={"embedding_dim": 8})})
    ranker = build_ranker(config, stages.dataset.layout, stages.dataset.config.tasks, 0)
    (mine,) = ranker.tables()
    spread = {name: mine.rows_of(name)[FIRST:].std().item() for name in ("user_id", "item_id")}
    report = warm_start_ranker(ranker, stages.dataset, stages.retriever, None)
    theirs = stages.retriever.model.table
    assert {"user_id", "item_id", "category"} <= {entry.vocabulary for entry in report}
    for name in ("user_id", "item_id"):
        copied, given = mine.rows_of(name).detach()[FIRST:], theirs.rows_of(name).detach()[FIRST:]
        assert torch.nn.functional.cosine_similarity(copied, given).min() > 0.9999
        assert copied.std().item() == pytest.approx(spread[name], rel=1e-3)


def test_the_towers_of_an_older_run_move_to_new_data_by_raw_id(tiny_run: Any, tmp_path: Path) -> None:
    """New data: other users and items first, so that every row has another number."""
    for name in ("users.csv", "items.csv"):
        shutil.copy(tiny_run.world / name, tmp_path / name)
    lines = (tiny_run.world / "events.csv").read_text().splitlines()
    (tmp_path / "events.csv").write_text("\n".join([lines[0], *lines[1500:]]) + "\n")
    config = tiny_run.config()
    dataset = load_dataset(config.data, tmp_path, 0)
    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
    model = build_two_tower(data, config.retrieval.tower, 5)
    source = open_run(tiny_run.folder)
    report = warm_start_towers(model, dataset, source)
    old = load_stages(source, with_index=False)
    assert old.retriever is not None
    mine, theirs = dataset.encoders.vocabularies["item_id"].values, old.dataset.encoders.vocabularies["item_id"].values
    assert mine != theirs
    for table_here, table_there in (
        (model.table, old.retriever.model.table),
        (model.bias, old.retriever.model.bias),
    ):
        assert table_here is not None
        assert table_there is not None
        for row, value in enumerate(mine):
            if value in theirs:
                there = table_there.rows_of("item_id")[FIRST + theirs.index(value)]
                assert torch.equal(table_here.rows_of("item_id")[FIRST + row], there)
    kept = next(entry for entry in report if entry.vocabulary == "item_id")
    assert kept.kept == len(set(mine) & set(theirs))
    assert torch.equal(model.output.weight, old.retriever.model.output.weight)


def test_training_from_a_run_starts_where_it_ended(tiny_run: Any, tmp_path: Path) -> None:
    """With steps of almost no length, the new run is the old one."""
    still = ["retrieval.optim.lr=1e-12", "ranking.optim.lr=1e-12", "retrieval.fit.epochs=1", "ranking.fit.epochs=1"]
    still += ["retrieval.optim.weight_decay=0", "ranking.warm_start=true"]
    config = tiny_run.config(*still)
    run = train_run(config, tmp_path / "run", base=tiny_run.world, source_run=tiny_run.folder)
    old, new = (load_stages(open_run(folder), with_index=False) for folder in (tiny_run.folder, run))
    assert old.retriever is not None
    assert new.retriever is not None
    assert np.allclose(old.retriever.item_vectors, new.retriever.item_vectors, atol=1e-5)
    assert old.ranker is not None
    assert new.ranker is not None
    theirs = dict(old.ranker.named_parameters())
    for name, parameter in new.ranker.named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-5), name
