"""The two-tower retriever (DSSM, CIKM 2013): a user vector, an item vector, and nothing between them but a product.

The item tower sums embeddings of the id and the content, so that an item nobody has met yet has a vector, and passes
the sum through a network of its own where `item_hidden` asks for one. The user tower reads the user's history through
any encoder of `nn.sequence` and the user's own features. No feature ever crosses from one side to the other: that is
the model's limit, and what makes item vectors indexable.

One pass over a window of a user's events trains every position: the state before event t predicts event t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...base.arrays import F32
from ...base.errors import ConfigError
from ...base.settings import Settings
from ...base.tuned import Choice, Range
from ...data.batch import Block
from ...data.vocabulary import UNKNOWN
from ...nn.activation import HiddenGateKind, LayerActivation
from ...nn.at_rest import TableDtype
from ...nn.embedding import EmbeddingTable
from ...nn.gates import FieldGateConfig
from ...nn.mlp import MLP, init_linear
from ...nn.sequence import SequenceConfig, build_sequence_encoder
from .content import ContentSum
from .inputs import TowerLayout, Windows
from .linear import LinearPart

EMPTY_WEIGHT = "empty_weight"
"""Weight of the item bias for users without a history; runs of earlier versions lack it, and mean 1."""


class TowerHistory(SequenceConfig):
    """How the user's positive events become a vector."""

    encoder: str = "decayed_mean"


class TwoTowerConfig(Settings):
    """What the towers are made of."""

    tuned = {"dim": Choice((32, 64, 128)), "dropout": Range(0.0, 0.5)}

    dim: int = Field(default=64, ge=1)
    """Width D of user and item vectors, and of every embedding in the towers."""
    item_features: tuple[str, ...] | None = None
    """Item features the item tower reads; all of them when absent."""
    neighbours: int = Field(default=0, ge=0)
    """Items that an item's vector holds the mean of beside its own embedding: those with the most users in common, of
    the training part (shrunk cosine, two common users at least). 0: none. `recsys init` writes 10."""
    user_features: tuple[str, ...] | None = None
    """User features beside the history; all of them when absent, none when empty."""
    event_features: tuple[str, ...] = ("gap",)
    """What describes each event of a history besides its item: `gap` (log2 seconds since the event before),
    `request_gap` (log2 seconds until the request: in training and evaluation the time of the user's next event, in
    service the clock) and categorical context features, those with `after_event` included. A model that reads
    `request_gap` knows when it is asked; compare it only with models that do."""
    history: TowerHistory = TowerHistory()
    """How a history becomes a vector."""
    user_hidden: tuple[int, ...] = (128,)
    """Widths of the user tower's hidden layers, after the history encoder."""
    item_hidden: tuple[int, ...] = ()
    """Widths of the item tower's hidden layers, after the sum of the embeddings; none: the sum is the item's vector."""
    activation: LayerActivation = "relu"
    """Of the hidden layers of both towers. `tanh`, DSSM's, also follows the output layer of each tower's network, as in
    its paper."""
    interests: int = Field(default=1, ge=1)
    """User vectors M per user (ComiRec, KDD 2020): an item's score is its best product with any of them; training
    takes the smooth form of the best, so that every interest learns also what it must not claim."""
    user_output: bool = True
    """A linear layer behind the user tower's hidden layers (for `dot` with a layer norm). Off: what comes before it,
    the states of the history where `user_hidden` is empty, is compared with the items as it is, as in SASRec, GRU4Rec,
    BERT4Rec and HSTU; its width must be `dim`."""
    similarity: Literal["cosine", "dot"] = "dot"
    """`cosine` of unit vectors divided by a learned temperature; or `dot` of free item vectors plus an item bias, which
    is one more dimension of the indexed vectors."""
    item_bias: bool = True
    """The item bias of `dot`; SASRec has none."""
    temperature: float = Field(default=0.07, gt=0)
    """Where the learned temperature starts (`cosine` only)."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the embeddings before training."""
    id_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of items whose id is hidden in a training step, so that content alone learns to place new items."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout after each hidden layer of both towers."""
    field_gate: FieldGateConfig = FieldGateConfig()
    """GateNet's embedding gate, one in each tower, on the columns whose embeddings the tower sums."""
    hidden_gate: HiddenGateKind = "none"
    """GateNet's gate after each hidden layer of both towers: `tanh` (the paper's), `linear`, `sigmoid`."""
    table_dtype: TableDtype = "float32"
    """In which the embeddings are kept in the run folder and served: `float16` halves them, `int8` (a step width and a
    lowest number for each row) quarters them. Trained they are in float32 anyway; a training whose lists would change
    too much is refused when it ends."""
    pair_bias: bool = False
    """A learned number added to every score in training, for a loss that judges each pair by itself; `bce` and
    `exposures` switch it on. It is the same for all items and changes no order."""


class TwoTower(nn.Module):
    """User tower and item tower over one stacked table.

    `score(u, i) = <f(history, features of u), g(features of i)>`, of unit vectors where `similarity =
    "cosine"`; nothing crosses user and item, so item vectors are made once and searched.

    Args:
        config: see `TwoTowerConfig`.
        layout: columns and vocabulary sizes.
    """

    paper: ClassVar[str] = "Huang et al. CIKM 2013 (DSSM)"
    event_offsets: Tensor
    empty_weight: Tensor

    def __init__(self, config: TwoTowerConfig, layout: TowerLayout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        width = config.dim
        self.table = EmbeddingTable(layout.sizes, width, config.init_std, layout.shared)
        columns = [*layout.item.categorical, *layout.user.categorical, *layout.events]
        self.table.know_bags([*layout.item.bags, *layout.user.bags], columns)
        self.item_content = ContentSum(layout.item, self.table, config.field_gate)
        has_user = bool(layout.user.categorical or layout.user.bags or layout.user.vectors)
        self.user_content = ContentSum(layout.user, self.table, config.field_gate) if has_user else None
        self.item_id_column = layout.item.categorical.index(layout.item_id) if layout.item_id else -1
        self.bias: EmbeddingTable | None = None
        self.log_scale: nn.Parameter | None = None
        if config.similarity == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(config.temperature).log().neg())
        elif layout.item_id and config.item_bias:
            self.bias = EmbeddingTable({layout.item_id: layout.sizes[layout.item_id]}, 1, 1e-6)
            self.register_buffer(EMPTY_WEIGHT, torch.ones(()))
        self.linear: LinearPart | None = None
        """The linear part, which is fitted beside the towers when their training is over."""
        self.register_buffer("event_offsets", self.table.offsets_of(layout.events), persistent=False)
        # DUPN lets event features steer the gates only; every other encoder adds them to the item's vector.
        self.separate = config.history.encoder == "dupn" and bool(layout.events)
        self.encoder = build_sequence_encoder(
            config.history,
            width,
            width * len(layout.events) if self.separate else 0,
            width if has_user and config.history.reads_user else 0,
        )
        state = self.encoder.output_width + (width if has_user else 0)
        self.hidden = self._hidden_layers(state, config.user_hidden)
        self.output: nn.Linear | None = None
        if config.user_output:
            self.output = init_linear(nn.Linear(self.hidden.width, width * config.interests), relu=False)
        elif self.hidden.width != width or config.interests > 1:
            raise ConfigError(
                f"tower.user_output = false compares what is {self.hidden.width} wide, history and user features side "
                f"by side, with items of width {width}; give both one width and leave out user_features and interests, "
                "or set user_output = true"
            )
        self.norm = nn.LayerNorm(width) if config.similarity == "dot" and config.user_output else nn.Identity()
        self.item_network: nn.Sequential | None = None
        if config.item_hidden:
            layers = self._hidden_layers(width, config.item_hidden)
            self.item_network = nn.Sequential(layers, init_linear(nn.Linear(layers.width, width), relu=False))
        self.pair_bias = nn.Parameter(torch.zeros(())) if config.pair_bias else None

    def _hidden_layers(self, width: int, hidden: tuple[int, ...]) -> MLP:
        return MLP(width, hidden, self.config.dropout, self.config.hidden_gate, self.config.activation)

    def _squashed(self, projected: Tensor) -> Tensor:
        """The output layer's activation: DSSM's tanh, or none."""
        return torch.tanh(projected) if self.config.activation == "tanh" else projected

    @property
    def width(self) -> int:
        """Width of the vectors that are compared: D, the rank of a linear part, and one more for the item bias."""
        return self.config.dim + self.rank + (self.bias is not None)

    @property
    def rank(self) -> int:
        """R, numbers of the linear part; 0 where there is none."""
        return 0 if self.linear is None else self.linear.rank

    def without_bias(self, vectors: F32) -> F32:
        """Item vectors [R, width] without the linear part and the item bias, [R, D]."""
        return vectors[:, : self.config.dim]

    def directions(self, vectors: F32) -> F32:
        """Item vectors [R, width] at length 1, see `without_bias`: their products are cosines, [R, D]."""
        own = self.without_bias(vectors)
        return np.asarray(own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12), dtype=np.float32)

    @property
    def vectors_hold_content(self) -> bool:
        """Whether the first D numbers of an item's vector are its content, as nothing comes between the two."""
        return self.item_network is None and self.log_scale is None and self.linear is None

    @property
    def scale(self) -> Tensor | float:
        """Factor on the product while training: 1 / temperature for cosine, 1 for dot. It cannot change an order."""
        return 1.0 if self.log_scale is None else self.log_scale.clamp(max=5.0).exp()

    def start_at(self, rate: float) -> None:
        """Let the bias of pairs begin at a share of positives, in (0, 1), so that training need not first find it."""
        if self.pair_bias is not None:
            nn.init.constant_(self.pair_bias, math.log(rate) - math.log1p(-rate))

    def embed_items(self, items: Block) -> tuple[Tensor, Tensor]:
        """Content [R, D] and vectors [R, width] of R items; in training some ids are hidden, and with them their bias.

        The row of the unknown id thus learns what an item without one is worth: the start of every new item.
        """
        if self.training and self.config.id_dropout > 0 and self.item_id_column >= 0:
            categorical = items.categorical.clone()
            ids = categorical[:, self.item_id_column]
            hidden = torch.rand(items.rows, device=ids.device) < self.config.id_dropout
            ids.masked_fill_(hidden, UNKNOWN)
            items = replace(items, categorical=categorical)
        content = self.embed_content(items)
        return content, self.item_vectors(items, content)

    def embed_content(self, items: Block) -> Tensor:
        """Item columns of R items -> content [R, D], or [R, D + rank] with what the items say to a linear part: what
        histories are made of, and what item vectors come from.
        """
        content: Tensor = self.item_content(items)
        return content if self.linear is None else torch.cat([content, self.linear.reads[self._ids(items)]], dim=1)

    def _ids(self, items: Block) -> Tensor:
        """Rows of the item ids, int64 [R]."""
        return items.categorical[:, self.item_id_column]

    def item_vectors(self, items: Block, content: Tensor) -> Tensor:
        """Content of the same items, see `embed_content` -> vectors to compare or index, [R, width]."""
        content = content[:, : self.config.dim]
        if self.item_network is not None:
            content = self._squashed(self.item_network(content * self.config.dim**0.5))
        if self.log_scale is not None:
            return F.normalize(content, dim=1)
        parts = [content]
        if self.linear is not None:
            parts.append(self.linear.writes[self._ids(items)])
        if self.bias is not None:
            parts.append(self.bias(self._ids(items)))
        return torch.cat(parts, dim=1)

    def _events(self, windows: Windows, history: Tensor) -> tuple[Tensor, Tensor | None]:
        events = history[..., : self.config.dim] * self.config.dim**0.5  # [B, L, D]
        if not self.layout.events:
            return events, None
        rows = windows.properties + self.event_offsets  # [B, L, p]
        if self.separate:
            return events, self.table(rows).flatten(2)
        known = windows.present.flatten()[:, None].expand(-1, rows.shape[2])
        described = self.table.pooled(rows.flatten(0, 1), known).view_as(events)
        return events + described * self.config.dim**0.5, None

    def _profile(self, users: Block) -> Tensor | None:
        """What the users' own features say, [B, D]; None without such features."""
        return None if self.user_content is None else self.user_content(users)

    def _query(self, profile: Tensor | None) -> Tensor | None:
        """What the encoder sees of the user beside the history."""
        return profile * self.config.dim**0.5 if profile is not None and self.encoder.query_width else None

    def _vectors(self, states: Tensor, profile: Tensor | None) -> Tensor:
        """Encoder states [B, S, H] -> what the network says of the users, [B, S, D], or [B, S, M, D] of interests."""
        if profile is not None:
            # Scaled at each position, not once for all: the gradient then sums scaled terms. The other order rounds
            # otherwise and trains other weights from the same seed.
            profiles = profile.unsqueeze(1).expand(-1, states.shape[1], -1) * self.config.dim**0.5
            states = torch.cat([states, profiles], dim=2)
        vectors = self.hidden(states)
        if self.output is not None:
            vectors = self._squashed(self.output(vectors))
        if self.config.interests > 1:
            vectors = vectors.unflatten(-1, (self.config.interests, self.config.dim))
        vectors = self.norm(vectors)
        return vectors if self.log_scale is None else F.normalize(vectors, dim=-1)

    def _finish(self, states: Tensor, profile: Tensor | None) -> Tensor:
        """Encoder states [B, S, H] -> user vectors in training, [B, S, width], or [B, S, M, width] of M interests."""
        vectors = self._vectors(states, profile)
        return vectors if self.bias is None else torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)

    def states_before(self, windows: Windows, history: Tensor) -> Tensor:
        """What the user tower says before every event of the windows: [B, L, width], or [B, L, M, width]; at hidden
        events, what it fills in.

        Args:
            windows: B windows of length L.
            history: float [B, L, D] content of their items.
        """
        states, profile = self._states(windows, history)
        return self._finish(states if windows.hidden is not None else self.encoder.before(states), profile)

    def states_between(self, windows: Windows, history: Tensor) -> Tensor:
        """The same, and after the last event: entry t knows the first t events, [B, L + 1, width] or
        [B, L + 1, M, width]. Entries behind a window's length carry no meaning.
        """
        states, profile = self._states(windows, history)
        return self._finish(self.encoder.between(states), profile)

    def _states(self, windows: Windows, history: Tensor) -> tuple[Tensor, Tensor | None]:
        events, properties = self._events(windows, history)
        profile = self._profile(windows.users)
        query = self._query(profile)
        more = {"times": windows.times, "query": query}
        if windows.hidden is not None:
            return self.encoder.filled(events, properties, windows.hidden, windows.lengths, **more), profile
        return self.encoder(events, properties, windows.lengths, **more), profile

    def user_vectors(self, windows: Windows, history: Tensor) -> Tensor:
        """What the user tower says after the last event of each window: [B, width], or [B, M, width]."""
        events, properties = self._events(windows, history)
        profile = self._profile(windows.users)
        query = self._query(profile)
        state = self.encoder.last(events, properties, windows.lengths, times=windows.times, query=query)
        vectors = self._vectors(state.unsqueeze(1), profile)[:, 0]
        parts = [vectors]
        if self.linear is not None:
            said = self.linear.of_users(history[..., self.config.dim :], windows.present)
            parts.append(_beside(vectors, said))
        if self.bias is not None:
            weights = torch.where(windows.lengths == 0, self.empty_weight, 1.0).to(vectors)
            parts.append(_beside(vectors, weights.unsqueeze(1)))
        return torch.cat(parts, dim=-1)


def make_room(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give towers, or each of several, a linear part as large as the kept one, whose numbers are yet to be loaded."""
    for name, module in list(model.named_modules()):
        reads = weights.get(f"{name}.linear.reads".lstrip("."))
        if isinstance(module, TwoTower) and reads is not None:
            module.linear = LinearPart(*reads.shape)


def take_linear(model: TwoTower, source: TwoTower) -> None:
    """Give towers, or each of several, the linear part of others whose item ids are the first of theirs; the ids behind
    those say nothing.
    """
    parts = [part.linear for part in source.modules() if isinstance(part, TwoTower) and part.linear is not None]
    if not parts:
        return
    members = [part for part in model.modules() if isinstance(part, TwoTower) and "table" in part._modules]
    for member, part in zip(members, parts, strict=True):
        member.linear = part.longer(member.layout.sizes[member.layout.item_id])


def _beside(vectors: Tensor, numbers: Tensor) -> Tensor:
    """Further numbers of users [B, K] for each of their vectors: as they are, or [B, M, K] of M interests."""
    return numbers if vectors.dim() == 2 else numbers.unsqueeze(1).expand(-1, vectors.shape[1], -1)
