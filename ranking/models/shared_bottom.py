"""Shared bottom: one trunk for all tasks, a tower on top for each (Caruana 1997; MMoE paper, equation 1).

`h = f(x)`, `y_k = tower_k(h)`. Multi-objective: `groups` puts several objectives, binary or regression, on one tower,
each an output of it. Multi-scene, in two ways:

- *masks*: a scene (a page, a tab) has tasks of its own; a task's `scene` or `where` masks the rows of other scenes in
  its loss. All towers are computed for every row; which score counts where is the blend's business.
- *routing*: all scenes have the same tasks, and `scenes` names the feature that says where a row belongs; every value
  has towers of its own, `y_k = tower_{k,s}(h) + b_k`. A row of a scene that training does not know takes the mean of
  all scenes' towers, in training as in service.

Shapes: x [R, D] -> h [R, bottom_hidden[-1]] -> one logit [R] per task. Sibling: MMoE replaces the trunk by gated
experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.mlp import MLP
from ...nn.split import SplitInput
from ..layers import Tower
from ..ranker import Ranker, RankerConfig, ungrouped

FIRST_SCENE = 2
"""Vocabulary row of the first scene that training knows: row 0 pads and row 1 is 'unknown'."""
MOST_SCENES = 64
"""Every scene's towers are computed for every row, so a feature with more values is no scene."""


class SharedBottomConfig(RankerConfig):
    """Keys of `kind = "shared_bottom"`."""

    kind: str = "shared_bottom"
    """Which ranker."""
    bottom_hidden: tuple[int, ...] = Field(default=(64, 32, 16), min_length=1)
    """Widths of the shared trunk's layers."""
    groups: dict[str, tuple[str, ...]] = {}
    """Tower name -> the tasks it puts out, e.g. `{ feed = ["stayed", "clicked"], player = ["liked"] }`; `towers` may
    give its widths under the tower's name. Tasks in no group have a tower of their own."""
    scenes: str = ""
    """Categorical feature of user or context, e.g. `tab`, that routes each row to the towers of its scene; none: there
    is one set of towers."""


class SceneTowers(nn.Module):
    """A tower per scene, of which each row takes its own scene's; all scenes share a bias.

    Args:
        towers: one per scene.
        outputs: of each.
    """

    def __init__(self, towers: Sequence[Tower], outputs: int) -> None:
        super().__init__()
        self.scenes = nn.ModuleList(towers)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, h: Tensor, codes: Tensor | None) -> Tensor:
        """Trunk's output [R, H] and vocabulary rows int64 [R] of the scenes (None: unknown) -> [R] or [R, outputs]."""
        every = torch.stack([tower(h).reshape(-1, len(self.bias)) for tower in self.scenes], dim=1)  # [R, S, outputs]
        out = every.mean(1)
        if codes is not None:
            place = (codes - FIRST_SCENE).clamp(min=0).view(-1, 1, 1).expand(-1, 1, len(self.bias))
            out = torch.where((codes >= FIRST_SCENE).unsqueeze(1), every.gather(1, place).squeeze(1), out)
        out = out + self.bias
        return out.squeeze(1) if out.shape[1] == 1 else out


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
        self.scenes, self.scene_column = _scenes(config.scenes, layout)
        self.towers = nn.ModuleDict({name: self._towers(name, len(members)) for name, members in self.groups.items()})

    def _towers(self, name: str, outputs: int) -> nn.Module:
        """A group's tower, or its towers in all scenes."""

        def tower() -> Tower:
            config = self.config
            sizes, dropout, gate = self.tower_sizes(name), config.dropout, config.hidden_gate
            return Tower(self.bottom.width, sizes, outputs=outputs, dropout=dropout, hidden_gate=gate)

        return SceneTowers([tower() for _ in range(self.scenes)], outputs) if self.scenes else tower()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of R rows -> task -> float [R]."""
        if not self.scenes:
            return super().forward(batch)
        codes = batch.query.categorical[:, self.scene_column]
        return self.logits(self.embed(batch), codes if batch.owner is None else codes[batch.owner])

    def logits(self, x: SplitInput, codes: Tensor | None = None) -> dict[str, Tensor]:
        """Model input of R rows, with `scenes` their vocabulary rows int64 [R] -> task -> float [R]."""
        h = self.bottom(x)
        found: dict[str, Tensor] = {}
        for name, members in self.groups.items():
            out = self.towers[name](h, codes) if self.scenes else self.towers[name](h)  # [R] or [R, members]
            found.update(zip(members, out.unbind(1) if len(members) > 1 else (out,), strict=True))
        return {task.name: found[task.name] for task in self.tasks}

    def output_bias(self, task: str) -> Tensor:
        """See `Ranker.output_bias`."""
        for name, members in self.groups.items():
            if task in members:
                tower, place = self.towers[name], members.index(task)
                assert isinstance(tower, Tower | SceneTowers)
                bias = tower.bias if isinstance(tower, SceneTowers) else tower.output.bias
                return bias[place : place + 1]
        raise KeyError(task)

    def shared_layer(self) -> list[nn.Parameter]:
        """Weight of the trunk's last linear layer."""
        return [self.bottom.last_weight]


def _scenes(feature: str, layout: Layout) -> tuple[int, int]:
    """Number of scenes and their column among the query's categorical features; 0 scenes without routing.

    Raises:
        ConfigError: the feature is not there, or has too few or too many values.
    """
    if not feature:
        return 0, 0
    offered = layout.query.categorical
    if feature not in offered:
        raise ConfigError(
            f'scenes = "{feature}" is no categorical feature of user or context; there are: {list(offered)}'
        )
    count = layout.sizes[feature] - FIRST_SCENE
    if not 1 <= count <= MOST_SCENES:
        raise ConfigError(f'scenes = "{feature}" has {count} values; routing takes 1 to {MOST_SCENES}')
    return count, offered.index(feature)


def _groups(groups: dict[str, tuple[str, ...]], tasks: list[str]) -> dict[str, tuple[str, ...]]:
    """Tower name -> tasks, with a tower for every task in no group."""
    alone = ungrouped(groups, tasks)
    if clash := sorted(set(groups) & set(alone)):
        raise ConfigError(f"groups = {groups}: {clash} are tasks outside these groups; rename the groups")
    return {**groups, **{task: (task,) for task in alone}}
