"""A history that sees the candidate: target attention over the events of a sequence feature, for every ranker.

The activation unit of DIN (Zhou et al., KDD 2018, section 4.3) gives each event a weight by how it meets the candidate,
and sums the events by it: `v(c) = sum_j a(e_j, c) e_j`. Its first layer is linear in `[e, c, e * c]` (the difference of
the two, which the authors' code adds, is a linear function of both), so the part of the event is computed once a
request, that of the candidate once a candidate, and only the product for each pair.

Long histories are searched first, as in SIM (Pi et al., CIKM 2020) and ETA (Chen et al., 2021): `match` keeps the last
events that share a value with the candidate (SIM's hard search), `hash` those whose embedding falls on the same side of
most random planes (ETA's SimHash). The attention then reads those few alone.

Shapes: Q requests, C candidates each, L events of width De (properties of the event beside them, Dp), H hidden units.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import ConfigError
from ..base.settings import Settings
from ..data.batch import Batch, Layout, SequenceField
from .embedding import EmbeddingTable
from .mlp import init_linear
from .split import even_rows


class TargetConfig(Settings):
    """What a candidate reads of the user's history, beside what the history says whoever the candidate is."""

    unit: Literal["none", "din", "dot"] = "none"
    """`din`: DIN's activation unit; `dot`: scaled products of event and candidate, softmax; `none`: nothing."""
    hidden: tuple[int, ...] = Field(default=(36,), min_length=1)
    """Hidden layers of the activation unit, with PReLU."""
    normalise: bool = False
    """Let the weights of the activation unit sum to 1. The paper's do not: their sum tells how much of the history is
    like the candidate."""
    search: Literal["none", "match", "hash"] = "none"
    """Which events are read: all; the last that share `search_by` with the candidate; the nearest by hashes."""
    search_by: str = ""
    """Feature of the events that `match` compares; the last of the sequence's `of` when empty."""
    search_events: int = Field(default=20, ge=1)
    """Events that a search keeps for each candidate."""
    hashes: int = Field(default=32, ge=1)
    """Random planes of `hash`."""


class ActivationUnit(nn.Module):
    """Weight of each event for each candidate: DIN's unit, or scaled products.

    Args:
        config: see `TargetConfig`.
        width: De.
        properties: Dp, width of what describes an event beside its item.
    """

    paper: ClassVar[str] = "Zhou et al. KDD 2018 (DIN)"

    def __init__(self, config: TargetConfig, width: int, properties: int) -> None:
        super().__init__()
        self.softmax = config.normalise or config.unit == "dot"
        self.layers = nn.ModuleList()
        self.scale = 1.0 / math.sqrt(width)
        if config.unit == "dot":
            return
        first = config.hidden[0]
        self.of_event = init_linear(nn.Linear(width + properties, first), relu=True)
        self.of_target = init_linear(nn.Linear(width, first, bias=False), relu=True)
        self.of_product = init_linear(nn.Linear(width, first, bias=False), relu=True)
        self.slopes = nn.ParameterList(torch.full((size,), 0.25) for size in config.hidden)  # PReLU
        sizes = (*config.hidden, 1)
        self.layers.extend(init_linear(nn.Linear(below, above), relu=above > 1) for below, above in pairwise(sizes))

    def forward(self, events: Tensor, properties: Tensor | None, targets: Tensor) -> Tensor:
        """Events [Q, L, De] with properties [Q, L, Dp], targets [Q, C, De] -> weights before masking, [Q, C, L]."""
        if not len(self.layers):
            products: Tensor = torch.bmm(targets, events.transpose(1, 2))
            return products * self.scale
        queries, count = targets.shape[:2]
        described = events if properties is None else torch.cat([events, properties], dim=2)
        first = self.of_event(described).transpose(1, 2).unsqueeze(1)  # [Q, 1, H, L]
        weighted = targets.unsqueeze(2) * self.of_product.weight  # [Q, C, H, De]
        pairs = torch.bmm(weighted.flatten(1, 2), events.transpose(1, 2)).view(queries, count, -1, events.shape[1])
        hidden = (pairs + first + self.of_target(targets).unsqueeze(3)).transpose(2, 3)  # [Q, C, L, H]
        for slope, layer in zip(self.slopes, self.layers, strict=True):
            hidden = layer(F.prelu(hidden.flatten(0, 2), slope).view_as(hidden))
        weights: Tensor = hidden.squeeze(3)
        return weights


class TargetAttention(nn.Module):
    """Sums of each sequence feature's events by how they meet the candidate.

    Args:
        layout: columns of the batches; the events of a sequence are described by features that candidates have too.
        table: the stacked table; held by reference, not registered here.
        config: see `TargetConfig`.
    """

    paper: ClassVar[str] = "Pi et al. CIKM 2020 (SIM); Chen et al. 2021 (ETA)"

    def __init__(self, layout: Layout, table: EmbeddingTable, config: TargetConfig) -> None:
        super().__init__()
        self.config, self.sequences = config, layout.query.sequences
        for one in self.sequences:
            if config.search == "match" and config.search_by and config.search_by not in one.of:
                raise ConfigError(
                    f'input.target.search_by = "{config.search_by}" does not describe the events of "{one.name}"; they '
                    f"are described by {', '.join(one.of)}"
                )
        self._table = (table,)  # a tuple hides it from the module tree
        self.columns = [[layout.item.categorical.index(name) for name in one.of] for one in self.sequences]
        self.units = nn.ModuleDict(
            {
                one.name: ActivationUnit(config, len(one.of) * table.dim, len(one.properties) * table.dim)
                for one in self.sequences
            }
        )
        self.width = sum(len(one.of) for one in self.sequences) * table.dim
        generator = torch.Generator().manual_seed(0)
        for place, one in enumerate(self.sequences):
            offsets = table.offsets_of([*one.of, *one.properties])
            self.register_buffer(f"offsets_{place}", offsets, persistent=False)
            if config.search == "hash":
                planes = torch.randn(len(one.of) * table.dim, config.hashes, generator=generator)
                self.register_buffer(f"planes_{place}", planes, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Batch of R rows -> what each candidate reads of its request's histories, [R, width]."""
        owner, queries, rows = batch.owner, batch.query.rows, batch.item.rows
        together = owner is None or even_rows(owner, queries, rows)
        found = []
        for place, (one, events) in enumerate(zip(self.sequences, batch.query.sequences, strict=True)):
            columns = batch.item.categorical.unbind(1)  # an index of numbers would be copied to a device at every step
            targets = torch.stack([columns[column] for column in self.columns[place]], dim=1)
            codes = events if together or owner is None else events.index_select(0, owner)
            grouped = targets.view(codes.shape[0], -1, targets.shape[1])
            found.append(self._read(place, one, codes, grouped).reshape(rows, -1))
        return torch.cat(found, dim=1)

    def _read(self, place: int, sequence: SequenceField, codes: Tensor, targets: Tensor) -> Tensor:
        """Codes of events [Q, L, of + properties] and of candidates [Q, C, of] -> sums [Q, C, De]."""
        (table,) = self._table
        described = len(sequence.of)
        offsets: Tensor = getattr(self, f"offsets_{place}")
        wanted = table(targets + offsets[:described]).flatten(2)
        if self.config.search != "none":
            codes = self._searched(place, sequence, codes, targets, wanted)
            wanted = wanted.flatten(0, 1).unsqueeze(1)
        present = codes[:, :, 0] > 0
        vectors = table(codes + offsets)  # [Q, L, of + properties, K]
        events, properties = vectors[:, :, :described].flatten(2), vectors[:, :, described:].flatten(2)
        unit = self.units[sequence.name]
        assert isinstance(unit, ActivationUnit)
        weights = unit(events, properties if properties.shape[2] else None, wanted)
        if unit.softmax:
            absent = ~present.unsqueeze(1)
            weights = torch.softmax(weights.masked_fill(absent, torch.finfo(weights.dtype).min), dim=2)
        return torch.bmm(weights, events)  # a pad's embedding is zero, whatever its weight

    @torch.no_grad()
    def _searched(self, place: int, sequence: SequenceField, codes: Tensor, targets: Tensor, wanted: Tensor) -> Tensor:
        """The few events each candidate reads, oldest first: codes [Q * C, k, of + properties], 0 pads."""
        queries, length, _ = codes.shape
        kept = min(self.config.search_events, length)
        present = (codes[:, :, 0] > 0).unsqueeze(1)
        if self.config.search == "match":
            by = sequence.of.index(self.config.search_by) if self.config.search_by else len(sequence.of) - 1
            near = (codes[:, :, by].unsqueeze(1) == targets[:, :, by].unsqueeze(2)).int()
        else:
            (table,) = self._table
            offsets, planes = getattr(self, f"offsets_{place}"), getattr(self, f"planes_{place}")
            events = table(codes[:, :, : len(sequence.of)] + offsets[: len(sequence.of)]).flatten(2)
            sides = (torch.where(vectors @ planes > 0, 1.0, -1.0) for vectors in (events, wanted))
            by_event, by_target = sides
            near = torch.bmm(by_target, by_event.transpose(1, 2)).int()  # planes with both on one side, twice, less H
        age = torch.arange(length, device=codes.device)
        floor = torch.iinfo(torch.int32).min
        order = torch.where(present, near.long() * length + age, floor)  # the nearest, of equals the latest
        chosen = order.topk(kept, dim=2).indices.sort(dim=2).values  # [Q, C, k]
        rows = torch.arange(queries, device=codes.device).view(-1, 1, 1)
        found = codes[rows, chosen]  # [Q, C, k, of + properties]
        if self.config.search == "match":
            same = near.bool().gather(2, chosen) & present.expand_as(near).gather(2, chosen)
            found = found * same.unsqueeze(3)
        return found.flatten(0, 1)
