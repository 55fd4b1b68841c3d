"""The context of a request that nothing is known of: what is filled, and otherwise what is commonest or missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from ..batch import Block, SideLayout
from ..feature_spec import FeatureSpec
from .encoders import Column, Encoders, encode_side, fill_missing


def absent_context(specs: Sequence[FeatureSpec], layout: SideLayout, encoders: Encoders, common: Tensor) -> Block:
    """One row of context columns.

    Args:
        specs: the context features, in their order.
        layout: of their block.
        encoders: learned on training rows.
        common: int64 [F] of each categorical column the row that most training rows have, read where a feature has no
            `fill`; its numbers are then missing, its lists empty and its vectors zero.
    """
    widths = dict(layout.vectors)

    def nothing(spec: FeatureSpec) -> Column:
        if spec.kind == "vector":
            return np.zeros((1, widths[spec.name]), dtype=np.float32)
        return np.full(1, np.nan, dtype=np.float32) if spec.kind == "numeric" else pa.array([None], pa.string())

    block = encode_side(specs, {spec.name: fill_missing(spec, nothing(spec)) for spec in specs}, encoders, 1)
    unfilled = {spec.name for spec in specs if spec.fill is None}
    columns = [column for column, name in enumerate(layout.categorical) if name in unfilled]
    block.categorical[0, columns] = common[columns]
    return block
