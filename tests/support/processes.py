"""A function run by several processes that train together, each on this machine and each with its own result."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

Found = dict[str, Tensor]


def together(work: Callable[..., Found], *arguments: Any, count: int = 2) -> list[Found]:
    """What `work(*arguments)` returns in each of `count` new processes; it must be a function of a module."""
    module = work.__module__ if work.__module__.startswith("recsys.") else f"recsys.{work.__module__}"
    named = module, work.__qualname__  # a file of tests has another name there than the test runner gives it
    with tempfile.TemporaryDirectory() as folder:
        start_processes(  # type: ignore[no-untyped-call]
            _one, (count, Path(folder), named, arguments), count, join=True, start_method="spawn"
        )
        return [load_file(Path(folder) / f"{rank}.safetensors") for rank in range(count)]


def _one(rank: int, count: int, folder: Path, named: tuple[str, str], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work: Callable[..., Found] = getattr(importlib.import_module(named[0]), named[1])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    found = {name: tensor.detach().clone().contiguous() for name, tensor in work(*arguments).items()}
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()
