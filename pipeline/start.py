"""Where the stages of a training start, and what they leave for one that goes on from them.

Without a source the towers start at random and the ranker with the towers' embeddings. A source is a run to go on from
(`continuation`), unless the ranker keeps a frozen encoder: then it is a transfer to other tasks or other data, which
copies what it knows by raw id and nothing else (`transfer`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..artifacts.folder import Run, RunWriter
from ..artifacts.names import WARM_START
from ..data.dataset import Dataset
from ..funnel.run import RANKER_STATE, TOWER_STATE, save_state
from ..ranking.ranker import Ranker
from ..retrieval.retriever import Retriever
from ..retrieval.towers.two_tower import TwoTower
from ..training.optim import Optimizer
from .continuation import SourceRun, remember, take_up
from .transfer import transfer
from .warm_start import as_json, copy_towers, log_report, warm_start_ranker

STATES = {"retrieval": TOWER_STATE, "ranking": RANKER_STATE}


@dataclass
class Start:
    """Of one training.

    Attributes:
        source: the run named with --from, or None.
        transfer: whether only a frozen encoder is taken from it.
        states: stage -> its optimiser's state, for the run folder.
        report: stage -> where its rows came from, for the run folder.
    """

    source: SourceRun | None
    transfer: bool
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    _used: dict[str, Optimizer] = field(default_factory=dict)

    @property
    def dataset(self) -> Dataset | None:
        """The data set that the new one is built on."""
        return None if self.source is None or self.transfer else self.source.stages.dataset

    @property
    def identity(self) -> list[str]:
        """What a checkpoint of the training depends on besides data and configuration."""
        return [] if self.source is None else [self.source.identity]

    def of_towers(self, dataset: Dataset) -> Callable[[TwoTower, Optimizer], None]:
        """What to do with fresh towers before they are trained."""

        def prepare(towers: TwoTower, optimizer: Optimizer) -> None:
            self._used["retrieval"] = optimizer
            learned = self.source.towers() if self.source is not None else None
            if self.source is None or learned is None:
                return
            if self.transfer:
                assert isinstance(learned.model, TwoTower)
                report = copy_towers(towers, dataset, learned.model, learned.dataset)
            else:
                report = take_up(towers, optimizer, dataset, learned)
                log_report("retriever", self.source.name, report)
            self.report["retrieval"] = as_json(self.source.name, report)

        return prepare

    def of_ranker(self, dataset: Dataset, retriever: Retriever | None) -> Callable[[Ranker, Optimizer], None]:
        """What to do with a fresh ranker before it is trained.

        Args:
            dataset: encoded data.
            retriever: the stage before, whose embeddings it may begin with; None for none.
        """

        def prepare(ranker: Ranker, optimizer: Optimizer) -> None:
            self._used["ranking"] = optimizer
            learned = self.source.ranker() if self.source is not None else None
            if self.source is not None and self.transfer:
                self.report["ranking"] = as_json(self.source.name, transfer(ranker, dataset, self.source))
            elif self.source is not None and learned is not None:
                report = take_up(optimizer.model.get_submodule("model"), optimizer, dataset, learned)
                log_report("ranker", self.source.name, report)
                self.report["ranking"] = as_json(self.source.name, report)
            elif retriever is not None:
                self.report["ranking"] = as_json("the retriever", warm_start_ranker(ranker, dataset, retriever))

        return prepare

    def keep(self, stage: str, model: nn.Module) -> None:
        """Remember the optimiser's state after a stage's training, if its configuration asks for it."""
        optimizer = self._used[stage]
        if optimizer.config.keep_state:
            self.states[stage] = remember(optimizer, model)

    def keep_retrieval(self, old: Run, writer: RunWriter) -> None:
        """Hand on what an earlier training of the same run left of its towers, which stay."""
        if TOWER_STATE in old:
            shutil.copy(old.file(TOWER_STATE), writer.file(TOWER_STATE))
        if WARM_START in old:
            self.report = {k: v for k, v in old.read_json(WARM_START).items() if k == "retrieval"} | self.report

    def write(self, writer: RunWriter) -> None:
        """Put states and report into the run folder."""
        for stage, state in self.states.items():
            save_state(state, writer.file(STATES[stage]))
        if self.report:
            writer.file(WARM_START).write_text(json.dumps(self.report, indent=1), encoding="utf-8")
