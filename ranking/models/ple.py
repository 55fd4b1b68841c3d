"""PLE, progressive layered extraction: CGC levels stacked (Tang et al., RecSys 2020, section 4.2).

Level j has experts of each task, which read that task's stream of level j-1, and shared experts, which read the
shared stream. A task's gate reads its own stream of level j-1 and mixes its own and the shared experts; the shared
gate reads the shared stream and mixes *all* experts. At level 1 every stream is the model input x. The last level has
no shared stream, because nothing would read it. Towers read the tasks' last streams. Of task k at level j, E_k and E_s
its own and the shared experts: `g_kj = softmax(W_kj g_k(j-1)) [E_k(g_k(j-1)), E_s(g_s(j-1))]`, `y_k = t_k(g_kL)`.

Hence tasks are separated progressively: through the shared gate each task still trains the other tasks' lower
experts; at the last level it does not. Shapes per level: experts [R, sum m_k + m_s, H], streams (T + 1) x [R, H] (T
at the last). Sibling: with one level it is CGC, parameter for parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from ...base.settings import Settings
from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.split import SplitInput
from ..mixture import ExpertConfig, ExtractionLevel, Mixture, MixtureRanker, experts_per_task


class LevelConfig(Settings):
    """One extraction level."""

    task_experts: int | dict[str, int] = 2
    """Experts of each task's own: one number for all, or one per task, e.g. `{ click = 2, like = 6 }`."""
    shared_experts: int = Field(default=2, ge=0)
    """Experts read by every task's gate."""
    expert_hidden: tuple[int, ...] = ()
    """Widths of each expert's layers; the ranker's `expert_hidden` when empty."""


class PLEConfig(ExpertConfig):
    """Keys of `kind = "ple"`."""

    kind: str = "ple"
    """Which ranker."""
    levels: tuple[LevelConfig, ...] = Field(default=(LevelConfig(), LevelConfig()), min_length=1)
    """Extraction levels, lowest first; the paper's multi-level models have two."""


class PLE(MixtureRanker, kind="ple"):
    """Extraction levels and towers."""

    paper = "Tang et al. RecSys 2020"
    summary = "several levels of task and shared experts, separated progressively"
    Config = PLEConfig

    def __init__(self, config: PLEConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.levels = nn.ModuleList()
        width = self.width
        for position, level in enumerate(config.levels):
            hidden = level.expert_hidden or config.expert_hidden
            counts = experts_per_task(level.task_experts, tasks)
            read_above = any(above.shared_experts for above in config.levels[position + 1 :])
            self.levels.append(
                ExtractionLevel(width, counts, level.shared_experts, config, hidden, shared_stream=read_above)
            )
            width = hidden[-1]
        self.add_towers(width)

    def mixtures(self, x: SplitInput) -> list[Mixture]:
        """Every level; all but the last have the shared stream behind the tasks'."""
        found: list[Mixture] = []
        streams = [x]
        for level in self.levels:
            mixture: Mixture = level(streams)
            streams = [SplitInput.of(stream) for stream in mixture.mixed.unbind(1)]
            found.append(mixture)
        return found

    def shared_layer(self) -> list[nn.Parameter]:
        """Last layer of the highest shared experts."""
        for level in reversed(self.levels):
            assert isinstance(level, ExtractionLevel)
            if level.shared_experts is not None:
                return [level.shared_experts.last_weight]
        return super().shared_layer()
