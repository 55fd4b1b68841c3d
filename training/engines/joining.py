"""Becoming one of several processes: joining them at the start, and ending with them, whoever fails.

A launcher tells every process who it is in the environment. Whoever fails first says so in the store that the
launcher keeps; the others find their connections closed, and end in silence. A person reads one sentence, not N.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ...base import ranks
from ...base.errors import EndedWithOthersError, LostProcessError

log = logging.getLogger(__name__)

PATIENCE = datetime.timedelta(days=7)
"""How long a process waits for another one: the first may read a log or fit baselines for hours. One that ends closes
its connections, which the others notice at once."""
FAILED = "recsys/failed"
STARTS = "TORCHELASTIC_RESTART_COUNT"


def invited() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether a launcher started these processes again after one was lost; for use inside `joined`.

    All say the same: of several machines, only that which lost a process counts it as a start.
    """
    return invited() and bool(ranks.summed(torch.tensor([float(os.environ.get(STARTS, "0"))])) > 0)


@contextmanager
def joined() -> Iterator[None]:
    """One of several processes inside, where a launcher started this one as such; else alone.

    Raises:
        EndedWithOthersError: another process failed and has said why.
        LostProcessError: another process is gone.
    """
    if not invited() or (ranks.met and dist.is_initialized()):
        yield
        return
    if not dist.is_initialized():  # some launchers make the group themselves, as Ray does
        _meet()
    ranks.met = True
    store = dist.distributed_c10d._get_default_store()
    failed = f"{FAILED}/{os.environ.get(STARTS, '0')}"
    logger = logging.getLogger("recsys")
    before = logger.level
    if not ranks.first():
        logger.setLevel(logging.CRITICAL)

    def ending(_: object, error: BaseException | None, __: object) -> None:
        logger.setLevel(before)
        if isinstance(error, Exception):
            _end(store, failed, error)

    with ExitStack() as stack:
        stack.callback(dist.destroy_process_group)  # whoever waits for this process notices that it ends
        stack.push(ending)
        yield


def _meet() -> None:
    """Make the group.

    torch's launcher keeps one store for all starts (https://github.com/pytorch/pytorch/issues/135712), and a process
    would wait at the address of a dead one. So each start has a name of its own there. Several machines do not agree
    which start it is: they need a store for each, which a variable of torch's gives them.
    """
    told = os.environ
    if told.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    if told.get("GROUP_WORLD_SIZE", "1") == "1":
        store = dist.PrefixStore(f"start-{told.get(STARTS, '0')}", store)  # type: ignore[attr-defined]
    elif rank == 0 and told.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        log.warning(
            "after a lost process, machines may wait for one another without an end; start torchrun with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
        )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)


def _end(store: Any, failed: str, error: Exception) -> None:
    """Claim the sentence, or find it claimed."""
    lost = _is_of_connections(error)
    try:
        claimed = store.add(failed, 0 if lost else 1)
    except (RuntimeError, OSError):  # the launcher is gone as well
        claimed = 1
    if claimed > (0 if lost else 1):
        raise EndedWithOthersError("another process has said why") from error
    if lost:
        raise LostProcessError(
            "another of these processes has ended without a word, or was killed; what was finished is whole: start "
            "again, a training with --resume"
        ) from error


def _is_of_connections(error: Exception) -> bool:
    """Whether an exception says that the other end of a connection is gone."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "connection" in text or "peer" in text)
