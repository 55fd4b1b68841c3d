"""How numbers are computed: threads, precision, seeds. Decided once, logged once."""

from __future__ import annotations

import ctypes
import logging
import os
import random
from contextlib import AbstractContextManager, suppress
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
    """CPU threads of one operation; 0 leaves the choice to torch. Results repeat for the same number of threads."""
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


def start_runtime(config: RuntimeConfig, seed: int) -> Runtime:
    """Apply `config` to this process, seed every global generator, and log what was decided.

    Args:
        config: see `RuntimeConfig`.
        seed: of torch, numpy and Python.

    Returns:
        The decisions.
    """
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    keep_memory()
    bf16 = config.bf16 == "on" or (config.bf16 == "auto" and bf16_is_fast())
    seed_everything(seed)
    runtime = Runtime(torch.get_num_threads(), bf16)
    log.info(
        "runtime: %d threads, %s, seed %d",
        runtime.threads,
        "bfloat16 products" if bf16 else "float32",
        seed,
    )
    return runtime


def keep_memory() -> None:
    """Ask the C library to keep freed blocks of megabytes instead of returning each to the system at once.

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
