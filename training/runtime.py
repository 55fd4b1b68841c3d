"""How numbers are computed: threads, precision, seeds. Decided once, logged once."""

from __future__ import annotations

import ctypes
import logging
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..base.settings import Settings
from ..nn.precision import bf16_is_fast, reduced_matmul

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 1 << 30


class RuntimeConfig(Settings):
    """How training and scoring use the machine."""

    threads: int = 0
    """CPU threads of one operation; 0 leaves the choice to torch. Results repeat bit for bit with 1. With more they do
    on an idle machine; on a busy one, sums have been seen to differ in their last digits."""
    bf16: Literal["auto", "on", "off"] = "off"
    """Round the operands of the training step's matrix products to bfloat16; everything else, scoring included, stays
    float32. `auto`: where the hardware is fast at it. Off, the same numbers come out everywhere."""


@dataclass(frozen=True)
class Runtime:
    """The decisions.

    Attributes:
        threads: CPU threads of one operation.
        bf16: whether matrix products of the training step round their operands.
    """

    threads: int
    bf16: bool

    def arithmetic(self) -> AbstractContextManager[None]:
        """Context of a training step, its backward pass included."""
        return reduced_matmul(self.bf16)


@contextmanager
def runtime_session(config: RuntimeConfig, seed: int) -> Iterator[Runtime]:
    """Threads and seeds of one training; when it ends, the process has those it had before.

    Args:
        config: see `RuntimeConfig`.
        seed: of the global generators of torch, numpy and Python, from which dropout and libraries draw.
    """
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - kept, not drawn from
    try:
        yield _decided(config, seed)
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


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
    bf16 = config.bf16 == "on" or (config.bf16 == "auto" and bf16_is_fast())
    seed_everything(seed)
    runtime = Runtime(torch.get_num_threads(), bf16)
    log.info("runtime: %d threads, %s, seed %d", runtime.threads, "bfloat16 products" if bf16 else "float32", seed)
    return runtime


def keep_memory() -> None:
    """Ask the C library to keep freed blocks of megabytes instead of returning each to the system at once.

    This is a setting of the whole process, so only programs that own theirs make it (the command line, benchmarks).

    A training step frees and takes the same large buffers again and again; given back, every one of them is zeroed
    page by page by the kernel before it can be used again (a tenth of a retriever's step, measured). Does nothing
    where the library has no such knob. Compiled kernels, on the other hand, are kept for the last 64 shapes only.
    """
    with suppress(OSError, AttributeError, TypeError):  # Windows has no C library to name by None, macOS no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    # Batches of histories have ever new shapes, and the CPU library keeps a compiled kernel of megabytes for each.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries may draw from the global generator
    random.seed(seed)
