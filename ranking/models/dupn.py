"""DUPN as a ranker: one universal user vector for all tasks, computed once per request (KDD 2018, arXiv 1805.10727).

The history passes DUPN's property-gated LSTM and attention (`nn.sequence`) and gives a representation; the other user
and context features pass an MLP and give a profile; the user vector is the two side by side. Every task is a small
MLP on user vector and item features. The candidate enters neither LSTM nor attention, which is what lets 10,000 items
share one pass over the history. `frozen` trains the task networks alone: transfer of another run's representation to a
new task (see `funnel.transfer`).

Shapes: history [Q, L] and profile features -> user vector [Q, hidden + profile_hidden[-1]]; with items [R, Di] one
logit [R] per task. Sibling: any ranker takes the same encoder by `input.history.encoder = "dupn"`; this one keeps its
user vector apart from everything about the item. Abstract read, equations reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.features import FeatureHistory
from ...nn.inputs import InputConfig
from ...nn.mlp import MLP
from ...nn.split import SplitInput
from ..ranker import Ranker, RankerConfig


class DUPNHistory(FeatureHistory):
    """How the user's history becomes a representation."""

    encoder: str = "dupn"
    """Name of the encoder, any but the mean: dupn, lstm, transformer, or one by the name of its paper."""


class DUPNInput(InputConfig):
    """Between the columns of a batch and the user vector."""

    history: DUPNHistory = DUPNHistory()


class DUPNConfig(RankerConfig):
    """Keys of `kind = "dupn"`."""

    kind: str = "dupn"
    """Which ranker."""
    input: DUPNInput = DUPNInput()
    """Embeddings and gates; `history` must be an encoder with states of its own (dupn, lstm, transformer)."""
    profile_hidden: tuple[int, ...] = Field(default=(128,), min_length=1)
    """Widths of the network on the user's other features."""
    tower_hidden: tuple[int, ...] = (64, 32)
    """Widths of every task's network."""
    frozen: bool = False
    """Transfer to new tasks: embeddings, encoder and profile network are those of the run named with `--from` and stay
    exactly as they are; only the tasks' networks are trained."""

    @property
    def keeps_encoder(self) -> bool:
        """See `RankerConfig.keeps_encoder`."""
        return self.frozen


class DUPN(Ranker, kind="dupn"):
    """User vector from history and profile, a network per task on user vector and item."""

    paper = "Ni et al. KDD 2018, arXiv 1805.10727"
    summary = "one user vector from property-gated LSTM and attention, shared by all tasks"
    Config = DUPNConfig

    def __init__(self, config: DUPNConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        if not layout.query.sequences:
            raise ConfigError('dupn needs a user\'s history: declare a feature of kind "sequence"')
        if config.input.history.encoder == "mean":
            raise ConfigError('dupn cannot use input.history.encoder = "mean"; take "dupn", "lstm" or "transformer"')
        if config.input.joint_gate.enabled or config.input.cross_layers or config.input.interaction.kind != "none":
            raise ConfigError(
                "dupn keeps user and item apart: switch input.joint_gate, input.cross_layers and input.interaction off"
            )
        if config.input.target.unit != "none":
            raise ConfigError('dupn reads the history without the candidate: set input.target.unit = "none"')
        super().__init__(config, layout, tasks)
        encoder = self.inputs.encoder
        vectors = sum(width for _, width in layout.query.vectors)
        self.representation = encoder.query.num_dense - len(layout.query.numeric) - vectors
        query_width = encoder.query.num_fields * encoder.table.dim + encoder.query.num_dense
        self.profile = MLP(query_width - self.representation, config.profile_hidden, config.dropout, config.hidden_gate)
        width = self.representation + self.profile.width + self.inputs.width - query_width
        self.towers = nn.ModuleDict({task.name: self.tower(task.name, width) for task in tasks})
        self.frozen = config.frozen
        if self.frozen:
            self.inputs.requires_grad_(False)
            self.profile.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """See `nn.Module.train`; a frozen user part is what it was, dropout and all, so it always evaluates."""
        super().train(mode)
        if self.frozen:
            self.inputs.eval()
            self.profile.eval()
        return self

    def shared_layer(self) -> list[nn.Parameter]:
        """The table, which every task trains; a frozen one no task does."""
        return [] if self.frozen else super().shared_layer()

    def user_vector(self, x: SplitInput) -> Tensor:
        """Model input with Q queries -> [Q, hidden + profile]: history first, then profile."""
        profile, history = x.query[:, : -self.representation], x.query[:, -self.representation :]
        return torch.cat([history, self.profile(profile)], dim=1)

    def user_vectors(self, batch: Batch) -> Tensor:
        """The universal user vector of each query row of a batch, [Q, hidden + profile]."""
        return self.user_vector(self.embed(batch))

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        pair = SplitInput(self.user_vector(x), x.item, x.owner)
        return {name: tower(pair) for name, tower in self.towers.items()}
