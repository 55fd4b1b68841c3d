"""Where tensors live: the device that a configuration asks for, the way there, and the way back to numpy.

Three rules hold everywhere. A module is moved once, when its training begins or when it is to answer; a batch is moved
once, between what was drawn for it on the CPU and the step; a result leaves by `to_host` and by nothing else.
"""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn

from .arrays import F32
from .errors import ConfigError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


def pick_device(name: str) -> torch.device:
    """The device called `auto` (a GPU where PyTorch sees one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: the GPU does not exist for PyTorch, or the name is another one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else CPU
    if name == "cpu":
        return CPU
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise ConfigError(f'there is no device "{name}"; expected auto, cpu, cuda or cuda:N, such as cuda:0')
    if not count:
        build = "was built for CUDA but sees no GPU" if torch.version.cuda else "was built for the CPU alone"
        raise ConfigError(
            f'device = "{name}" needs a GPU, and PyTorch {torch.__version__} {build}; set device = "cpu" or "auto", or '
            "install a PyTorch for CUDA"
        )
    if int(number or 0) >= count:
        raise ConfigError(f'device = "{name}" does not exist; PyTorch sees {count} GPUs, cuda:0 to cuda:{count - 1}')
    return torch.device("cuda", int(number or 0))


def kept_device(name: str, what: str) -> torch.device:
    """As `pick_device`, for a device that is stored and not asked for now: the CPU where the GPU is not there.

    Args:
        name: the stored device.
        what: what is to be there, for the log.
    """
    try:
        return pick_device(name)
    except ConfigError:
        log.warning('%s: device = "%s" is not there; the CPU is used', what, name)
        return CPU


def device_name(device: torch.device) -> str:
    """The device for a log: `cpu`, or a GPU with its model."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU without any."""
    return next((parameter.device for parameter in module.parameters()), CPU)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; the host does not wait for a copy to a GPU."""
    where = torch.device(device)
    if where.type == "cuda" and tensor.device.type == "cpu":
        # Only from pinned memory is the copy queued behind the steps before it instead of waiting for them.
        return tensor.pin_memory().to(where, non_blocking=True)
    return tensor.to(where)


def to_host(tensor: Tensor) -> F32:
    """What a model made, wherever it is, as a float32 array without gradient."""
    return cast("F32", tensor.detach().float().cpu().numpy())
