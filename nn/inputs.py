"""From a batch to the model input: embedding; where configured field gate, interactions, joint gate, cross layers."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ..base.tuned import Choice
from ..data.batch import Batch, Layout
from .cross import CrossNetwork
from .features import Encoded, FeatureConfig, FeatureEncoder
from .gates import FieldGateConfig, JointGate, JointGateConfig, build_field_gate
from .interaction import InteractionConfig, build_interaction
from .split import SplitInput


class InputConfig(FeatureConfig):
    """Everything between the columns of a batch and the first layer of a ranker."""

    tuned = {"embedding_dim": Choice((8, 16, 32))}

    field_gate: FieldGateConfig = FieldGateConfig()
    """GateNet's embedding gate."""
    joint_gate: JointGateConfig = JointGateConfig()
    """GemNN's gate."""
    interaction: InteractionConfig = InteractionConfig()
    """What pairs of fields say together, added to the input after the field gate."""
    cross_layers: int = Field(default=0, ge=0)
    """DCN-V2 cross layers after the gates: 2 or 3 for tabular data, none for logs rich in counts."""
    cross_rank: int = Field(default=32, ge=1)
    """Rank of each cross layer's weight."""


class InputLayer(nn.Module):
    """Batch -> `SplitInput` of width D.

    Gates and cross layers that mix both sides end the split: what follows them is computed per candidate.

    Args:
        config: see `InputConfig`.
        layout: columns and vocabulary sizes.
    """

    def __init__(self, config: InputConfig, layout: Layout) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(layout, config)
        self.width = self.encoder.width
        fields = self.encoder.query.num_fields, self.encoder.item.num_fields
        self.field_gate = build_field_gate(config.field_gate, fields, self.encoder.table.dim)
        self.interaction = build_interaction(config.interaction, fields, self.encoder.table.dim)
        if self.interaction is not None:
            self.width += self.interaction.query_width + self.interaction.item_width
        joint = config.joint_gate
        self.joint_gate: JointGate | None = None
        if joint.enabled:
            self.joint_gate = JointGate(
                self.width, activation=joint.activation, bias=joint.bias, rank=joint.rank, scale=joint.scale
            )
        self.cross: CrossNetwork | None = None
        if config.cross_layers:
            self.cross = CrossNetwork(self.width, config.cross_layers, config.cross_rank)

    def encode(self, batch: Batch) -> Encoded:
        """Batch -> embedded fields after the field gate."""
        encoded: Encoded = self.encoder(batch)
        return encoded if self.field_gate is None else self.field_gate(encoded)

    def forward(self, batch: Batch) -> SplitInput:
        """Batch of R rows -> input [R, D] in two parts."""
        encoded = self.encode(batch)
        x = encoded.split()
        if self.interaction is not None:
            of_query, of_item = self.interaction(encoded)
            x = SplitInput(torch.cat([x.query, of_query], 1), torch.cat([x.item, of_item], 1), x.owner)
        if self.joint_gate is not None:
            x = self.joint_gate(x)
        if self.cross is not None:
            x = self.cross(x)
        return x
