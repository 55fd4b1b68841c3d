"""Fixtures that every test can ask for; what they hand out is in tests/support."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import recsys
from recsys.data.world.simulate import SimulateConfig, simulate
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.testing.toy import Toy
from recsys.tests.support.public import Datasets
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun

ROOT = Path(recsys.__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: no worker of `make test` begins one when the others are about to end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _wide_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as a pipe gets them: parallel test runners say how wide their own terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def datasets() -> Datasets:
    """Root of the public data sets: `datasets / "ml-100k/ml-100k.zip"` is a path, or a skip that names the file."""
    return Datasets(Path(os.environ.get("RECSYS_DATASETS", ROOT.parent / "shared" / "datasets")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy() -> Toy:
    """See `Toy`."""
    return Toy()


@pytest.fixture(scope="session")
def shop() -> Shop:
    """See `Shop`."""
    return Shop()


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the embedded world, very small, and the demo's configuration `demo.toml`."""
    out = tmp_path_factory.mktemp("world")
    simulate(SimulateConfig(users=120, items=80, sessions=480, days=20, seed=3), out)
    shutil.copy(ROOT / "configs" / "demo.toml", out / "demo.toml")
    return out


@pytest.fixture(scope="session")
def tiny_run(tiny_world: Path) -> TinyRun:
    """See `TinyRun`."""
    run = TinyRun(tiny_world, tiny_world / "demo.toml", tiny_world / "runs" / "tiny")
    threads = torch.get_num_threads()
    train_run(run.config(), run.folder, base=tiny_world)
    build_run_index(run.folder)
    torch.set_num_threads(threads)
    return run
