"""How numbers are computed: device, threads, precision, seeds. Decided once, logged once."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from ..base import ranks
from ..base.device import CPU, device_name, pick_device
from ..base.memory import keep_memory
from ..base.settings import Settings
from ..nn.precision import bf16_is_fast, reduced_matmul
from .callbacks import Callback
from .engines.pieces import Shard

log = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bf16"]
Engine = Literal["local", "torchrec"]


class RuntimeConfig(Settings):
    """How training and scoring use the machine."""

    threads: int = 0
    """CPU threads of one operation; 0 leaves the choice to torch. Results repeat bit for bit with 1. With more they do
    on an idle machine; on a busy one, sums have been seen to differ in their last digits."""
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where models are trained: `cpu`, `cuda`, `cuda:N`, or `auto`, a GPU where there is one. What decides what is
    learned (order, negatives, horizons, requests) is drawn the same on every device; sums and dropout differ."""
    deterministic: bool = False
    """On a GPU, sum in a fixed order, which is slower: two runs are then equal to the last bit, as on the CPU."""
    precision: Precision = "float32"
    """Of the training step's matrix products; everything else, scoring included, stays float32. `tf32`: rounded
    operands on a GPU, float32 on the CPU. `bf16`: bfloat16 operands and activations (autocast), about twice as fast on
    a CPU with bfloat16 arithmetic, and slow on one without."""

    processes: int = Field(default=1, ge=1)
    """Processes that train one model together, each with its share of every batch; batch sizes stay what they are, for
    the whole step. The result is that of one process up to the order of sums, but for dropout, which every process
    draws for its own rows. `recsys train --processes N` sets it and starts them."""
    engine: Engine = "local"
    """How several processes hold the embedding tables: every process whole ones (`local`), or each a piece of the large
    vocabularies, by TorchRec (`torchrec`; `make torchrec`). One process alone needs no engine."""
    shard: Shard = "auto"
    """`torchrec`: a vocabulary lies by rows in all processes, or whole in one of them. `auto`: by rows."""
    shard_from: int = Field(default=10_000, ge=3)
    """`torchrec`: rows of the smallest vocabulary that is divided; smaller ones lie whole in every process."""
    compile: Literal["off", "dense"] = "off"
    """`dense`: experts, towers and perceptrons are compiled when a training begins, which takes tens of seconds; meant
    for long trainings on a GPU. Sums are then rounded otherwise."""

    track: tuple[str, ...] = ()
    """Where the figures of every epoch are also written: `tensorboard:DIR` (relative to where the program stands) or
    `mlflow:URI`."""

    @model_validator(mode="before")
    @classmethod
    def _before_precision(cls, given: Any) -> Any:
        """`bf16 = "auto" | "on" | "off"`, the key before `precision`, is read for one version more."""
        if not isinstance(given, Mapping):
            return given
        # What a validator has seen is no JSON any more, and strict validation then takes no list for a tuple.
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        if given.get("bf16") not in ("auto", "on", "off"):
            return given
        rounded = given["bf16"] == "on" or (given["bf16"] == "auto" and bf16_is_fast())
        rest = {name: value for name, value in given.items() if name != "bf16"}
        return {"precision": "bf16" if rounded else "float32", **rest}


@dataclass(frozen=True)
class Runtime:
    """The decisions.

    Attributes:
        threads: CPU threads of one operation.
        precision: of the training step's matrix products, see `RuntimeConfig`.
        device: where the training runs.
        compiled: whether the dense parts of a model are compiled for its training.
        callbacks: that look on.
        engine: how several processes hold the embedding tables.
        shard: how `torchrec` divides a vocabulary,
        shard_from: of at least so many rows.
    """

    threads: int
    precision: Precision = "float32"
    device: torch.device = CPU
    compiled: bool = False
    callbacks: tuple[Callback, ...] = ()
    engine: Engine = "local"
    shard: Shard = "auto"
    shard_from: int = 10_000

    @property
    def reduced(self) -> bool:
        """Whether float32 matrix products round their operands on this device."""
        return self.precision == "bf16" or (self.precision == "tf32" and self.device.type == "cuda")

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Context of a training step, its backward pass included."""
        with ExitStack() as stack:
            stack.enter_context(reduced_matmul(self.reduced))
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            yield


@contextmanager
def runtime_session(config: RuntimeConfig, seed: int, callbacks: Sequence[Callback] = ()) -> Iterator[Runtime]:
    """Threads and seeds of one training; when it ends, the process has those it had before.

    Args:
        config: see `RuntimeConfig`.
        seed: of the global generators of torch, numpy and Python, from which dropout and libraries draw.
        callbacks: that look on.
    """
    threads, fixed_order = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - kept, not drawn from
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield replace(_decided(config, seed), callbacks=tuple(callbacks))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(fixed_order)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def start_runtime(config: RuntimeConfig, seed: int) -> Runtime:
    """Threads, seeds and memory of a whole process, for programs that own theirs, such as benchmarks.

    Args:
        config: see `RuntimeConfig`.
        seed: of the global generators of torch, numpy and Python.
    """
    keep_memory()
    return _decided(config, seed)


def _decided(config: RuntimeConfig, seed: int) -> Runtime:
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    elif ranks.world() > 1:  # the processes of a machine share its cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.beside()))
    where = pick_device(config.device)
    runtime = Runtime(
        torch.get_num_threads(),
        config.precision,
        where,
        config.compile == "dense",
        engine=config.engine,
        shard=config.shard,
        shard_from=config.shard_from,
    )
    if config.deterministic and runtime.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    seed_everything(seed)
    if config.precision == "bf16" and where.type == "cpu" and not bf16_is_fast():
        log.warning(
            'this CPU has no bfloat16 products, and precision = "bf16" computes them in software, several times slower '
            'than float32; leave [runtime] precision at "float32" here'
        )
    log.info("runtime: %s, %d threads, %s, seed %d", device_name(where), runtime.threads, runtime.precision, seed)
    return runtime


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries may draw from the global generator
    random.seed(seed)
