"""AITM: tasks in a row (click, then cart, then order), each handed what the one before it knew (arXiv 2105.08489).

Each task has a trunk, `q_t = f_t(x)`. From the second on, `p = g(z_{t-1})` carries the earlier task's state over and
attention weighs it against the task's own: `z_t = sum_u w_u h1(u)` over u in {p, q_t}, `w = softmax(<h2(u), h3(u)> /
sqrt(k))`; `z_1 = q_1`, `y_t = linear(z_t)`. A calibrator adds `calibrator * mean max(p_t - p_{t-1}, 0)`, because a
later step cannot be likelier than an earlier one; it needs both on the same rows, so declare end-to-end labels (no
`where`): it leaves out pairs whose later task has a smaller sample space.

Shapes: x [R, D] -> q, p, z [R, k] per task -> one logit [R] per task. Sibling: ESMM multiplies probabilities instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.mlp import MLP, init_linear
from ...nn.split import SplitInput
from ..layers import Tower
from ..losses import LossConfig, masked_mean, multi_task_loss, sample_spaces, weight_of
from ..ranker import Ranker, RankerConfig


class AITMConfig(RankerConfig):
    """Keys of `kind = "aitm"`."""

    kind: str = "aitm"
    """Which ranker. Its trunks have the widths `tower_hidden` and `towers`, which must end alike."""
    chain: tuple[str, ...] = ()
    """The tasks in their order of happening; all tasks as declared when empty. Tasks outside have a plain tower."""
    calibrator: float = Field(default=0.6, ge=0)
    """Weight of the penalty on a later task being likelier than an earlier one."""


class Transfer(nn.Module):
    """Adaptive information transfer from one task to the next.

    Args:
        width: k.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carry = MLP(width, (width,))
        self.value, self.query, self.key = (init_linear(nn.Linear(width, width), relu=False) for _ in range(3))

    def forward(self, before: Tensor, own: Tensor) -> Tensor:
        """States [R, k] of the earlier task and of this one -> [R, k]."""
        both = torch.stack([self.carry(before), own], dim=1)  # [R, 2, k]
        match = (self.query(both) * self.key(both)).sum(2) / math.sqrt(both.shape[2])
        mixed: Tensor = (torch.softmax(match, dim=1).unsqueeze(2) * self.value(both)).sum(1)
        return mixed


class AITM(Ranker, kind="aitm"):
    """Trunks in a row with transfers between them."""

    paper = "Xi et al. KDD 2021, arXiv 2105.08489"
    summary = "tasks that happen in a row, each reading the state of the one before"
    Config = AITMConfig

    def __init__(self, config: AITMConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        names = [task.name for task in tasks]
        self.chain = config.chain or tuple(names)
        self.calibrator = config.calibrator
        if set(self.chain) - set(names) or len(set(self.chain)) < len(self.chain):
            raise ConfigError(f"chain = {list(self.chain)} must name each task at most once, among {names}")
        trunks = {name: MLP(self.width, self.tower_sizes(name), config.dropout, config.hidden_gate) for name in names}
        widths = sorted({trunks[name].width for name in self.chain})
        if len(widths) > 1:
            raise ConfigError(f"trunks of chain {list(self.chain)} end in widths {widths}; give them one last width")
        self.trunks = nn.ModuleDict(trunks)
        self.transfers = nn.ModuleDict({name: Transfer(widths[0]) for name in self.chain[1:]})
        self.towers = nn.ModuleDict({name: Tower(trunk.width, ()) for name, trunk in trunks.items()})

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        states: dict[str, Tensor] = {name: trunk(x) for name, trunk in self.trunks.items()}
        for before, name in zip(self.chain, self.chain[1:], strict=False):
            states[name] = self.transfers[name](states[before], states[name])
        return {task.name: self.towers[task.name](states[task.name]) for task in self.tasks}

    def losses(self, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """The tasks' losses and `aux/calibrator`."""
        logits = self(batch)
        losses = multi_task_loss(logits, batch, self.tasks, config)
        _, masks, weight = sample_spaces(batch)
        specs = {task.name: (column, task) for column, task in enumerate(self.tasks)}
        penalties = []
        for earlier, later in zip(self.chain, self.chain[1:], strict=False):
            (first, before), (second, after) = specs[earlier], specs[later]
            if before.kind == after.kind == "binary" and after.where == before.where:
                excess = torch.relu(torch.sigmoid(logits[later]) - torch.sigmoid(logits[earlier]))
                both = masks[:, first] & masks[:, second]
                penalties.append(masked_mean(excess, both, weight_of(weight, second), config.reduction))
        if penalties and self.calibrator > 0:
            losses["aux/calibrator"] = self.calibrator * torch.stack(penalties).sum()
        return losses
