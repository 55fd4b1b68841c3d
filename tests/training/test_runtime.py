"""The runtime: seeds, threads, precision, and a machine class that names no machine."""

from __future__ import annotations

import logging
import platform
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recsys.base.device import pick_device
from recsys.base.errors import ConfigError
from recsys.base.machine import machine_class
from recsys.training import runtime
from recsys.training.runtime import Precision, Runtime, RuntimeConfig, start_runtime


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
    assert "cpu, 1 threads, float32, seed 3" in caplog.text


@pytest.mark.parametrize(
    ("setting", "fast", "expected"),
    [
        ("off", True, "float32"),
        ("on", False, "bf16"),
        ("auto", True, "bf16"),
        ("auto", False, "float32"),
    ],
)
def test_the_key_before_precision_is_still_read(
    monkeypatch: pytest.MonkeyPatch, setting: str, fast: bool, expected: str
) -> None:
    monkeypatch.setattr(runtime, "bf16_is_fast", lambda: fast)
    found = RuntimeConfig.model_validate({"bf16": setting, "threads": 1})
    assert found.precision == expected
    assert RuntimeConfig.model_validate({"bf16": setting, "precision": "tf32"}).precision == "tf32"


def test_a_wrong_value_of_the_old_key_is_refused_as_an_unknown_one() -> None:
    with pytest.raises(ValueError, match="bf16"):
        RuntimeConfig.model_validate({"bf16": "yes"})


@pytest.mark.parametrize(
    ("precision", "device", "reduced"),
    [("float32", "cuda", False), ("tf32", "cpu", False), ("tf32", "cuda", True), ("bf16", "cpu", True)],
)
def test_precision_rounds_where_the_device_has_it(precision: Precision, device: str, reduced: bool) -> None:
    assert Runtime(1, precision, torch.device(device)).reduced is reduced


@pytest.mark.parametrize(
    ("precision", "fast", "warned"), [("bf16", False, True), ("bf16", True, False), ("float32", False, False)]
)
def test_bfloat16_in_software_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: Precision, fast: bool, warned: bool
) -> None:
    monkeypatch.setattr(runtime, "bf16_is_fast", lambda: fast)
    start_runtime(RuntimeConfig(precision=precision), seed=0)
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert ["several times slower than float32" in message for message in messages] == [True] * warned


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with caplog.at_level(logging.INFO):
        assert start_runtime(RuntimeConfig(device="auto"), seed=0).device == torch.device("cpu")
    assert "runtime: cpu" in caplog.text
    with pytest.raises(ConfigError, match=r'^device = "cuda:1" needs a GPU, .*; set device = "cpu" or "auto"'):
        start_runtime(RuntimeConfig(device="cuda:1"), seed=0)


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="device"):
        RuntimeConfig(device="tpu")
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        pick_device("cuda:x")


def test_the_machine_class_names_the_kind_of_machine_only() -> None:
    described = machine_class()
    assert "cores" in described
    assert torch.__version__ in described
    assert platform.node() not in described
