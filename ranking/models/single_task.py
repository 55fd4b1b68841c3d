"""Single-task: a separate network for every task, embeddings included; what multi-task models must beat.

`y_k = tower_k(f_k(x_k))` with x_k from the task's own tables. Nothing is shared, so no task can disturb another, and
none can help another. Shapes: x_k [R, D] -> [R] per task. Sibling: the shared bottom shares tables and trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.inputs import InputLayer
from ...nn.mlp import MLP
from ..ranker import Ranker, RankerConfig


class SingleTaskConfig(RankerConfig):
    """Keys of `kind = "single_task"`."""

    kind: str = "single_task"
    """Which ranker."""
    hidden: tuple[int, ...] = (64,)
    """Widths of each task's trunk, below its tower."""


class SingleTask(Ranker, kind="single_task"):
    """One network per task."""

    paper = "baseline"
    summary = "a network of its own for every task, tables included: the baseline of every multi-task gain"
    Config: ClassVar[type[RankerConfig]] = SingleTaskConfig
    shares_input = False

    def __init__(self, config: SingleTaskConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        inputs = {task.name: InputLayer(config.input, layout) for task in tasks}
        trunks = {
            name: MLP(part.width, config.hidden, config.dropout, config.hidden_gate) for name, part in inputs.items()
        }
        self.task_inputs, self.trunks = nn.ModuleDict(inputs), nn.ModuleDict(trunks)
        self.towers = nn.ModuleDict({name: self.tower(name, trunk.width) for name, trunk in trunks.items()})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of R rows -> task -> float [R]."""
        return {name: self.towers[name](self.trunks[name](inputs(batch))) for name, inputs in self.task_inputs.items()}

    def shared_layer(self) -> list[nn.Parameter]:
        """Nothing is shared."""
        return []
