"""A training in several processes: what it refuses, and the data set that all of them read.

The first process builds the data set and writes it down; the others map its files, so that a machine holds it once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..base import ranks
from ..base.errors import ConfigError
from ..base.files import empty
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.store import load_dataset, save_dataset

WHOLE_GRADIENTS = ("gradnorm", "pcgrad")
"""Balances that look at every task's whole gradient, which no process has."""


def refuse_undistributed(config: RunConfig) -> None:
    """Refuse what several processes cannot do together, before anything is read.

    Raises:
        ConfigError: a setting asks for it, or for several processes where only one was started.
    """
    if config.runtime.processes > 1 and ranks.world() == 1:
        raise ConfigError(
            f"runtime.processes = {config.runtime.processes} needs that many processes, and this one was started "
            "alone; run `recsys train CONFIG --processes N`, start the script with torchrun, or set it to 1"
        )
    if ranks.world() == 1:
        return
    if config.ranking.balance.kind in WHOLE_GRADIENTS:
        raise ConfigError(
            f'ranking.balance.kind = "{config.ranking.balance.kind}" needs every task\'s whole gradient, of which '
            "several processes have a part each; train in one process, or take static, schedule or uncertainty"
        )
    if config.ranking.model.kind == "trees" or config.ranking.trees.enabled:
        raise ConfigError(
            "boosted trees are fitted in one process; train in one, or leave ranking.trees and the kind trees out"
        )
    if config.runtime.device != "cpu":
        raise ConfigError(
            f'runtime.device = "{config.runtime.device}": several processes train on the CPU only; '
            'set runtime.device = "cpu", or train in one process'
        )


def shared_dataset(make: Callable[[], Dataset], folder: Path) -> Dataset:
    """The data set that `make` builds; in several processes the first one builds it and the others map it.

    Args:
        make: called in the first process only.
        folder: where its files lie until all have opened them; on a file system that all processes see.
    """
    if ranks.world() == 1:
        return make()
    built: Dataset | None = None
    if ranks.first():
        with ranks.alone():
            built = make()
        folder.mkdir(parents=True, exist_ok=True)
        empty(folder)
        save_dataset(built, folder)
    ranks.wait()
    found = load_dataset(folder.joinpath) if built is None else built
    ranks.wait()
    if ranks.first():  # files that are mapped stay until they are let go
        shutil.rmtree(folder)
    return found
