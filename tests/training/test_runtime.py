"""The runtime: seeds, threads, precision, and a machine class that names no machine."""

from __future__ import annotations

import logging
import platform
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recsys.base.machine import machine_class
from recsys.training import runtime
from recsys.training.runtime import RuntimeConfig, start_runtime


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def draw() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002


def test_a_seed_settles_every_global_generator() -> None:
    config = RuntimeConfig()
    start_runtime(config, seed=7)
    first = draw()
    start_runtime(config, seed=7)
    assert draw() == first
    start_runtime(config, seed=8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_decisions_are_applied_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = start_runtime(RuntimeConfig(threads=1), seed=3)
    assert (found.threads, torch.get_num_threads()) == (1, 1)
    assert len(caplog.records) == 1
    assert "1 threads, float32, seed 3" in caplog.text


@pytest.mark.parametrize(
    ("setting", "fast", "expected"),
    [
        ("off", True, False),
        ("on", False, True),
        ("auto", True, True),
        ("auto", False, False),
    ],
)
def test_bfloat16_follows_the_setting_and_the_hardware(
    monkeypatch: pytest.MonkeyPatch, setting: str, fast: bool, expected: bool
) -> None:
    monkeypatch.setattr(runtime, "bf16_is_fast", lambda: fast)
    found = start_runtime(RuntimeConfig(bf16=setting), seed=0)  # type: ignore[arg-type]
    assert found.bf16 is expected


def test_the_machine_class_names_the_kind_of_machine_only() -> None:
    described = machine_class()
    assert "cores" in described
    assert torch.__version__ in described
    assert platform.node() not in described
