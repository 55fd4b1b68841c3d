"""Batch -> embedded fields: categorical rows, bags, histories and numbers of both sides, ready for gates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..base.errors import ConfigError
from ..base.settings import Settings
from ..data.batch import Batch, Block, Layout, SideLayout
from .embedding import EmbeddingTable, mean_share
from .numeric import MissingValue
from .sequence import SequenceConfig, SequenceEncoder, build_sequence_encoder
from .split import SplitInput
from .target import TargetAttention, TargetConfig


class FeatureHistory(SequenceConfig):
    """How a sequence feature becomes a vector: unless told otherwise, the mean of its items."""

    encoder: str = "mean"


class FeatureConfig(Settings):
    """How features become numbers."""

    embedding_dim: int = Field(default=8, ge=1)
    """Width K of every embedding."""
    init_std: float = Field(default=0.05, gt=0)
    """Standard deviation of the embeddings before training."""
    history: FeatureHistory = FeatureHistory()
    """How a sequence feature is summed up."""
    target: TargetConfig = TargetConfig()
    """What a candidate reads of the sequence features: target attention."""


@dataclass(frozen=True)
class SideFields:
    """One side, embedded.

    Attributes:
        fields: float [R, F, K] one embedding per categorical, multi-valued and mean-pooled sequence feature.
        dense: float [R, n] numbers, vectors and encoded histories, which are not gated.
    """

    fields: Tensor
    dense: Tensor

    def flat(self) -> Tensor:
        """Field-major concatenation, then the dense part: [R, F*K + n]."""
        return _joined([self.fields.flatten(1), self.dense])


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenation along columns that copies nothing when only one part has any."""
    filled = [part for part in parts if part.shape[1] > 0]
    return torch.cat(filled, dim=1) if len(filled) > 1 else (filled or parts)[0]


@dataclass(frozen=True)
class Encoded:
    """Both sides, embedded; `owner` as in `Batch`."""

    query: SideFields
    item: SideFields
    owner: Tensor | None

    def split(self) -> SplitInput:
        """The flat view in two parts."""
        return SplitInput(self.query.flat(), self.item.flat(), self.owner)


class SideEncoder(nn.Module):
    """Embeds the columns of one side through a shared table.

    Args:
        layout: columns of the side.
        table: the stacked table, shared between the sides; held by reference, not registered here.
        config: see `FeatureConfig`.
    """

    offsets: Tensor

    def __init__(self, layout: SideLayout, table: EmbeddingTable, config: FeatureConfig) -> None:
        super().__init__()
        self.layout = layout
        self._table = (table,)  # a tuple hides it from the module tree: its parameters belong to the FeatureEncoder
        self.register_buffer("offsets", table.offsets_of(layout.categorical), persistent=False)
        self.bag_offsets: list[int] = table.offsets_of(layout.bags).tolist()
        self.missing = MissingValue(len(layout.numeric))
        self.encoders = nn.ModuleDict()
        self.mean_pooled = config.history.encoder == "mean"
        self.reads_user = config.history.reads_user
        described = (len(layout.categorical) + len(layout.bags)) * table.dim
        described += len(layout.numeric) + sum(width for _, width in layout.vectors)
        for position, sequence in enumerate(layout.sequences):
            offsets = table.offsets_of([*sequence.of, *sequence.properties])
            self.register_buffer(f"sequence_offsets_{position}", offsets, persistent=False)
            if not self.mean_pooled:
                self.encoders[sequence.name] = build_sequence_encoder(
                    config.history,
                    len(sequence.of) * table.dim,
                    len(sequence.properties) * table.dim,
                    described if self.reads_user else 0,
                )
        pooled = sum(len(sequence.of) for sequence in layout.sequences) if self.mean_pooled else 0
        self.num_fields = len(layout.categorical) + len(layout.bags) + pooled
        encoded = sum(self._encoder(name).output_width for name in self.encoders)
        self.num_dense = len(layout.numeric) + sum(width for _, width in layout.vectors) + encoded

    def _pooled(self, rows: Tensor, share: Tensor) -> Tensor:
        """Weighted sums over a sequence, column by column: int64 [R, L, F] and float [R, L] -> [R, F, K]."""
        (table,) = self._table
        if torch.is_grad_enabled():  # whose backward pass goes column by column
            return torch.stack([table.pooled(column, share) for column in rows.unbind(2)], dim=1)
        queries, length, columns = rows.shape
        shares = share.unsqueeze(1).expand(-1, columns, -1).reshape(queries * columns, length)
        return table.pooled(rows.transpose(1, 2).reshape(queries * columns, length), shares).view(queries, columns, -1)

    def _encoder(self, sequence: str) -> SequenceEncoder:
        encoder = self.encoders[sequence]
        assert isinstance(encoder, SequenceEncoder)
        return encoder

    def forward(self, block: Block) -> SideFields:
        """Block of R rows -> fields [R, F, K] and dense [R, n]."""
        (table,) = self._table
        fields = [torch.empty(block.rows, 0, table.dim, dtype=table.dtype, device=block.categorical.device)]
        if self.layout.categorical:  # an empty lookup would cost a copy of the other side's gradient
            fields.append(table(block.categorical + self.offsets))
        for rows, offset in zip(block.bags, self.bag_offsets, strict=True):
            fields.append(table.pooled(rows + offset, mean_share(rows > 0)).unsqueeze(1))
        dense = [self.missing(block.numeric), *block.vectors]
        # What is known of the user and the moment beside the histories: dupn's attention reads it, no item does.
        known = _joined([*(field.flatten(1) for field in fields), *dense]) if self.reads_user else None
        for position, (sequence, rows) in enumerate(zip(self.layout.sequences, block.sequences, strict=True)):
            offsets: Tensor = getattr(self, f"sequence_offsets_{position}")
            present = rows[:, :, 0] > 0  # [R, L]
            described = len(sequence.of)
            if self.mean_pooled:
                fields.append(self._pooled(rows[:, :, :described] + offsets[:described], mean_share(present)))
            else:
                vectors = table(rows + offsets)  # [R, L, of + properties, K]
                events, properties = vectors[:, :, :described].flatten(2), vectors[:, :, described:].flatten(2)
                dense.append(self._encoder(sequence.name).last(events, properties, present.sum(1), query=known))
        return SideFields(_joined(fields), _joined(dense))


class FeatureEncoder(nn.Module):
    """Embeds both sides of a batch with one stacked table.

    Args:
        layout: columns and vocabulary sizes.
        config: see `FeatureConfig`.
    """

    def __init__(self, layout: Layout, config: FeatureConfig) -> None:
        super().__init__()
        self.table = EmbeddingTable(layout.sizes, config.embedding_dim, config.init_std, layout.shared)
        self.query = SideEncoder(layout.query, self.table, config)
        self.item = SideEncoder(layout.item, self.table, config)
        self.target: TargetAttention | None = None
        if config.target.unit != "none":
            if not layout.query.sequences:
                raise ConfigError(
                    f'input.target.unit = "{config.target.unit}" reads a history; declare a feature of kind "sequence"'
                )
            self.target = TargetAttention(layout, self.table, config.target)
            self.item.num_dense += self.target.width
        pooled = config.history.encoder == "mean" and self.target is None
        events = [name for one in layout.query.sequences for name in (*one.of, *one.properties)]
        bags, single = [*layout.query.bags, *layout.item.bags], [*layout.query.categorical, *layout.item.categorical]
        self.table.know_bags(*((bags + events, single) if pooled else (bags, single + events)))

    @property
    def num_fields(self) -> int:
        """Embedded fields F of both sides."""
        return self.query.num_fields + self.item.num_fields

    @property
    def width(self) -> int:
        """Width D of the flat view."""
        return self.num_fields * self.table.dim + self.query.num_dense + self.item.num_dense

    def forward(self, batch: Batch) -> Encoded:
        """Batch -> both sides embedded."""
        item: SideFields = self.item(batch.item)
        if self.target is not None:
            item = replace(item, dense=_joined([item.dense, self.target(batch)]))
        return Encoded(self.query(batch.query), item, batch.owner)
