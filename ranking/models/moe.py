"""MoE, also called OMoE: experts mixed by one gate for all tasks (MMoE paper, KDD 2018, section 4.1).

`f(x) = sum_i softmax(W x)_i f_i(x)`, `y_k = tower_k(f(x))`. Shapes: x [R, D] -> experts [R, E, H], one gate [R, E], one
mixture [R, H], one logit [R] per task. Sibling: MMoE gives every task a gate of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.split import SplitInput
from ..layers import Gate, read_together
from ..mixture import SHARED, ExpertConfig, Mixture, MixtureRanker


class MoEConfig(ExpertConfig):
    """Keys of `kind = "moe"`."""

    kind: str = "moe"
    """Which ranker."""
    num_experts: int = Field(default=8, ge=1)
    """Experts E."""


class MoE(MixtureRanker, kind="moe"):
    """Experts, one gate, towers."""

    paper = "Ma et al. KDD 2018, OMoE"
    summary = "experts mixed by one gate that all tasks share"
    Config = MoEConfig

    def __init__(self, config: MoEConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.experts = self.build_experts(self.width, config.num_experts)
        self.gate = Gate(self.width, config.num_experts, config.gate)
        self.add_towers(self.experts.width)

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """One level with one stream."""
        experts, weights = read_together(x, [self.experts, self.gate])
        return [Mixture.dense([SHARED], experts, [weights])]

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the experts."""
        return [self.experts.last_weight]
