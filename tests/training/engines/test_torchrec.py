"""Tables in pieces are the same training as whole ones, and come out whole; their checkpoints fit any number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.base.pairs import torchrec_finding
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.parity import all_of
from recsys.tests.support.processes import together
from recsys.tests.support.spread import Found, every_way, resumed, trained
from recsys.training.runtime import Runtime

pytestmark = [
    pytest.mark.torchrec,
    pytest.mark.slow,
    pytest.mark.skipif(torchrec_finding().level != "ok", reason=torchrec_finding().sentence),
]

STEPS = 50
Cases = dict[str, tuple[str, dict[str, Any]]]
ADAGRAD = {"table_optimizer": "rowwise_adagrad", "clip_norm": 0.0}
CASES: Cases = {
    "mixed": ("towers", {"loss": "mixed", "optim": ADAGRAD}),
    "rows and requests": ("select", {"model": {"kind": "mmoe"}, "optim": {"eps": 1e-4, **ADAGRAD}}),
}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found, Found]:
    """The folder of the checkpoints, and what each of two processes found."""
    folder = tmp_path_factory.mktemp("checkpoints")
    trained(Runtime(1), folder / "whole", 2)
    first, second = together(every_way, folder)
    return folder, first, second


def of(found: Found, way: str) -> Found:
    return {name.removeprefix(f"{way}: "): t for name, t in found.items() if name.startswith(f"{way}: ")}


def state(found: Found) -> Found:
    """Weights and moments, without what was seen on the way."""
    return {name: tensor for name, tensor in found.items() if name not in ("losses", "seen")}


def apart(one: Found, other: Found, least: float = 1e-5) -> dict[str, float]:
    far = {name: float((one[name] - other[name]).abs().max()) for name in nonempty(one) if one[name].numel()}
    return {name: distance for name, distance in far.items() if not distance <= least}


@pytest.mark.parametrize(
    ("way", "alone"),
    [
        ("whole", {}),
        ("left alone", {}),
        ("row_wise", {"epochs": 2}),
        ("table_wise", {"epochs": 2, "metric": "second"}),
        ("chosen", {"metric": "second"}),
    ],
)
def test_every_way_is_the_training_of_one_process(
    way: str, alone: dict[str, Any], ways: tuple[Path, Found, Found]
) -> None:
    _, first, second = ways
    expected = trained(Runtime(1), **alone)
    assert len(expected["losses"]) >= 10
    for found in (of(first, way), of(second, way)):
        assert found.keys() == expected.keys()
        assert not apart(expected, found)


def test_pieces_begin_where_whole_tables_were_left(ways: tuple[Path, Found, Found]) -> None:
    assert not apart(state(trained(Runtime(1))), state(of(ways[1], "from whole")))


def test_a_checkpoint_of_pieces_holds_safetensors_and_json(ways: tuple[Path, Found, Found]) -> None:
    newest = max((ways[0] / "row_wise").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    kinds = [path.suffix for path in newest.iterdir()]
    assert sorted(kinds) == [".json", ".safetensors", ".safetensors"]


def test_pieces_are_resumed_by_one_process_with_whole_tables(ways: tuple[Path, Found, Found], tmp_path: Path) -> None:
    shutil.copytree(ways[0] / "row_wise", tmp_path / "row_wise")
    found = trained(Runtime(1), tmp_path / "row_wise", 3, resume=True)
    assert not apart(state(trained(Runtime(1))), state(found))


def test_pieces_are_resumed_bit_for_bit_by_as_many_and_cut_anew_by_others(
    ways: tuple[Path, Found, Found], tmp_path: Path
) -> None:
    for way in ("row_wise", "table_wise"):
        shutil.copytree(ways[0] / way, tmp_path / way)
    expected = state(of(ways[1], "left alone"))
    for found in nonempty(together(resumed, tmp_path / "row_wise", "row_wise")):
        assert apart(expected, found, 0.0) == {}
    chosen = state(trained(Runtime(1), metric="second"))  # the best epoch is in the checkpoint, and no other is better
    for found in nonempty(together(resumed, tmp_path / "table_wise", "row_wise", count=3)):
        assert apart(chosen, found) == {}


@pytest.mark.parametrize("shard", ["row_wise", pytest.param("table_wise", marks=pytest.mark.exhaustive)])
def test_towers_and_rankers_train_as_with_whole_tables(shard: Any) -> None:
    torch.set_num_threads(1)
    runtime = Runtime(1, engine="torchrec", shard=shard, shard_from=3)
    one, everyone = all_of(CASES, STEPS), together(all_of, CASES, STEPS, runtime)
    for found in everyone:
        assert not apart(one, found, 1e-4)
    for name in CASES:
        assert len(one[f"{name}: losses"]) >= STEPS
