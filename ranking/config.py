"""The `[ranking]` section: which ranker, how its tasks are weighed, and how long it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..base.settings import OneOf, Settings
from ..base.tuned import Range
from ..training.loop import FitOptions
from ..training.optim import OptimConfig
from .balance import BalanceConfig
from .calibrate import CalibrationConfig, CalibrationKind
from .distil import DistilConfig
from .losses import LossConfig
from .ranker import RankerConfig, ranker_class, ranker_kinds
from .requests import SelectConfig
from .trees.settings import TREES, BesideConfig, TreesConfig


def _configs() -> dict[str, type[RankerConfig]]:
    found: dict[str, type[RankerConfig]] = {TREES: TreesConfig}
    found.update({kind: ranker.Config for kind, ranker in ranker_kinds().items()})
    return {kind: found[kind] for kind in sorted(found)}


class RankerCalibration(CalibrationConfig):
    """How the ranker's logits become probabilities."""

    kind: CalibrationKind = "platt"


class RankerOptim(OptimConfig):
    """How the ranker's weights move."""

    tuned = {"lr": Range(5e-4, 8e-3, log=True)}

    lr: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    final_fraction: float = Field(default=0.02, ge=0, le=1)


class RankerFit(FitOptions):
    """How long the ranker trains."""

    epochs: int = Field(default=2, ge=1)
    metric: str = "auto"
    """Validation metric that picks the best epoch, whose weights are kept: `auc`, `gauc`, `logloss` (means over binary
    tasks), `spearman` (mean over regression tasks), the same and `rmse`, `mae`, `r2` with `/<task>`, and on held-out
    requests `select_ndcg@10` and `select_loss`. `auto`: the least `select_loss` where there are requests, else the
    greatest `auc`; the least `logloss` where validation rows have one class only, the greatest `spearman` without a
    binary task. Empty: the last epoch's weights are kept."""


class RankingConfig(Settings):
    """The second stage: which ranker, how its tasks are weighed, and how long to train it."""

    model: Annotated[RankerConfig, OneOf(_configs, default="mmoe")] = Field(
        default_factory=lambda: ranker_class("mmoe").Config(kind="mmoe")
    )
    """The ranker: `kind` and that kind's own keys; `recsys models` lists the kinds."""
    loss: LossConfig = LossConfig()
    """How rows become one number per task."""
    balance: BalanceConfig = BalanceConfig()
    """How tasks are weighed against one another."""
    distil: DistilConfig = DistilConfig()
    """Single-task models trained first, as teachers: for when sharing makes a task worse than a network of its own."""
    trees: BesideConfig = BesideConfig()
    """Boosted trees beside the network, and how the two are mixed."""
    select: SelectConfig = SelectConfig()
    """The listwise task over the retriever's candidates."""
    calibration: RankerCalibration = RankerCalibration()
    """How logits become probabilities; fitted on the validation rows, once per binary task."""
    batch_size: int = Field(default=1024, ge=1)
    """Logged rows per step."""
    optim: RankerOptim = RankerOptim()
    """How weights move."""
    fit: RankerFit = RankerFit()
    """How long to train."""
    warm_start: bool = True
    """Begin with the retriever's embeddings of the features both stages read; where the widths differ, with their
    principal directions."""
    warm_start_rows: Literal["rescaled", "plain"] = "rescaled"
    """How those embeddings are taken. `rescaled`: at the spread that the ranker's own start with; `plain`: as they are,
    as in GemNN's chain, which needs `input.embedding_dim` to be `retrieval.tower.dim`."""
