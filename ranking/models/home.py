"""HoME, hierarchy of multi-gate experts (Wang et al., Kuaishou, KDD 2025, arXiv 2408.05430).

Against three faults of mixtures with many tasks: experts that collapse, shared experts taken over by one task, and
experts of rare tasks that never learn. Tasks are put into groups g (watching, interacting, ...), and there are two
levels, in which a *hierarchy mask* decides who reads whom:

- Level 1, on the model input x: experts of every group and shared ones. A group's stream z_g mixes its own and the
  shared experts; the shared stream z_s mixes all. No expert belongs to a task here.
- Level 2: shared experts read z_s, a group's experts and its tasks' own experts read z_g. Task k of group g mixes its
  own, its group's and the shared experts, by a gate that reads [z_g, z_s], and its tower reads the mixture.

*Expert normalisation*: `Swish(norm(W v + b))` ends every expert instead of a ReLU. *Feature gate*: every set of experts
reads its own view of its input, `v * sum_l softmax(U v)_l 2 sigmoid(B_l A_l v)`, A_l and B_l of low rank. *Self gate*:
besides what its gate gives, a stream gets its own experts through a second gate on its own input, softmax over them
or, for a single one, a sigmoid: `z_g = sum_all w_e E_e + sum_own s_e E_e`. So rarely chosen experts still learn.

Shapes: x [R, D] -> level 1 [R, G m_g + m_s, H], streams (G + 1) x [R, H]; level 2 [R, sum m_k + G m_g + m_s, H],
T x [R, H]; logits T x [R]. Sibling: PLE has task experts on both levels, gates that read their own stream alone,
one input for all experts of a stream, and neither groups nor self gates.

Read: abstract, secondary accounts and a public re-implementation; the paper's body was not at hand. So these are
options or choices of ours: rank and number of the feature gate's maps, that a set of experts shares one, that level 2
has feature gates too, that self gates read the own stream without the shared one. Known departure: the paper's
norm is batch normalisation; here it is a layer norm, because a row's score may not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.split import SplitInput
from ..layers import FirstLayer, Gate, GateConfig, mix, read_together, softmax
from ..mixture import SHARED, ExpertConfig, Mixture, MixtureRanker, build_experts, expert_names, experts_per_task
from ..ranker import ungrouped

REST = "rest"
"""Name of the group of the tasks that no group names."""


class HoMEConfig(ExpertConfig):
    """Keys of `kind = "home"`."""

    kind: str = "home"
    """Which ranker."""
    groups: dict[str, tuple[str, ...]] = {}
    """Group -> its tasks, e.g. `{ watch = ["long_view", "finish"], react = ["like", "follow"] }`: tasks that should
    learn from one another. Tasks in no group make one together, called `rest`; so do all of them by default."""
    shared_experts: int = Field(default=2, ge=1)
    """Experts for all tasks, on either level."""
    group_experts: int = Field(default=2, ge=1)
    """Experts of each group, on either level."""
    task_experts: int | dict[str, int] = 1
    """Experts of each task's own, on the second level: one number for all, or one per task; at least 1."""
    meta_hidden: tuple[int, ...] = ()
    """Widths of the first level's experts; `expert_hidden` when empty."""
    expert_norm: bool = True
    """Normalise every expert's output and use Swish there, as the paper does."""
    feature_gate_rank: int = Field(default=8, ge=0)
    """Rank of the feature gate's maps; 0 leaves the gate out."""
    feature_gate_maps: int = Field(default=2, ge=1)
    """Low-rank maps per feature gate, mixed by a softmax."""
    self_gate: bool = True
    """Give every stream its own experts once more, past its gate."""


class FeatureGate(nn.Module):
    """A set's own view of its input: `sum_l softmax(U v)_l 2 sigmoid(B_l A_l v)`, near 1 at first.

    Parameters: 2 L r D, and L D where there are several maps.

    Args:
        width: D.
        rank: r.
        maps: L.
    """

    def __init__(self, width: int, rank: int, maps: int) -> None:
        super().__init__()
        self.maps, self.rank = maps, rank
        self.down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(maps * rank, width)))
        self.up = nn.Parameter(torch.stack([nn.init.xavier_uniform_(torch.empty(rank, width)) for _ in range(maps)]))
        self.weigh = nn.Parameter(nn.init.xavier_uniform_(torch.empty(maps, width))) if maps > 1 else None

    @property
    def first(self) -> tuple[Tensor, Tensor | None]:
        """See `FirstLayer`."""
        return self.down if self.weigh is None else torch.cat([self.down, self.weigh]), None

    def finish(self, projected: Tensor) -> Tensor:
        """First layer [R, L r (+ L)] -> factors on the input, [R, D], between 0 and 2."""
        low = projected[:, : self.maps * self.rank].reshape(-1, self.maps, self.rank)
        factors = 2.0 * torch.sigmoid(torch.bmm(low.transpose(0, 1), self.up))  # [L, R, D]
        if self.weigh is None:
            return factors[0]
        weights = softmax(projected[:, self.maps * self.rank :])
        return (weights.t().unsqueeze(2) * factors).sum(0)


class SelfGate(Gate):
    """Weights [R, E] of a stream's own experts: a softmax, or a sigmoid where there is one. It drops none."""

    def __init__(self, width: int, num_experts: int, config: GateConfig) -> None:
        super().__init__(width, num_experts, config.model_copy(update={"dropout": 0.0}))

    def finish(self, projected: Tensor) -> Tensor:
        """See `FirstLayer`."""
        return torch.sigmoid(self.scores(projected)) if self.num_experts == 1 else super().finish(projected)


class HierarchyLevel(nn.Module):
    """Sets of experts, and streams that each mix some of the sets.

    Args:
        width: input width of every set, and of the self gates.
        gate_width: input width of the gates.
        sets: set -> number of its experts.
        streams: stream -> the sets it sees, the first its own.
        hidden: widths of each expert's layers.
        config: gates, dropout and what else the ranker's experts share.
    """

    def __init__(
        self,
        width: int,
        gate_width: int,
        sets: Mapping[str, int],
        streams: Mapping[str, Sequence[str]],
        hidden: Sequence[int],
        config: HoMEConfig,
    ) -> None:
        super().__init__()
        self.names = expert_names(sets)
        rank, maps = config.feature_gate_rank, config.feature_gate_maps
        self.experts = nn.ModuleDict(
            {name: build_experts(width, count, hidden, config) for name, count in sets.items()}
        )
        self.feature_gates = nn.ModuleDict({name: FeatureGate(width, rank, maps) for name in sets if rank})
        owner = [name for name, count in sets.items() for _ in range(count)]
        self.visible: list[tuple[int, ...]] = []
        self.gates, self.self_gates = nn.ModuleDict(), nn.ModuleDict()
        for position, (stream, seen) in enumerate(streams.items()):
            visible = tuple(place for place, name in enumerate(owner) if name in seen)
            own = [place for place in visible if owner[place] == seen[0]]
            self.visible.append(visible)
            self.gates[stream] = Gate(gate_width, len(visible), config.gate)
            self._add_places(f"gate_{position}", visible)
            if config.self_gate:
                self.self_gates[stream] = SelfGate(width, len(own), config.gate)
                self._add_places(f"self_{position}", own)

    def _add_places(self, name: str, places: Sequence[int]) -> None:
        """Keep a 0/1 matrix [len(places), E] that puts weights where their experts are."""
        self.register_buffer(name, torch.eye(len(self.names))[list(places)], persistent=False)

    def forward(self, sets: Mapping[str, SplitInput], gates: Mapping[str, SplitInput]) -> Mixture:
        """Mix one level.

        Args:
            sets: what each set reads, [R, width]; a stream's self gate reads what the set does that has its name.
            gates: what each stream's gate reads, [R, gate_width].

        Returns:
            The mixture; `mixed` [R, S, H] holds the streams in their order.
        """
        inputs = [
            *(gates[name] for name in self.gates),
            *(sets[name] for name in (*self.self_gates, *self.feature_gates)),
        ]
        readers = [*self.gates.values(), *self.self_gates.values(), *self.feature_gates.values()]
        found = _read(inputs, cast("list[FirstLayer]", readers))
        streams = len(self.gates)
        weights = torch.stack([gate @ self.get_buffer(f"gate_{i}") for i, gate in enumerate(found[:streams])], dim=1)
        direct: Tensor | None = None
        if len(self.self_gates):
            own = found[streams : 2 * streams]
            direct = torch.stack([gate @ self.get_buffer(f"self_{i}") for i, gate in enumerate(own)], dim=1)
        factors = dict(zip(self.feature_gates, found[streams + len(self.self_gates) :], strict=True))
        outputs = torch.cat(
            [
                experts(SplitInput.of(sets[name].flat() * factors[name]) if factors else sets[name])
                for name, experts in self.experts.items()
            ],
            dim=1,
        )
        mixed = mix(weights if direct is None else weights + direct, outputs)
        return Mixture(
            streams=tuple(self.gates),
            experts=outputs,
            weights=weights,
            visible=tuple(self.visible),
            mixed=mixed,
            names=self.names,
            direct=direct,
        )


class HoME(MixtureRanker, kind="home"):
    """Two levels of experts behind a hierarchy mask, and towers."""

    paper = "Wang et al. KDD 2025, arXiv 2408.05430"
    summary = "groups of tasks: shared, group and task experts, each with a feature gate and a self gate"
    Config = HoMEConfig

    def __init__(self, config: HoMEConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        counts = experts_per_task(config.task_experts, tasks)
        if min(counts.values()) < 1:
            raise ConfigError(f"task_experts = {counts}: every task of home needs at least 1, for its self gate")
        self.group_of = {
            task: f"group {group}" for group, members in _groups(config, counts).items() for task in members
        }
        groups = dict.fromkeys(self.group_of.values(), config.group_experts)
        shared = {SHARED: config.shared_experts}
        meta = config.meta_hidden or config.expert_hidden
        self.meta = HierarchyLevel(
            self.width,
            self.width,
            groups | shared,
            {group: (group, SHARED) for group in groups} | {SHARED: (SHARED, *groups)},
            meta,
            config,
        )
        self.level = HierarchyLevel(
            meta[-1],
            2 * meta[-1],
            counts | groups | shared,
            {task: (task, self.group_of[task], SHARED) for task in counts},
            config.expert_hidden,
            config,
        )
        self.add_towers(config.expert_hidden[-1])

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """The groups' level and the tasks'."""
        streams = self.meta.gates.keys()
        first: Mixture = self.meta(dict.fromkeys(streams, x), dict.fromkeys(streams, x))
        meta = {name: SplitInput.of(z) for name, z in zip(first.streams, first.mixed.unbind(1), strict=True)}
        both = {
            group: SplitInput.of(torch.cat([z.flat(), meta[SHARED].flat()], dim=1))
            for group, z in meta.items()
            if group != SHARED
        }
        own = {task: meta[group] for task, group in self.group_of.items()}
        second: Mixture = self.level(own | meta, {task: both[group] for task, group in self.group_of.items()})
        return [first, second]

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the upper shared experts."""
        return [self.level.experts[SHARED].last_weight]  # type: ignore[list-item]


def _groups(config: HoMEConfig, counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Group -> tasks, every task in one.

    Raises:
        ConfigError: the configured groups make no sense, or a name cannot be used.
    """
    rest = ungrouped(config.groups, list(counts))
    taken = sorted(
        name for name in config.groups if "." in name or f"group {name}" in counts or (rest and name == REST)
    )
    if taken:
        raise ConfigError(
            f"groups cannot be called {taken}: no dots, and `{REST}` is the tasks in no group; rename them"
        )
    return {**config.groups, **({REST: tuple(rest)} if rest else {})}


def _read(inputs: Sequence[SplitInput], readers: Sequence[FirstLayer]) -> list[Tensor]:
    """Each reader's result on its input; readers of the very same input share one product."""
    found: dict[int, Tensor] = {}
    for x in {id(x): x for x in inputs}.values():
        places = [place for place, other in enumerate(inputs) if other is x]
        found.update(zip(places, read_together(x, [readers[place] for place in places]), strict=True))
    return [found[place] for place in range(len(readers))]
