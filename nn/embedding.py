"""One stacked embedding table for all fields: every vocabulary is a run of rows in a single matrix.

A batch needs one lookup however many fields there are, and the gradient names the touched rows only, so the cost of a
step does not depend on the size of the vocabularies (see `training.sparse`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EmbeddingTable(nn.Module):
    """Rows of all vocabularies in one matrix `weight` [sum of sizes, K].

    Row 0 of every vocabulary pads: it is zero and stays zero. Row 1 is 'unknown' and is trained.

    Args:
        sizes: vocabulary name -> number of rows, padding and unknown included.
        dim: embedding width K.
        std: standard deviation of the normal initialisation.
    """

    pad_rows: Tensor

    def __init__(self, sizes: Mapping[str, int], dim: int, std: float = 0.05) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.dim = dim
        self.offsets: dict[str, int] = {}
        total = 0
        for name, rows in self.sizes.items():
            self.offsets[name] = total
            total += rows
        self.weight = nn.Parameter(torch.randn(total, dim) * std)
        self.register_buffer("pad_rows", torch.tensor(list(self.offsets.values()), dtype=torch.int64), persistent=False)
        self.zero_padding()

    def zero_padding(self) -> None:
        """Put the padding rows back to zero; called after every step that may have moved them."""
        with torch.no_grad():
            self.weight.index_fill_(0, self.pad_rows, 0.0)

    def offsets_of(self, vocabularies: Sequence[str]) -> Tensor:
        """First row of each vocabulary, int64 [F]; add it to vocabulary rows to get rows of `weight`."""
        return torch.tensor([self.offsets[name] for name in vocabularies], dtype=torch.int64)

    def rows_of(self, vocabulary: str) -> Tensor:
        """View of one vocabulary's rows, float [V, K]."""
        start = self.offsets[vocabulary]
        return self.weight[start : start + self.sizes[vocabulary]]

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows of `weight`: int64 [...] -> float [..., K]. The gradient is sparse (rows, values)."""
        return F.embedding(rows, self.weight, sparse=True)


def masked_mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the present elements: [R, L, K], bool [R, L] -> [R, K]; zeros where none is present."""
    weight = present.to(values.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1.0)
    return torch.bmm((weight / count).unsqueeze(1), values).squeeze(1)
