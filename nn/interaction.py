"""Interaction layers by name: what pairs of embedded fields say together, beside the fields themselves, for every head.

Each block reads the embedded fields of both sides and adds columns to the model input, which every ranker's first
layers read: a factorisation machine beside a network is DeepFM, products of all pairs are DLRM's, and so on. DCN-V2's
cross layers, which replace the input instead of adding to it, stand in `cross`. Every row is computed by itself.

Shapes: F = Fq + Fi fields of width K on the query and the item side, Q requests, R rows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import ConfigError
from ..base.registry import Registry
from ..base.settings import Settings
from .features import Encoded
from .mlp import init_linear
from .split import SplitInput

INTERACTIONS: Registry[type[Interaction]] = Registry("interaction")


class InteractionConfig(Settings):
    """Products and attentions of fields, added to the input of the network."""

    kind: Literal["none", "fm", "dlrm", "autoint", "masknet"] = "none"
    """`fm`: a factorisation machine's pairs, summed; `dlrm`: the product of every pair; `autoint`: self-attention over
    fields; `masknet`: fields scaled by a mask of all fields; `none`: nothing is added."""
    layers: int = Field(default=2, ge=1)
    """Attention layers of `autoint`, parallel blocks of `masknet`."""
    heads: int = Field(default=2, ge=1)
    """Attention heads of `autoint`."""
    width: int = Field(default=16, ge=1)
    """Width of a head of `autoint`, outputs of a block of `masknet`."""
    ratio: float = Field(default=1.0, gt=0)
    """Width of the layer behind the mask of `masknet`, as a share of the fields' width F K."""


class Interaction(nn.Module):
    """Base of the blocks; a subclass with `kind="..."` is found by name.

    Args:
        config: see `InteractionConfig`.
        fields: Fq and Fi.
        dim: K.

    Raises:
        ConfigError: there are fewer than two fields.
    """

    paper: ClassVar[str] = ""
    query_width: int = 0
    """Columns a request adds, a."""
    item_width: int
    """Columns a row adds, b."""

    def __init_subclass__(cls, kind: str = "", **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            INTERACTIONS.register(kind, cls)

    def __init__(self, config: InteractionConfig, fields: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.config, self.fields, self.dim = config, fields, dim
        if sum(fields) < 2:
            raise ConfigError(
                f'input.interaction.kind = "{config.kind}" pairs fields, and there are {sum(fields)}; declare more'
            )

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Embedded sides -> what requests add [Q, a], and what rows add [R, b]."""
        raise NotImplementedError

    def _spread(self, per_query: Tensor, owner: Tensor | None) -> Tensor:
        """A value of each request for each of its rows, [Q, ...] -> [R, ...]."""
        return per_query if owner is None else per_query.index_select(0, owner)

    def _nothing(self, encoded: Encoded) -> Tensor:
        return encoded.query.fields.new_empty(encoded.query.fields.shape[0], 0)

    def _whole(self, encoded: Encoded) -> Tensor:
        """Fields of both sides of every row, [R, F, K]."""
        return torch.cat([self._spread(encoded.query.fields, encoded.owner), encoded.item.fields], dim=1)


class FactorisationMachine(Interaction, kind="fm"):
    """The products of all pairs, summed: `sum over i < j of e_i * e_j = ((sum e)^2 - sum e^2) / 2`, [R, K].

    The sum of the coordinates is Rendle's second-order term, which DeepFM (Guo et al., IJCAI 2017) adds to its network;
    a head reads them one by one, as in NFM (He and Chua, SIGIR 2017, equation 4). Linear in the fields: a request's
    sums are computed once.
    """

    paper = "Rendle ICDM 2010; Guo et al. IJCAI 2017 (DeepFM)"

    def __init__(self, config: InteractionConfig, fields: tuple[int, int], dim: int) -> None:
        super().__init__(config, fields, dim)
        self.item_width = dim

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """See `Interaction`."""
        query, item, owner = encoded.query.fields, encoded.item.fields, encoded.owner
        sums = self._spread(query.sum(1), owner) + item.sum(1)
        squares = self._spread(query.square().sum(1), owner) + item.square().sum(1)
        return self._nothing(encoded), 0.5 * (sums.square() - squares)


class PairwiseProducts(Interaction, kind="dlrm"):
    """The product of every pair of fields, `p_ij = <e_i, e_j>`, i < j (DLRM: Naumov et al., 2019, section 2.1.3).

    Pairs within a request's own fields are computed once a request. DLRM's numbers pass a network of their own and
    join as one more field; here they are fields already where they have buckets.
    """

    paper = "Naumov et al. 2019, arXiv 1906.00091 (DLRM)"
    query_pairs: Tensor
    item_pairs: Tensor

    def __init__(self, config: InteractionConfig, fields: tuple[int, int], dim: int) -> None:
        super().__init__(config, fields, dim)
        ours, theirs = fields
        self.register_buffer("query_pairs", torch.triu_indices(ours, ours, 1), persistent=False)
        self.register_buffer("item_pairs", torch.triu_indices(theirs, theirs, 1), persistent=False)
        self.query_width = self.query_pairs.shape[1]
        self.item_width = ours * theirs + self.item_pairs.shape[1]

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """See `Interaction`."""
        query, item = encoded.query.fields, encoded.item.fields
        between = torch.bmm(self._spread(query, encoded.owner), item.transpose(1, 2)).flatten(1)
        return _products(query, self.query_pairs), torch.cat([between, _products(item, self.item_pairs)], dim=1)


def _products(fields: Tensor, pairs: Tensor) -> Tensor:
    """Products [R, P] of the pairs [2, P] among fields [R, F, K]."""
    products: Tensor = torch.bmm(fields, fields.transpose(1, 2))[:, pairs[0], pairs[1]]
    return products


class FieldAttention(Interaction, kind="autoint"):
    """Multi-head self-attention over the fields of a row (AutoInt: Song et al., CIKM 2019, equations 5 to 8).

    `a = softmax_k((W_Q e_m) . (W_K e_k))`, `e'_m = ReLU(concat_h(sum_k a W_V e_k) + W_res e_m)`, layer on layer; the
    last one's fields are added, [R, F heads width].
    """

    paper = "Song et al. CIKM 2019 (AutoInt)"

    def __init__(self, config: InteractionConfig, fields: tuple[int, int], dim: int) -> None:
        super().__init__(config, fields, dim)
        wide = config.heads * config.width
        self.layers = nn.ModuleList(
            init_linear(nn.Linear(dim if level == 0 else wide, 4 * wide, bias=False), relu=False)
            for level in range(config.layers)
        )
        self.item_width = sum(fields) * wide

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """See `Interaction`."""
        x = self._whole(encoded)
        rows, count = x.shape[:2]
        for layer in self.layers:
            parts = layer(x).view(rows, count, 4, self.config.heads, self.config.width)
            query, key, value, rest = (parts[:, :, place].transpose(1, 2) for place in range(4))  # [R, heads, F, width]
            weights = torch.softmax(query @ key.transpose(2, 3), dim=3)
            x = torch.relu(weights @ value + rest).transpose(1, 2).flatten(2)
        return self._nothing(encoded), x.flatten(1)


class MaskBlocks(Interaction, kind="masknet"):
    """Parallel mask blocks (MaskNet: Wang et al., DLP-KDD 2021, equations 4 to 9): [R, layers width].

    `mask = W_2 ReLU(W_1 v + b_1) + b_2` of all fields v together, `block = ReLU(LN(W (mask * LN(e_1) ... LN(e_F))))`:
    the layer norm inside is over each field. A request's part of `W_1 v` is computed once.
    """

    paper = "Wang et al. DLP-KDD 2021, arXiv 2102.07619 (MaskNet)"

    def __init__(self, config: InteractionConfig, fields: tuple[int, int], dim: int) -> None:
        super().__init__(config, fields, dim)
        flat = sum(fields) * dim
        hidden = max(1, round(config.ratio * flat))
        self.norm = nn.LayerNorm(dim)
        self.first = nn.ModuleList(init_linear(nn.Linear(flat, hidden), relu=True) for _ in range(config.layers))
        self.second = nn.ModuleList(init_linear(nn.Linear(hidden, flat), relu=False) for _ in range(config.layers))
        self.block = nn.ModuleList(
            init_linear(nn.Linear(flat, config.width, bias=False), relu=True) for _ in range(config.layers)
        )
        self.out_norm = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.layers))
        self.item_width = config.layers * config.width

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """See `Interaction`."""
        x = SplitInput(encoded.query.fields.flatten(1), encoded.item.fields.flatten(1), encoded.owner)
        normed = self.norm(self._whole(encoded)).flatten(1)
        out = []
        for first, second, block, norm in zip(self.first, self.second, self.block, self.out_norm, strict=True):
            assert isinstance(first, nn.Linear)
            mask = second(torch.relu(x.linear(first.weight, first.bias)))
            out.append(F.relu(norm(block(mask * normed))))
        return self._nothing(encoded), torch.cat(out, dim=1)


def build_interaction(config: InteractionConfig, fields: tuple[int, int], dim: int) -> Interaction | None:
    """The block that is configured, if any; see `Interaction`."""
    return None if config.kind == "none" else INTERACTIONS[config.kind](config, fields, dim)
