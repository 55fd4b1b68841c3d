"""`--processes N`: this command again, N times side by side, under torch's own launcher."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ..base.errors import EndedWithOthersError, LostProcessError, RunError

LAUNCHED = "RECSYS_LAUNCHED"
"""Set in processes that this file starts: what becomes of them is said here."""
SILENT = -1
"""What a process returns that ended because another one had failed."""


@contextmanager
def shared_work(arguments: Sequence[str], processes: int, restarts: int = 0) -> Iterator[bool]:
    """Work inside that this process shares with others, where it is one of several; else this command, N times.

    Args:
        arguments: what follows `recsys`.
        processes: how many work; an outer launcher decides where there is one.
        restarts: see `run_in_processes`.

    Yields:
        Whether this process is the one that speaks.

    Raises:
        typer.Exit: others have done it, with their exit code.
    """
    from ..base import ranks
    from ..training.engines.joining import invited, joined

    if processes > 1 and not invited():
        raise typer.Exit(run_in_processes(arguments, processes, restarts, "what is finished is kept: call it again"))
    with joined():
        yield ranks.first()


def run_in_processes(
    arguments: Sequence[str],
    processes: int,
    restarts: int,
    advice: str = "the checkpoints are whole: start again with --resume",
) -> int:
    """Run the command line in several processes that work together.

    Args:
        arguments: what follows `recsys`.
        processes: how many.
        restarts: how often all are started again from the last checkpoint after one was lost; a failure that has a
            sentence is not repeated.
        advice: what to do after that.

    Returns:
        The exit code.

    Raises:
        RunError: a process was killed more often than that.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failure is told once, and by us
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
        start_method="spawn",
    )
    try:
        codes: dict[int, Any] = elastic_launch(config, run_as_one)(list(arguments))
    except ChildFailedError as error:
        rank, lost = error.get_first_failure()
        how = f"killed by {lost.signal_name()}" if lost.exitcode < 0 else f"ended with code {lost.exitcode}"
        often = f", after {restarts} restarts" if restarts else ""
        raise RunError(f"process {rank} of {processes} was {how}{often}; {advice}") from None
    except SignalException:
        return 130
    return max(0, *(int(code) for code in codes.values() if code is not None))


def run_as_one(arguments: list[str]) -> int:
    """What each of the processes does; a failure that was told in a sentence is a result here, and not repeated."""
    # By its name, as a new process would: the command line knows this file, and not the other way round.
    code: int = importlib.import_module(f"{__package__}.main").main(arguments)
    from ..base import ranks

    if code == LostProcessError.exit_code or (code and not ranks.met):  # others would wait for one they never met
        sys.exit(code)  # the launcher starts all of them again, or says which one was lost
    return SILENT if code == EndedWithOthersError.exit_code else code
