"""Frozen transfer: the user encoder of a run is kept bit for bit, and nothing is held still that was never copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError, RunError
from recsys.configs.run import RunConfig, load_config
from recsys.data.encoding.numeric import NumericEncoder
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.funnel.folder import load_run
from recsys.funnel.run import TrainedRun
from recsys.nn.embedding import EmbeddingTable
from recsys.pipeline.publish import train_run
from recsys.pipeline.transfer import match_buckets

SMALL = (
    "runtime.threads=1",
    "ranking.fit.epochs=1",
    "ranking.batch_size=256",
    'ranking.model.kind="dupn"',
    "ranking.model.tower_hidden=[8]",
    "ranking.model.profile_hidden=[8]",
    "ranking.model.input.history.hidden=8",
    "ranking.model.input.history.attention_hidden=4",
)
FROZEN = "ranking.model.frozen=true"


def config(world: Path, *changes: str) -> RunConfig:
    """The demo with a small dupn."""
    text = (world / "demo.toml").read_text()
    start, stop = text.index("[ranking.model]"), text.index("[ranking.fit]")
    plain = world / "dupn.toml"
    plain.write_text(text[:start] + text[stop:])
    return load_config(plain, [*SMALL, *changes])


def load(folder: Path) -> TrainedRun:
    return load_run(open_run(folder), with_index=False)


@pytest.fixture(scope="module")
def world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a third task: `late`, a click after the middle of the slate."""
    out = tmp_path_factory.mktemp("transfer")
    for name in ("users.csv", "items.csv", "demo.toml"):
        (out / name).write_bytes((tiny_world / name).read_bytes())
    events = pd.read_csv(tiny_world / "events.csv")
    events["late"] = ((events["click"] == 1) & (events["position"] >= events["position"].median())).astype(int)
    events.to_csv(out / "events.csv", index=False)
    return out


@pytest.fixture(scope="module")
def source(world: Path) -> Path:
    """A run that knows nothing of three items that the later runs meet."""
    events, items = pd.read_csv(world / "events.csv"), pd.read_csv(world / "items.csv")
    hidden = items["item_id"].iloc[:3]
    part = world / "earlier"
    part.mkdir()
    events[~events["item_id"].isin(hidden)].to_csv(part / "events.csv", index=False)
    items[~items["item_id"].isin(hidden)].to_csv(part / "items.csv", index=False)
    for name in ("users.csv", "demo.toml"):
        (part / name).write_bytes((world / name).read_bytes())
    return train_run(config(part), world / "runs" / "source", stage="ranking", base=part)


def new_task(base: RunConfig) -> RunConfig:
    """The same rows with the task `late` beside the others."""
    extra = base.data.tasks[0].model_copy(update={"name": "late", "column": "late"})
    return base.model_copy(update={"data": base.data.model_copy(update={"tasks": (*base.data.tasks, extra)})})


@pytest.fixture(scope="module")
def transferred(world: Path, source: Path) -> Path:
    settings = new_task(config(world, FROZEN))
    return train_run(settings, world / "runs" / "new", stage="ranking", source_run=source, base=world)


def test_the_user_encoder_is_kept_bit_for_bit(source: Path, transferred: Path) -> None:
    old, new = load(source), load(transferred)
    assert old.ranker is not None
    assert new.ranker is not None
    theirs = old.ranker.state_dict()
    mine = new.ranker.state_dict()
    kept = [name for name in mine if name.startswith(("inputs.", "profile.")) and "table" not in name]
    assert len(kept) > 10
    assert all(torch.equal(mine[name], theirs[name]) for name in kept)
    (before,), (after,) = old.ranker.tables(), new.ranker.tables()
    compared = 0
    for name, vocabulary in new.dataset.encoders.vocabularies.items():
        known = old.dataset.encoders.vocabularies[name].values
        for row, value in enumerate(vocabulary.values):
            if value in known and name in after.sizes:
                origin = before.rows_of(name)[FIRST + known.index(value)]
                assert torch.equal(after.rows_of(name)[FIRST + row], origin)
                compared += 1
    assert compared > 200


def test_only_the_tasks_networks_learned(source: Path, transferred: Path) -> None:
    old, new = load(source).ranker, load(transferred).ranker
    assert old is not None
    assert new is not None
    assert "late" in new.towers
    for task in ("click", "conversion"):
        before, after = (model.get_parameter(f"towers.{task}.output.weight") for model in (old, new))
        assert not torch.equal(before, after)


def test_values_the_run_never_saw_are_unknown_to_its_encoder(world: Path, transferred: Path) -> None:
    new = load(transferred)
    assert new.ranker is not None
    (table,) = new.ranker.tables()
    assert isinstance(table, EmbeddingTable)
    rows = table.rows_of("item_id")
    hidden = {str(raw) for raw in pd.read_csv(world / "items.csv")["item_id"].iloc[:3]}
    values = new.dataset.encoders.vocabularies["item_id"].values
    met = [row for row, value in enumerate(values) if value in hidden]
    assert met  # the later run has trained rows of them
    for row in met:
        assert torch.equal(rows[FIRST + row], rows[UNKNOWN])
    assert rows[UNKNOWN].any()


def test_without_a_run_there_is_nothing_to_keep(world: Path) -> None:
    with pytest.raises(ConfigError, match="--from"):
        train_run(config(world, FROZEN), world / "runs" / "none", stage="ranking", base=world)
    assert not (world / "runs" / "none").exists()


def test_buckets_are_matched_by_what_they_hold() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([np.zeros(50), rng.gamma(2.0, size=400)]).astype(np.float32)
    old, new = NumericEncoder.fit(values, 8), NumericEncoder.fit(values[::3] + 0.2, 5)
    source, target = (EmbeddingTable({"price": encoder.size}, 3, 1.0) for encoder in (old, new))
    assert match_buckets(target, {"price": new}, source, {"price": old}) == {"price"}
    edges = new.edges
    inside = [edges[0] - 0.01, *((edges[1:] + edges[:-1]) / 2), edges[-1] + 1e-9]
    for value in [np.nan, new.mode, *inside]:
        one = np.array([value])
        expected = source.rows_of("price")[torch.from_numpy(old.buckets(one)).long()]
        assert torch.equal(target.rows_of("price")[torch.from_numpy(new.buckets(one)).long()], expected)
    same = EmbeddingTable({"price": old.size}, 3, 1.0)
    match_buckets(same, {"price": old}, source, {"price": old})
    assert torch.equal(same.weight, source.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ranking.model.input.history.hidden=6", "cannot be kept"),
        ("ranking.model.input.embedding_dim=4", "cannot be kept"),
        ("ranking.model.profile_hidden=[9]", "profile"),
    ],
)
def test_an_encoder_of_another_size_is_refused(world: Path, source: Path, change: str, words: str) -> None:
    other = config(world, FROZEN, change)
    with pytest.raises(RunError, match=words):
        train_run(other, world / "runs" / "other", stage="ranking", source_run=source, base=world)
