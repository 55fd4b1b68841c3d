"""What the rankers with experts share: mixtures, CGC's and PLE's extraction level, towers on the last mixture.

A level has E experts and S streams (one per task, sometimes a shared one). A stream is a weighted sum of the experts it
may see; the others have weight exactly zero, so that all streams of a level are one batched product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import ConfigError
from ..data.batch import Batch, Layout
from ..data.schema import TaskSpec
from ..nn.split import SplitInput
from .layers import Experts, FirstLayer, Gate, GateConfig, mix, read_together
from .ranker import Ranker, RankerConfig

SHARED = "(shared)"
"""Name of the stream that belongs to no task."""

SMALL_START = 0.1
"""Factor on the last weights of towers that read normalised experts, at the start."""


class ExpertConfig(RankerConfig):
    """Keys of every ranker with experts."""

    expert_hidden: tuple[int, ...] = Field(default=(64,), min_length=1)
    """Widths of each expert's layers."""
    gate: GateConfig = GateConfig()
    """How the gates weigh the experts."""
    expert_norm: bool = False
    """Layer-normalise every expert's output and use Swish instead of ReLU there: against dead and diverging experts."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One level of experts as it was mixed.

    Attributes:
        streams: name of each stream: a task, or `SHARED`.
        experts: float [R, E, H] expert outputs.
        weights: float [R, S, E] gate weights; zero for experts that a stream does not see.
        visible: experts each stream sees.
        mixed: float [R, S, H].
        names: of the experts, such as `click 0` for the first of task click.
        direct: float [R, S, E] what experts give a stream beside its gate (HoME's self gates), or None.
    """

    streams: tuple[str, ...]
    experts: Tensor
    weights: Tensor
    visible: tuple[tuple[int, ...], ...]
    mixed: Tensor
    names: tuple[str, ...]
    direct: Tensor | None = None

    @staticmethod
    def dense(streams: Sequence[str], experts: Tensor, gates: Sequence[Tensor]) -> Mixture:
        """Every stream sees every expert: experts [R, E, H] and one gate [R, E] per stream."""
        weights = torch.stack(list(gates), dim=1)
        every = tuple(range(experts.shape[1]))
        names = expert_names({"expert": experts.shape[1]})
        return Mixture(
            streams=tuple(streams),
            experts=experts,
            weights=weights,
            visible=(every,) * len(gates),
            mixed=mix(weights, experts),
            names=names,
        )

    def seen(self, stream: int) -> Tensor:
        """The stream's gate weights over the experts it sees, [R, visible]."""
        return self.weights[:, stream, list(self.visible[stream])]


def expert_names(counts: Mapping[str, int], shared: int = 0) -> tuple[str, ...]:
    """Names of all experts of a level from the number in each set, in order: `click 0`, `click 1`, `shared 0`."""
    sets = [*counts.items(), ("shared", shared)]
    return tuple(f"{owner} {place}" for owner, count in sets for place in range(count))


def experts_per_task(setting: int | Mapping[str, int], tasks: Sequence[TaskSpec]) -> dict[str, int]:
    """Experts of each task from one number for all or a number per task.

    Raises:
        ConfigError: a task is missing or unknown, or a number is negative.
    """
    names = [task.name for task in tasks]
    counts = dict.fromkeys(names, setting) if isinstance(setting, int) else dict(setting)
    if sorted(counts) != sorted(names):
        raise ConfigError(
            f"task_experts names {sorted(counts)}, the tasks are {sorted(names)}; give one number to each"
        )
    if min(counts.values()) < 0:
        raise ConfigError(f"task_experts = {counts}: the number of experts cannot be negative")
    return {name: counts[name] for name in names}


def build_experts(width: int, count: int, hidden: Sequence[int], config: ExpertConfig) -> Experts:
    """`count` experts of the given widths, with the ranker's dropout, hidden gates and normalisation."""
    return Experts(
        width,
        count,
        hidden,
        dropout=config.dropout,
        hidden_gate=config.hidden_gate,
        normalise=config.expert_norm,
    )


class ExtractionLevel(nn.Module):
    """Experts of each task beside shared ones; every task mixes its own and the shared ones, and nobody else's.

    `g^k = softmax(W^k s^k) [E^k; E^shared]` with s^k the task's stream from below; the shared stream, where there is
    one, mixes all experts by a gate that reads the shared stream from below (PLE, equations 4 to 7).

    Args:
        width: width of the streams from below.
        task_experts: experts of each task, m_k; may differ, may be 0.
        shared_experts: m_s.
        config: widths, gates, dropout of the ranker.
        hidden: widths of each expert's layers.
        shared_stream: whether something reads a shared stream of this level (every level of PLE but the last).

    Raises:
        ConfigError: a task would see no expert at all.
    """

    def __init__(
        self,
        width: int,
        task_experts: Mapping[str, int],
        shared_experts: int,
        config: ExpertConfig,
        hidden: Sequence[int],
        *,
        shared_stream: bool,
    ) -> None:
        super().__init__()
        self.streams = (*task_experts, *((SHARED,) if shared_stream else ()))
        self.num_tasks = len(task_experts)
        blind = [task for task, count in task_experts.items() if count + shared_experts == 0]
        if blind:
            raise ConfigError(f"tasks {blind} see no expert: give them task_experts or set shared_experts above 0")
        self.task_experts = nn.ModuleDict(
            {task: build_experts(width, count, hidden, config) for task, count in task_experts.items() if count}
        )
        self.shared_experts = build_experts(width, shared_experts, hidden, config) if shared_experts else None
        self.task_gates = nn.ModuleDict(
            {task: Gate(width, count + shared_experts, config.gate) for task, count in task_experts.items()}
        )
        total = sum(task_experts.values()) + shared_experts
        self.names = expert_names(task_experts, shared_experts)
        self.shared_gate = Gate(width, total, config.gate) if shared_stream else None
        self.total, self.first_shared = total, total - shared_experts
        self.own: list[range] = []  # each task's own experts among all
        for count in task_experts.values():
            start = self.own[-1].stop if self.own else 0
            self.own.append(range(start, start + count))

    def forward(self, inputs: Sequence[SplitInput]) -> Mixture:
        """Mix one level.

        Args:
            inputs: the model input alone (first level), or one stream [R, H] per task and the shared one, in order.

        Returns:
            The mixture; `mixed` [R, S, H] holds the streams of this level.
        """
        experts: list[Tensor] = []
        gates: list[Tensor] = []
        groups = self._readers()
        if len(inputs) == 1:
            results = iter(read_together(inputs[0], [reader for group in groups for reader in group]))
            read = [[next(results) for _ in group] for group in groups]
        else:
            read = [read_together(x, group) for x, group in zip(inputs, groups, strict=True)]
        for group, results_of_group in zip(groups, read, strict=True):
            for reader, result in zip(group, results_of_group, strict=True):
                (experts if isinstance(reader, Experts) else gates).append(result)
        outputs = torch.cat(experts, dim=1) if len(experts) > 1 else experts[0]  # [R, E, H]
        weights = torch.stack([self._placed(stream, gate) for stream, gate in enumerate(gates)], dim=1)  # [R, S, E]
        shared = range(self.first_shared, self.total)
        visible = [(*own, *shared) for own in self.own] + [tuple(range(self.total))] * (len(gates) - self.num_tasks)
        return Mixture(
            streams=self.streams,
            experts=outputs,
            weights=weights,
            visible=tuple(visible),
            mixed=mix(weights, outputs),
            names=self.names,
        )

    def _readers(self) -> list[list[FirstLayer]]:
        """What reads each stream from below: the tasks' in order, then the shared one's."""
        groups: list[list[FirstLayer]] = []
        for task, gate in self.task_gates.items():
            own = [self.task_experts[task]] if task in self.task_experts else []
            groups.append([*own, gate])  # type: ignore[list-item]
        shared: list[FirstLayer] = [part for part in (self.shared_experts, self.shared_gate) if part is not None]
        return [*groups, shared] if shared else groups

    def _placed(self, stream: int, gate: Tensor) -> Tensor:
        """A stream's gate [R, visible] -> [R, E] with zeros at the experts it does not see."""
        if stream >= self.num_tasks:
            return gate
        own = self.own[stream]
        if len(own) == self.first_shared:
            return gate
        return torch.cat(
            [F.pad(gate[:, : len(own)], (own.start, self.first_shared - own.stop)), gate[:, len(own) :]], dim=1
        )


class MixtureRanker(Ranker):
    """Base of the rankers with experts: a subclass defines `mixtures`, and towers read the last level."""

    def __init__(self, config: ExpertConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.expert_config = config

    def add_towers(self, width: int) -> None:
        """One tower per task on streams of the given width.

        Normalised experts are of unit size however small their input, so their towers start small: training then
        begins at the tasks' base rates as it does without normalisation.
        """
        towers = {task.name: self.tower(task.name, width) for task in self.tasks}
        if self.expert_config.expert_norm:
            with torch.no_grad():
                for tower in towers.values():
                    tower.output.weight.mul_(SMALL_START)
        self.towers = nn.ModuleDict(towers)

    def build_experts(self, width: int, count: int) -> Experts:
        """`count` experts as configured."""
        return build_experts(width, count, self.expert_config.expert_hidden, self.expert_config)

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """Model input -> the mixture of every level, lowest first."""
        raise NotImplementedError(f"{type(self).__name__} must define mixtures")

    def batch_mixtures(self, batch: Batch) -> list[Mixture]:
        """Batch -> the mixture of every level."""
        return self.mixtures(self.embed(batch))

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        return self.read_out(self.mixtures(x)[-1])

    def read_out(self, last: Mixture) -> dict[str, Tensor]:
        """Last level -> task -> float [R]; a single stream serves every task."""
        streams = last.mixed.unbind(1)
        only = len(last.streams) == 1
        return {
            task.name: self.towers[task.name](streams[0 if only else position])
            for position, task in enumerate(self.tasks)
        }

    def gate_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Gate name (`task`, or `level/task` with several levels) -> weights float [R, E] over the experts it sees."""
        levels = self.batch_mixtures(batch)
        return {
            stream if len(levels) == 1 else f"{level}/{stream}": mixture.seen(position)
            for level, mixture in enumerate(levels, 1)
            for position, stream in enumerate(mixture.streams)
        }

    def expert_outputs(self, batch: Batch) -> list[Tensor]:
        """Expert outputs of every level, float [R, E, H]."""
        return [mixture.experts for mixture in self.batch_mixtures(batch)]
