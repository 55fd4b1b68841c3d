"""Shared bottom: one trunk for all tasks, a tower on top for each (Caruana 1997; MMoE paper, equation 1).

`h = f(x)`, `y_k = tower_k(h)`. Multi-scene and multi-objective: `groups` puts several objectives on one tower, so
that a scene (a page, a tab) has a tower and each of its objectives an output of it; a task's `scene` or `where` masks
the rows of other scenes in its loss. All towers are computed in one pass; which score counts in which scene is the
blend's business.

Shapes: x [R, D] -> h [R, bottom_hidden[-1]] -> one logit [R] per task. Sibling: MMoE replaces the trunk by gated
experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...errors import ConfigError
from ...nn.mlp import MLP
from ...nn.split import SplitInput
from ..layers import Tower
from ..ranker import Ranker, RankerConfig


class SharedBottomConfig(RankerConfig):
    """Keys of `kind = "shared_bottom"`."""

    kind: str = "shared_bottom"
    """Which ranker."""
    bottom_hidden: tuple[int, ...] = Field(default=(64, 32, 16), min_length=1)
    """Widths of the shared trunk's layers."""
    groups: dict[str, tuple[str, ...]] = {}
    """Tower name -> the tasks it puts out, e.g. `{ feed = ["stayed", "clicked"], player = ["liked"] }`; `towers` may
    give its widths under the tower's name. Tasks in no group have a tower of their own."""


class SharedBottom(Ranker, kind="shared_bottom"):
    """Trunk and towers."""

    paper = "Caruana 1997; Ma et al. KDD 2018, eq. 1"
    summary = "one trunk shared by all tasks, a tower per task or per scene with several outputs"
    Config = SharedBottomConfig

    def __init__(self, config: SharedBottomConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config.model_copy(update={"towers": {}}), layout, tasks)
        self.groups = _groups(config.groups, [task.name for task in tasks])
        unknown = sorted(set(config.towers) - set(self.groups))
        if unknown:
            raise ConfigError(f"towers names {unknown}, which are neither tasks with their own tower nor groups")
        self.config = config
        self.bottom = MLP(self.width, config.bottom_hidden, config.dropout, config.hidden_gate)
        self.towers = nn.ModuleDict(
            {
                name: Tower(
                    self.bottom.width,
                    self.tower_sizes(name),
                    outputs=len(members),
                    dropout=config.dropout,
                    hidden_gate=config.hidden_gate,
                )
                for name, members in self.groups.items()
            }
        )

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        h = self.bottom(x)
        found: dict[str, Tensor] = {}
        for name, members in self.groups.items():
            out = self.towers[name](h)  # [R] or [R, members]
            found.update(zip(members, out.unbind(1) if len(members) > 1 else (out,), strict=True))
        return {task.name: found[task.name] for task in self.tasks}

    def output_bias(self, task: str) -> Tensor:
        """See `Ranker.output_bias`."""
        for name, members in self.groups.items():
            if task in members:
                tower = self.towers[name]
                assert isinstance(tower, Tower)
                place = members.index(task)
                return tower.output.bias[place : place + 1]
        raise KeyError(task)

    def shared_layer(self) -> list[nn.Parameter]:
        """Weight of the trunk's last linear layer."""
        return [self.bottom.last_weight]


def _groups(groups: dict[str, tuple[str, ...]], tasks: list[str]) -> dict[str, tuple[str, ...]]:
    """Tower name -> tasks, with a tower for every task in no group."""
    members = [task for group in groups.values() for task in group]
    unknown = sorted(set(members) - set(tasks))
    twice = sorted({task for task in members if members.count(task) > 1})
    alone = [task for task in tasks if task not in members]
    clash = sorted(set(groups) & set(alone))
    if unknown or twice or clash or not all(groups.values()):
        raise ConfigError(
            f"groups = {groups}: every group needs tasks, each task at most once and among {tasks}, "
            "and no group may be called like a task outside it"
        )
    return {**groups, **{task: (task,) for task in alone}}
