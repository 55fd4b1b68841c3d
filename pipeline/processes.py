"""A training in several processes: what it refuses, and the data set that all of them read.

The first process builds the data set and writes it down; the others map its files, so that a machine holds it once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..base import ranks
from ..base.errors import ConfigError
from ..base.files import empty
from ..base.pairs import torchrec_finding
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.store import load_dataset, save_dataset
from ..nn.rows import matrices_on_disk

WHOLE_GRADIENTS = ("gradnorm", "pcgrad", "cagrad", "metabalance")
"""Balances that look at every task's whole gradient, which no process has."""


def refuse_undistributed(config: RunConfig, stage: str = "all") -> None:
    """Refuse what several processes cannot do together, before anything is read.

    Args:
        config: the whole configuration.
        stage: what is trained: `retrieval`, `ranking` or `all`.

    Raises:
        ConfigError: a setting asks for it, or for several processes where only one was started.
    """
    if config.runtime.processes > 1 and ranks.world() == 1:
        raise ConfigError(
            f"runtime.processes = {config.runtime.processes} needs that many processes, and this one was started "
            "alone; run `recsys train CONFIG --processes N`, start the script with torchrun, or set it to 1"
        )
    if ranks.world() > 1:
        refuse_together(config, stage)


def refuse_together(config: RunConfig, stage: str = "all") -> None:
    """Refuse what no number of processes beyond one can do; arguments as of `refuse_undistributed`.

    Raises:
        ConfigError: a setting asks for it.
    """
    if config.ranking.balance.kind in WHOLE_GRADIENTS:
        raise ConfigError(
            f'ranking.balance.kind = "{config.ranking.balance.kind}" needs every task\'s whole gradient, of which '
            "several processes have a part each; train in one process, or take static, schedule or uncertainty"
        )
    ranking = config.ranking
    if ranking.model.kind == "trees" or ranking.trees.enabled or ranking.distil.grows_trees:
        raise ConfigError(
            "boosted trees are fitted in one process; train in one, or leave ranking.trees, the kind trees and "
            'ranking.distil.by = "trees" out'
        )
    if config.runtime.device != "cpu":
        raise ConfigError(
            f'runtime.device = "{config.runtime.device}": several processes train on the CPU only; '
            'set runtime.device = "cpu", or train in one process'
        )

    if config.runtime.engine == "torchrec":
        _refuse_unspread(config, stage)


def _refuse_unspread(config: RunConfig, stage: str) -> None:
    """What tables in pieces cannot do: FBGEMM moves a row when its gradient arrives, on the CPU by no Adam."""
    found = torchrec_finding()
    if found.level != "ok":
        raise ConfigError(f'runtime.engine = "torchrec": {found.sentence}')
    wanted: list[str] = []
    for name, section in (("retrieval", config.retrieval), ("ranking", config.ranking)):
        if stage not in (name, "all"):
            continue
        optim, key = section.optim, f"{name}.optim"
        if optim.table_optimizer != "rowwise_adagrad":
            wanted.append(f'{key}.table_optimizer = "rowwise_adagrad" (it is "{optim.table_optimizer}")')
        if optim.clip_norm > 0:  # no process knows the norm of rows that are summed where they lie
            wanted.append(f"{key}.clip_norm = 0 (it is {optim.clip_norm:g})")
        if optim.table_weight_decay > 0:
            wanted.append(f"{key}.table_weight_decay = 0 (it is {optim.table_weight_decay:g})")
    if stage != "ranking" and config.retrieval.logit_adjustment != 0:  # no process holds the biases of all items
        wanted.append(f"retrieval.logit_adjustment = 0 (it is {config.retrieval.logit_adjustment})")
    if stage != "ranking" and config.retrieval.new_item_bias is not None:
        wanted.append("no retrieval.new_item_bias")
    if stage != "ranking" and config.retrieval.linear != 0:
        wanted.append(f"retrieval.linear = 0 (it is {config.retrieval.linear})")
    if wanted:
        raise ConfigError(f'runtime.engine = "torchrec" needs {", ".join(wanted)}')


def tables_on_disk(config: RunConfig, folder: Path) -> AbstractContextManager[None]:
    """Inside, tables lie on a disk while they are whole, where a training holds them in pieces.

    Args:
        config: says so.
        folder: exists, and is on the disk.
    """
    return matrices_on_disk(folder) if config.runtime.engine == "torchrec" and ranks.world() > 1 else nullcontext()


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
