"""Where the stages of a training start, and what they leave for one that goes on from them.

Without a source the towers start at random and the ranker with the towers' embeddings. A source is a run to go on from
(`continuation`), unless the configuration takes less of it: its embedding rows alone, as a stage of GemNN's chain does
(`warm_start.copy_plainly`), or a frozen encoder for other tasks or other data, copied by raw id (`transfer`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from ..base.counting import STEP
from ..base.errors import ConfigError
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.encoding.carry import refuse_known_answers
from ..data.split import Part
from ..ranking.train import RankerTraining
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import TowerTraining
from ..retrieval.towers.two_tower import TwoTower
from .continuation import SourceRun, take_up
from .transfer import check_transfer, transfer
from .warm_start import as_json, copy_plainly, copy_towers, log_report, warm_start_ranker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Of one training.

    Attributes:
        source: the run named with --from, or None.
        takes: what is taken from it: the whole `run`, embedding `rows` alone, or a frozen `encoder`.
        plain: whether a ranker without a source takes the towers' rows as they are.
    """

    source: SourceRun | None
    takes: Literal["run", "rows", "encoder"]
    plain: bool

    @classmethod
    def of(cls, source: SourceRun | None, config: RunConfig, stage: str) -> Start:
        """The start of a training of `stage` by `config`.

        Raises:
            ConfigError: rows or an encoder of a run are to be taken and no run is named.
        """
        if stage != "retrieval":
            check_transfer(config.ranking.model, source)
        if config.start == "rows" and source is None:
            raise ConfigError(
                'start = "rows" begins with the embeddings of another run; name that run with --from, or set '
                'start = "run"'
            )
        takes: Literal["run", "rows", "encoder"] = "encoder" if config.ranking.model.keeps_encoder else config.start
        return cls(source, takes, plain=config.ranking.warm_start_rows == "plain")

    @property
    def dataset(self) -> Dataset | None:
        """The data set that the new one is built on."""
        return self.source.trained.dataset if self.source is not None and self.takes == "run" else None

    @property
    def identity(self) -> list[str]:
        """What a checkpoint of the training depends on besides data and configuration."""
        return [] if self.source is None else [self.source.identity, *([self.takes] if self.takes == "rows" else [])]

    def check(self, config: RunConfig, dataset: Dataset, stage: str) -> None:
        """Say what is carried on, and stop before anything is trained when the ranker could not go on afterwards.

        Raises:
            RunError: the source's ranker is another one.
            DataError: rows are taken from a run that learned from what is held out here.
        """
        if self.source is not None and self.takes == "rows":
            known = self.source.trained.dataset
            refuse_known_answers(known, dataset.events, config.data, dataset.user_ids, dataset.item_ids)
        if self.source is None or self.takes != "run":
            return
        events, carried, learn = dataset.events, 0, 0
        for start in range(0, len(events), STEP):  # the log may be larger than memory
            there = events.parts[start : start + STEP][events.source_rows[start : start + STEP] < 0]
            carried, learn = carried + len(there), learn + int((there == Part.TRAIN).sum())
        log.info("%d events of %s carried on, %d of them to learn from", carried, self.source.name, learn)
        if stage != "retrieval":
            self.source.refuse_other_ranker(config, dataset)

    def towers(self, training: TowerTraining, dataset: Dataset) -> dict[str, Any]:
        """Put fresh towers where they start; the report of what was copied, empty for a random start."""
        learned = self.source.towers() if self.source is not None else None
        if self.source is not None and self.takes == "rows":
            report = copy_plainly([training.model.table], dataset, self.source.trained)
            log_report("retriever", self.source.name, report)
            training.restore_frozen()
            return as_json(self.source.name, report)
        if self.source is None or learned is None:
            return {}
        if self.takes == "encoder":
            assert isinstance(learned.model, TwoTower)
            report = copy_towers(training.model, dataset, learned.model, learned.dataset)
        else:
            report = take_up(training.model, training.optimizer, dataset, learned)
            log_report("retriever", self.source.name, report)
        training.restore_frozen()
        if training.model.bias is not None:
            training.model.empty_weight.fill_(1.0)  # chosen anew when the training is over
        return as_json(self.source.name, report)

    def ranker(self, training: RankerTraining, dataset: Dataset, retriever: Retriever | None) -> dict[str, Any]:
        """Put a fresh ranker where it starts; the report of what was copied, empty for a random start.

        Args:
            training: the ranker and its optimiser.
            dataset: encoded data.
            retriever: the stage before, whose embeddings the ranker may begin with; None for none.
        """
        learned = self.source.ranker() if self.source is not None else None
        if self.source is not None and self.takes == "rows":
            copied = copy_plainly(training.ranker.tables(), dataset, self.source.trained)
            log_report("ranker", self.source.name, copied)
            report = as_json(self.source.name, copied)
        elif self.source is not None and self.takes == "encoder":
            report = as_json(self.source.name, transfer(training.ranker, dataset, self.source))
        elif self.source is not None and learned is not None:
            copied = take_up(training.model, training.optimizer, dataset, learned)
            log_report("ranker", self.source.name, copied)
            report = as_json(self.source.name, copied)
        elif retriever is not None:
            rows: Literal["plain", "rescaled"] = "plain" if self.plain else "rescaled"
            report = as_json("the retriever", warm_start_ranker(training.ranker, dataset, retriever, rows))
        else:
            return {}
        training.restore_frozen()
        return report
