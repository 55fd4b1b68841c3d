"""CGC, customised gate control: experts of each task beside shared ones (Tang et al., RecSys 2020, section 4.1).

Task k mixes its own experts and the shared ones, `y_k = tower_k(softmax(W^k x) [E^k(x); E^shared(x)])`, and never sees
another task's. So no task's gradient reaches another's experts, gate or tower. Shapes: x [R, D] -> experts
[R, sum m_k + m_s, H], gates T x [R, m_k + m_s], mixtures T x [R, H], logits T x [R].

Siblings: MMoE has shared experts only (CGC with task_experts = 0 equals it); PLE stacks several such levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.split import SplitInput
from ..mixture import ExpertConfig, ExtractionLevel, Mixture, MixtureRanker, experts_per_task


class CGCConfig(ExpertConfig):
    """Keys of `kind = "cgc"`."""

    kind: str = "cgc"
    """Which ranker."""
    task_experts: int | dict[str, int] = 4
    """Experts of each task's own: one number for all, or one per task, e.g. `{ click = 2, like = 6 }`."""
    shared_experts: int = Field(default=4, ge=0)
    """Experts every task sees."""


class CGC(MixtureRanker, kind="cgc"):
    """One extraction level and towers."""

    paper = "Tang et al. RecSys 2020, section 4.1"
    summary = "experts of each task beside shared ones; one level"
    Config = CGCConfig

    def __init__(self, config: CGCConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        counts = experts_per_task(config.task_experts, tasks)
        self.level = ExtractionLevel(
            self.width, counts, config.shared_experts, config, config.expert_hidden, shared_stream=False
        )
        self.add_towers(config.expert_hidden[-1])

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """One level with a stream per task."""
        return [self.level([x])]

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the shared experts; the embeddings where there are none."""
        shared = self.level.shared_experts
        return super().shared_layer() if shared is None else [shared.last_weight]
