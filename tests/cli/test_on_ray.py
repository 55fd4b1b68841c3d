"""`--launcher ray` on a cluster of two nodes: the run of torchrun, also after a worker was killed; one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.tests.cli.test_processes import SHORT
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TINY, TinyRun

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'recsys-funnel[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow]  # a cluster takes ten seconds, each of its workers as many


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes on this machine, with one processor each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield str(cluster.address)
    cluster.shutdown()


def started(world: Path, address: str, *words: str) -> subprocess.Popen[str]:
    settings = [word for key in (*TINY, *SHORT) for word in ("--set", key)]
    place = {"PYTHONPATH": str(Path(recsys.__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "recsys.cli.main", "train", "demo.toml", *settings, *words],
        cwd=world,
        env={**os.environ, **place, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def weights(run: Path) -> dict[str, bytes]:
    opened = open_run(run)
    return {name: opened.file(name).read_bytes() for name in opened.manifest.files if name.endswith(".safetensors")}


def workers() -> list[int]:
    """Processes of Ray that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if name.startswith(b"ray::") and b"Worker" in name:
            found.append(int(folder.name))
    return sorted(found)


def test_a_killed_worker_is_made_up_for_and_the_run_is_that_of_torchrun(tiny_run: TinyRun, address: str) -> None:
    plain = started(tiny_run.world, address, "--run", "runs/torchrun", "--processes", "2")
    said = plain.communicate()
    assert plain.returncode == 0, said
    training = started(tiny_run.world, address, "--run", "runs/ray", "--processes", "2", "--launcher", "ray")
    assert training.stdout is not None
    assert training.stderr is not None
    killed, said_by_workers = 0, list[str]()
    for line in training.stderr:  # Ray tells here what workers log
        said_by_workers.append(line)
        if not killed and "training the retriever: epoch 1" in line and workers():
            killed = workers()[-1]
            os.kill(killed, signal.SIGKILL)
    out = training.stdout.read()
    assert training.wait() == 0, (out, said_by_workers)
    assert killed
    assert out.splitlines()[-1] == "runs/ray"  # above it Ray tells of the worker that died
    run = recsys.load(tiny_run.world / "runs" / "ray")
    assert len(run.recommend([run.trained.dataset.user_ids[0]], k=3)) == 3
    assert weights(run.folder or Path()) == dict(nonempty(weights(tiny_run.world / "runs" / "torchrun").items()))
    assert not list((tiny_run.world / "runs").glob(".ray*"))


def test_a_failure_is_told_and_not_repeated(tiny_run: TinyRun, address: str) -> None:
    wrong = ("--processes", "2", "--launcher", "ray", "--run", "runs/no", "--set", "data.events=gone.csv")
    training = started(tiny_run.world, address, *wrong)
    out, err = training.communicate()
    assert training.returncode == 1
    told = [line for line in (out + err).splitlines() if "error: " in line]
    assert len(told) == 1
    assert "gone.csv" in told[0]
    assert not (tiny_run.world / "runs" / "no").exists()
