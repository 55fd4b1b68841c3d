"""Embedding rows that start from vectors computed elsewhere, and those of them that never move.

The vectors keep their directions and are scaled, all by one factor, to the spread that the table is drawn with, so
that no feature starts louder than the others. Vectors wider than the table are reduced to their principal components,
narrower ones fill the first columns. A row depends on the file and the table's width and spread alone, not on which
other values a data set knows: the same on every day and in every run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch

from ..base.arrays import F32
from ..data.pretrained import TableStart
from ..data.vocabulary import FIRST
from .embedding import EmbeddingTable

log = logging.getLogger(__name__)


def start_tables(tables: list[EmbeddingTable], starts: Mapping[str, TableStart]) -> None:
    """Put the given vectors into tables and freeze those that are to stay.

    Called on fresh tables; and, with what is frozen, again after a warm start, which may have put something else there.

    Args:
        tables: any tables; each takes the vocabularies it has.
        starts: vocabulary -> its vectors. Values the file has no vector for keep their rows, and train.
    """
    for table in tables:
        for name in [name for name in starts if name in table.sizes]:
            start = starts[name]
            rows, vectors = start.source.rows_of(start.vocabulary)
            given = Projection(start.source.vectors, table.dim, table.std).apply(vectors)
            at = torch.from_numpy(rows) + table.offsets[name]
            with torch.no_grad():
                table.weight[at] = torch.from_numpy(given)
            if start.frozen:
                table.freeze(at)
            log.info(
                '%d of %d values of "%s" start from given vectors%s',
                len(rows),
                table.sizes[name] - FIRST,
                name,
                " and stay there" if start.frozen else "",
            )


def frozen_starts(starts: Mapping[str, TableStart]) -> dict[str, TableStart]:
    """Those whose rows stay where they start."""
    return {name: start for name, start in starts.items() if start.frozen}


class Projection:
    """From the vectors of a file to rows of a table.

    Args:
        vectors: float32 [n, d], all of the file.
        dim: width K of the table.
        spread: root mean square that the entries of the result have over the whole file.
    """

    def __init__(self, vectors: F32, dim: int, spread: float) -> None:
        width = vectors.shape[1]
        self.centre = np.zeros(width, dtype=np.float64)
        self.axes = np.eye(width, dim)
        if width > dim:
            self.centre = vectors.mean(0, dtype=np.float64)
            centred = vectors - self.centre
            _, found = np.linalg.eigh(centred.T @ centred)
            self.axes = found[:, ::-1][:, :dim]
            # an eigenvector's sign is arbitrary: fixed here, so that two machines agree
            self.axes = self.axes * np.sign(self.axes[np.abs(self.axes).argmax(0), np.arange(dim)])
        size = float(np.sqrt(np.square((vectors - self.centre) @ self.axes).mean()))
        self.scale = spread / size if size > 0 else 0.0

    def apply(self, vectors: F32) -> F32:
        """Vectors float32 [m, d] -> rows float32 [m, K]."""
        return np.asarray((vectors - self.centre) @ self.axes * self.scale, dtype=np.float32)
