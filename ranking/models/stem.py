"""STEM-Net: an embedding table per task beside a shared one, all experts forward, own experts backward (AAAI 2024).

Every task k has tables and experts of its own; a shared table feeds shared experts. Task k's gate reads the sum of
its own and the shared embeddings and weighs *all* experts, but the experts of the other tasks j enter without gradient:
`y_k = t_k(softmax(W_k (x_k + x_s)) [E_k(x_k), E_s(x_s), stop(E_j(x_j))])`. So a task may use what another knows and
cannot disturb it. arXiv 2308.13537; the gate's input follows the authors' code.

Shapes: x_k, x_s [R, D] -> experts [R, sum m_k + m_s, H], gates T x [R, E], mixtures T x [R, H], logits T x [R].
Siblings: CGC has one table and hides other tasks' experts altogether; single-task shares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.inputs import InputLayer
from ...nn.split import SplitInput
from ..layers import Gate, mix
from ..mixture import ExpertConfig, Mixture, MixtureRanker, expert_names, experts_per_task


class STEMConfig(ExpertConfig):
    """Keys of `kind = "stem"`."""

    kind: str = "stem"
    """Which ranker."""
    task_experts: int | dict[str, int] = 2
    """Experts of each task's own: one number for all, or one per task; at least 1."""
    shared_experts: int = Field(default=2, ge=1)
    """Experts on the shared tables."""


class STEM(MixtureRanker, kind="stem"):
    """Own and shared tables, own and shared experts, gates with stopped gradients."""

    paper = "Su et al. AAAI 2024, arXiv 2308.13537"
    summary = "a table per task and a shared one; all experts forward, own experts backward"
    Config = STEMConfig

    def __init__(self, config: STEMConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        counts = experts_per_task(config.task_experts, tasks)
        if min(counts.values()) < 1:
            raise ConfigError(f"task_experts = {counts}: every task of stem needs at least 1, to read its own tables")
        total = sum(counts.values()) + config.shared_experts
        self.expert_names = expert_names(counts, config.shared_experts)
        self.task_inputs = nn.ModuleDict({name: InputLayer(config.input, layout) for name in counts})
        self.task_experts = nn.ModuleDict(
            {name: self.build_experts(self.width, count) for name, count in counts.items()}
        )
        self.shared_experts = self.build_experts(self.width, config.shared_experts)
        self.gates = nn.ModuleDict({name: Gate(self.width, total, config.gate) for name in counts})
        self.add_towers(config.expert_hidden[-1])

    def batch_mixtures(self, batch: Batch) -> list[Mixture]:
        """One level with a stream per task."""
        shared: SplitInput = self.inputs(batch)
        own: dict[str, SplitInput] = {name: inputs(batch) for name, inputs in self.task_inputs.items()}
        outputs: dict[str, Tensor] = {name: self.task_experts[name](x) for name, x in own.items()}
        common = self.shared_experts(shared)
        weights, mixed = [], []
        for name, x in own.items():
            both = SplitInput(x.query + shared.query, x.item + shared.item, x.owner)
            weight = self.gates[name](both).unsqueeze(1)
            seen = [output if other == name else output.detach() for other, output in outputs.items()]
            weights.append(weight)
            mixed.append(mix(weight, torch.cat([*seen, common], dim=1)))
        experts = torch.cat([*outputs.values(), common], dim=1)
        every = tuple(range(experts.shape[1]))
        streams, gates = tuple(own), torch.cat(weights, 1)
        return [
            Mixture(
                streams=streams,
                experts=experts,
                weights=gates,
                visible=(every,) * len(own),
                mixed=torch.cat(mixed, 1),
                names=self.expert_names,
            )
        ]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of R rows -> task -> float [R]."""
        return self.read_out(self.batch_mixtures(batch)[-1])

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the shared experts."""
        return [self.shared_experts.last_weight]
