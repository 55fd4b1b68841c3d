"""What every ranker is: batch in, one logit (or raw value) per task out. A new ranker is one file in `ranking/models`.

Subclassing `Ranker` with `kind="name"` registers it; `build_ranker` imports the files, so no list is edited.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..base.errors import ConfigError
from ..base.registry import Registry
from ..base.settings import Settings
from ..base.tuned import Range
from ..data.batch import Batch, Layout
from ..data.schema import TaskSpec
from ..nn.activation import HiddenGateKind
from ..nn.at_rest import TableDtype
from ..nn.embedding import EmbeddingTable
from ..nn.inputs import InputConfig, InputLayer
from ..nn.split import SplitInput
from .layers import Tower
from .losses import LossConfig, multi_task_loss

RANKERS: Registry[type[Ranker]] = Registry("ranker")


class RankerConfig(Settings):
    """What all rankers share; each kind adds its own keys in its own file."""

    tuned = {"dropout": Range(0.0, 0.5)}

    kind: str
    """Which ranker: a file in `ranking/models` (`recsys models` lists them)."""
    input: InputConfig = InputConfig()
    """Embeddings, gates and cross layers between the features and the network."""
    tower_hidden: tuple[int, ...] = (32,)
    """Widths of every task's tower; `towers` overrides it per task."""
    towers: dict[str, tuple[int, ...]] = {}
    """Widths of a task's own tower, e.g. `{ like = [64, 32] }`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after every hidden layer."""
    hidden_gate: HiddenGateKind = "none"
    """GateNet's gate after every hidden layer of experts, trunks and towers: `tanh` (the paper's), `linear`,
    `sigmoid`."""

    table_dtype: TableDtype = "float32"
    """In which the embeddings are kept in the run folder and served, as `retrieval.tower.table_dtype`."""

    @property
    def keeps_encoder(self) -> bool:
        """Whether everything but the task networks is taken from another run and never moves."""
        return False


class Ranker(nn.Module):
    """Base of all rankers.

    A subclass sets `Config`, builds its network in `__init__` after `super().__init__` (its towers in
    `self.towers`, by task), and defines `logits`.

    Args:
        config: the kind's own configuration.
        layout: columns and vocabulary sizes of the batches.
        tasks: objectives, in the order of `Batch.labels`.

    Raises:
        ConfigError: a task's name cannot name a tower, or `towers` names no task.
    """

    towers: nn.ModuleDict
    kind: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    Config: ClassVar[type[RankerConfig]] = RankerConfig
    shares_input: ClassVar[bool] = True
    """Whether there is one input layer for all tasks, `self.inputs`; other rankers define `forward` themselves."""

    def __init_subclass__(cls, kind: str = "", **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            RANKERS.register(kind, cls)

    def __init__(self, config: RankerConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        self.tasks = tuple(tasks)
        names = [task.name for task in tasks]
        unknown = sorted(set(config.towers) - set(names))
        if unknown:
            raise ConfigError(f"towers names {unknown}, which are no tasks; tasks: {names}")
        unusable = [name for name in names if "." in name or hasattr(nn.ModuleDict(), name) or not name]
        if unusable:
            raise ConfigError(f"tasks cannot be called {unusable}: no dots, and no names of PyTorch's; rename them")
        if self.shares_input:
            self.inputs = InputLayer(config.input, layout)

    @property
    def width(self) -> int:
        """Width D of the flat model input."""
        return self.inputs.width

    def tower_sizes(self, task: str) -> tuple[int, ...]:
        """Hidden widths of the task's tower."""
        return self.config.towers.get(task, self.config.tower_hidden)

    def tower(self, task: str, width: int) -> Tower:
        """A tower for the task on inputs of the given width."""
        return Tower(width, self.tower_sizes(task), dropout=self.config.dropout, hidden_gate=self.config.hidden_gate)

    def embed(self, batch: Batch) -> SplitInput:
        """Batch of R rows -> model input [R, D] in two parts."""
        x: SplitInput = self.inputs(batch)
        return x

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of R rows -> task -> logit (binary) or raw value (regression), float [R]."""
        return self.logits(self.embed(batch))

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        raise NotImplementedError(f"{type(self).__name__} must define logits")

    def losses(self, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """Forward pass and training losses: `loss/<task>` for a balance to weigh, `aux/<name>` to add as they are.

        Args:
            batch: with labels, mask and weight.
            config: see `LossConfig`.

        Returns:
            Scalars.
        """
        return multi_task_loss(self(batch), batch, self.tasks, config)

    def gate_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Gate name (`task` or `level/task`) -> weights float [R, E] over its experts; empty without gates."""
        return {}

    def shared_layer(self) -> list[nn.Parameter]:
        """Last parameters that every task's output passes through (GradNorm measures there); empty without any."""
        return [self.inputs.encoder.table.weight]

    def tables(self) -> list[EmbeddingTable]:
        """All embedding tables: one, or more for rankers whose tasks have their own."""
        return [module for module in self.modules() if isinstance(module, EmbeddingTable)]

    def output_bias(self, task: str) -> Tensor:
        """The bias of the task's output as a tensor of one element that shares its memory."""
        tower = self.towers[task]
        assert isinstance(tower, Tower)
        return tower.output.bias

    def set_base_rates(self, rates: Mapping[str, float]) -> None:
        """Start every task at its mean label, so that training need not first find it.

        Args:
            rates: task -> share of positives in its sample space (binary) or mean target (regression); tasks without
                a usable rate keep their bias.
        """
        kinds = {task.name: task.kind for task in self.tasks}
        with torch.no_grad():
            for task, rate in rates.items():
                if kinds[task] == "regression" and math.isfinite(rate):
                    self.output_bias(task).fill_(rate)
                elif kinds[task] == "binary" and 0 < rate < 1:
                    self.output_bias(task).fill_(math.log(rate) - math.log1p(-rate))


def ungrouped(groups: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> list[str]:
    """The tasks that no group names.

    Raises:
        ConfigError: a group names no task or an unknown one, or a task is named twice.
    """
    members = [task for group in groups.values() for task in group]
    if set(members) - set(tasks) or len(set(members)) < len(members) or not all(groups.values()):
        raise ConfigError(f"groups = {groups}: every group needs tasks, each task at most once and among {tasks}")
    return [task for task in tasks if task not in members]


def ranker_kinds() -> dict[str, type[Ranker]]:
    """Every ranker by name, sorted; imports all files of `ranking.models`."""
    from . import models

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
    return RANKERS.entries()


def ranker_class(kind: str) -> type[Ranker]:
    """The ranker called `kind`.

    Raises:
        ConfigError: there is none; the message lists the available names.
    """
    ranker_kinds()
    return RANKERS[kind]


def build_ranker(config: RankerConfig, layout: Layout, tasks: Sequence[TaskSpec], seed: int) -> Ranker:
    """A ranker of `config.kind` with weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ranker_class(config.kind)(config, layout, tasks)
