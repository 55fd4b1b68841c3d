"""Rows of an embedding table in fewer bytes, for what is kept and served and no longer trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

TableDtype = Literal["float32", "float16", "int8"]
LEVELS = 255
"""Steps between the lowest and the highest number of a row in int8."""


class RowsAtRest(nn.Module):
    """Rows as float16, or as 8-bit steps with a float16 step width and lowest number for each row.

    A row of width K takes 2 K bytes, or K + 4. A number is off by at most half a step of its row, plus the rounding of
    step width and lowest number to float16.

    Args:
        weight: float32 [V, K].
        dtype: `float16` or `int8`.
    """

    codes: Tensor
    """float16 [V, K], or uint8 [V, K]."""
    step: Tensor
    """float16 [V, 1], empty of float16 rows."""
    lowest: Tensor
    """float16 [V, 1], empty of float16 rows."""

    def __init__(self, weight: Tensor, dtype: TableDtype) -> None:
        super().__init__()
        weight = weight.detach()
        if dtype == "float16":
            codes, step, lowest = weight.half(), weight.new_empty(0).half(), weight.new_empty(0).half()
        else:
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
            lowest = low.half()
            step = ((high - lowest.float()) / LEVELS).half()
            width = torch.where(step > 0, step.float(), torch.ones_like(low))  # of a row of one number every step is 0
            codes = ((weight - lowest.float()) / width).round_().clamp_(0, LEVELS).to(torch.uint8)
        self.register_buffer("codes", codes)
        self.register_buffer("step", step)
        self.register_buffer("lowest", lowest)

    @property
    def dtype(self) -> TableDtype:
        """What a number is held in."""
        return "int8" if len(self.step) else "float16"

    def write(self, at: Tensor, values: Tensor) -> None:
        """Overwrite rows, int64 [n], with float [n, K]."""
        others = RowsAtRest(values.float(), self.dtype)
        self.codes[at] = others.codes
        if len(self.step):
            self.step[at], self.lowest[at] = others.step, others.lowest

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows: int64 [...] -> float32 [..., K]."""
        flat = rows.flatten()
        found = self.codes.index_select(0, flat).float()
        if len(self.step):
            found = found * self.step.index_select(0, flat).float() + self.lowest.index_select(0, flat).float()
        return found.view(*rows.shape, found.shape[1])

    def between(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 [n, K]."""
        found: Tensor = self(torch.arange(start, stop, device=self.codes.device))
        return found
