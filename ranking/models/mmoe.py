"""MMoE: experts shared by all tasks, a gate per task (Ma et al., KDD 2018).

`g^k(x) = softmax(W^k x)`, `f^k(x) = sum_i g^k(x)_i f_i(x)`, `y_k = tower_k(f^k(x))`. The paper's gate is linear,
without bias and without hidden layer; both are options. Parameters: E P_expert + T E D (+ T E with bias) + towers.

Shapes: x [R, D] -> experts [R, E, H], gates T x [R, E], mixtures T x [R, H], logits T x [R]. Siblings: MoE has one
gate; CGC keeps some experts to a single task.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.split import SplitInput
from ..layers import Gate, read_together
from ..mixture import ExpertConfig, Mixture, MixtureRanker


class MMoEConfig(ExpertConfig):
    """Keys of `kind = "mmoe"`."""

    kind: str = "mmoe"
    """Which ranker."""
    num_experts: int = Field(default=8, ge=1)
    """Experts E."""


class MMoE(MixtureRanker, kind="mmoe"):
    """Experts, a gate and a tower per task."""

    paper = "Ma et al. KDD 2018"
    summary = "experts shared by all tasks, mixed by a gate per task"
    Config = MMoEConfig

    def __init__(self, config: MMoEConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.experts = self.build_experts(self.width, config.num_experts)
        self.gates = nn.ModuleDict({task.name: Gate(self.width, config.num_experts, config.gate) for task in tasks})
        self.add_towers(self.experts.width)

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """One level with a stream per task."""
        experts, *gates = read_together(x, [self.experts, *self.gates.values()])  # type: ignore[list-item]
        return [Mixture.dense([task.name for task in self.tasks], experts, gates)]

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the experts."""
        return [self.experts.last_weight]
