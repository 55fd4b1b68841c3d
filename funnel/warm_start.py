"""Starting from what another model learned, matched by raw id: from the retriever to the ranker, or from an older run.

Rows of values both know are copied, new values keep their fresh rows, and what the other knew and this one does not is
dropped; the three counts are reported. The copy is a start, not a bond: training moves it freely (GemNN's chain).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..data.vocabulary import FIRST, Vocabulary
from ..nn.embedding import EmbeddingTable
from ..ranking.ranker import Ranker
from ..retrieval.retriever import Retriever
from ..retrieval.two_tower import TwoTower
from .artifacts import Run
from .stages import load_stages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copied:
    """What happened to one vocabulary: rows kept, new here, and dropped there."""

    vocabulary: str
    kept: int
    new: int
    dropped: int

    def __str__(self) -> str:
        return f"{self.vocabulary}: {self.kept} kept, {self.new} new, {self.dropped} dropped"


def copy_rows(
    target: EmbeddingTable,
    target_vocabularies: Mapping[str, Vocabulary],
    source: EmbeddingTable,
    source_vocabularies: Mapping[str, Vocabulary],
) -> list[Copied]:
    """Copy the rows of values both tables know, vocabulary by vocabulary; buckets and properties row by row.

    Args:
        target: table to fill.
        target_vocabularies: raw values of its rows; vocabularies not named are copied when their sizes agree.
        source: table to copy from, left unchanged.
        source_vocabularies: raw values of its rows.

    Returns:
        One entry per vocabulary both tables have; empty when their widths differ.
    """
    if target.dim != source.dim:
        log.info("no warm start: embeddings are %d wide here and %d there", target.dim, source.dim)
        return []
    report = []
    with torch.no_grad():
        for name in [n for n in target.sizes if n in source.sizes]:
            into, out = target.rows_of(name), source.rows_of(name)
            if name in target_vocabularies and name in source_vocabularies:
                here, there = target_vocabularies[name].values, source_vocabularies[name].values
                places = {value: row for row, value in enumerate(there)}
                pairs = [(row, places[value]) for row, value in enumerate(here) if value in places]
                at = torch.tensor([a + FIRST for a, _ in pairs] + [1], dtype=torch.int64)
                origin = torch.tensor([b + FIRST for _, b in pairs] + [1], dtype=torch.int64)
                into[at] = out[origin]
                report.append(Copied(name, len(pairs), len(here) - len(pairs), len(there) - len(pairs)))
            elif target.sizes[name] == source.sizes[name]:
                into.copy_(out)
                report.append(Copied(name, target.sizes[name], 0, 0))
    target.zero_padding()
    return report


def copy_dense(target: nn.Module, source: nn.Module) -> int:
    """Copy parameters of equal name and shape, tables left out; how many were copied."""
    tables = {f"{name}.weight" for name, module in target.named_modules() if isinstance(module, EmbeddingTable)}
    theirs = dict(source.named_parameters())
    copied = 0
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            other: Tensor | None = theirs.get(name)
            if name not in tables and other is not None and other.shape == parameter.shape:
                parameter.copy_(other)
                copied += 1
    return copied


def warm_start_towers(model: TwoTower, dataset: Dataset, source: Run) -> list[Copied]:
    """Begin the towers with those of an older run."""
    old = load_stages(source, with_index=False)
    if old.retriever is None:
        return []
    mine, theirs = dataset.encoders.vocabularies, old.dataset.encoders.vocabularies
    report = copy_rows(model.table, mine, old.retriever.model.table, theirs)
    if model.bias is not None and old.retriever.model.bias is not None:
        copy_rows(model.bias, mine, old.retriever.model.bias, theirs)
    dense = copy_dense(model, old.retriever.model)
    _report("retriever", f"the run of {source.folder.name}", report, dense)
    return report


def warm_start_ranker(
    ranker: Ranker, dataset: Dataset, retriever: Retriever | None, source: Run | None
) -> list[Copied]:
    """Begin the ranker with an older run's, or else its shared fields with the retriever's embeddings.

    The retriever's rows are rescaled to the spread the ranker's table starts with: the towers' scale means nothing
    here, the directions do.
    """
    mine = dataset.encoders.vocabularies
    if source is not None:
        old = load_stages(source, with_index=False)
        if old.ranker is not None:
            report = []
            for table, other in zip(ranker.tables(), old.ranker.tables(), strict=False):
                report += copy_rows(table, mine, other, old.dataset.encoders.vocabularies)
            _report("ranker", f"the run of {source.folder.name}", report, copy_dense(ranker, old.ranker))
            return report
    if retriever is None:
        return []
    report = []
    for table in ranker.tables():
        fresh = {
            name: float(table.rows_of(name)[FIRST:].detach().std())
            for name in table.sizes
            if table.sizes[name] > FIRST + 1
        }
        copied = copy_rows(table, mine, retriever.model.table, mine)
        with torch.no_grad():
            for entry in copied:
                rows = table.rows_of(entry.vocabulary)
                spread = float(rows[FIRST:].std())
                if np.isfinite(spread) and spread > 0 and entry.vocabulary in fresh:
                    rows.mul_(fresh[entry.vocabulary] / spread)
        report += copied
    _report("ranker", "the retriever", report, 0)
    return report


def _report(what: str, source: str, report: list[Copied], dense: int) -> None:
    if report or dense:
        log.info("warm start of the %s from %s: %s; %d dense tensors", what, source, "; ".join(map(str, report)), dense)
