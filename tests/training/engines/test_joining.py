"""Processes that are started again meet each other, and not those that are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import recsys

MEET = """
from recsys.base import ranks
from recsys.training.engines.joining import joined, restarted

with joined():
    ranks.wait()
    print(restarted())
"""
SECONDS = 90


def start(port: int, rank: int, count: int) -> subprocess.Popen[str]:
    """One of two processes of a launcher that keeps one store."""
    told = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(count),
        "GROUP_WORLD_SIZE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(recsys.__file__).parent.parent),
    }
    command = [sys.executable, "-c", MEET]
    return subprocess.Popen(command, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True)


def held(store: Any) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list_keys()}


@pytest.mark.slow
def test_a_start_reads_nothing_that_an_earlier_one_left() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for count in (0, 1):
        for key in store.list_keys():
            store.set(key, "an address where nobody answers")
        before = held(store)
        processes = [start(store.port, 0, count)]
        try:
            while held(store) == before:  # the second comes when the first has told its address and looks for it
                with suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"the first one ended with code {processes[0].wait(timeout=0.02)}")
            processes.append(start(store.port, 1, count))
            said = [process.communicate(timeout=SECONDS)[0].strip() for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert said == [str(count > 0)] * 2
