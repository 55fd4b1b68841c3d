"""Starting from what another model learned, matched by raw id: the ranker from the retriever, as in GemNN's chain
(SIGIR 2021), or a model from that of another run, which may know other values.

Rows of values both tables know are copied, values only the target knows keep their fresh rows, and what only the source
knew is dropped; the counts are reported. Copied rows are an initialisation; training updates them.

Rows are copied plainly, as published, where the configuration says so and the widths agree. By default a ranker's are
brought to its own width and spread: a narrower table gets the principal directions of the retriever's rows, the linear
map that keeps most of what tells them apart; a wider one gets the rows and zeros beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import RunError
from ..data.dataset import Dataset
from ..data.vocabulary import FIRST, UNKNOWN, Vocabulary
from ..funnel.run import TrainedRun
from ..nn.embedding import EmbeddingTable
from ..ranking.ranker import Ranker
from ..retrieval.retriever import Retriever
from ..retrieval.towers.two_tower import TwoTower

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What happened to one vocabulary of one table.

    Attributes:
        vocabulary: its name.
        kept: rows begun with what was learned before.
        new: rows nobody had.
        dropped: rows learned before and not known here.
        neighbours: of the new rows, those begun at similar items.
        variance: share of the kept rows' variance that a narrower table has room for.
    """

    vocabulary: str
    kept: int
    new: int
    dropped: int
    neighbours: int = 0
    variance: float = 1.0

    def __str__(self) -> str:
        beside = f" ({self.neighbours} from neighbours)" if self.neighbours else ""
        share = f", {self.variance:.0%} of the variance" if self.variance < 1 else ""
        return f"{self.vocabulary}: {self.kept} kept{share}, {self.new} new{beside}, {self.dropped} dropped"


def copy_rows(
    target: EmbeddingTable,
    target_vocabularies: Mapping[str, Vocabulary],
    source: EmbeddingTable,
    source_vocabularies: Mapping[str, Vocabulary],
    *,
    resize: bool = False,
) -> list[Copied]:
    """Copy the rows of values both tables know, vocabulary by vocabulary; buckets and properties row by row.

    Args:
        target: table to fill.
        target_vocabularies: raw values of its rows; vocabularies not named are copied when their sizes agree.
        source: table to copy from, left unchanged.
        source_vocabularies: raw values of its rows.
        resize: bring rows of another width to the target's; without it, tables of other widths are left alone.

    Returns:
        One entry per vocabulary both tables have; empty when their widths differ and nothing is to be resized.
    """
    if target.dim != source.dim and not resize:
        log.info("no warm start: embeddings are %d wide here and %d there", target.dim, source.dim)
        return []
    report = []
    with torch.no_grad():
        for name in [n for n in target.sizes if n in source.sizes]:
            by_value = name in target_vocabularies and name in source_vocabularies
            if not by_value and target.sizes[name] != source.sizes[name]:
                continue
            into = target.rows_of(name)
            out, variance = to_width(source.rows_of(name).to(into.device), target.dim)
            if by_value:
                here, there = target_vocabularies[name].values, source_vocabularies[name].values
                places = {value: row for row, value in enumerate(there)}
                pairs = [(row, places[value]) for row, value in enumerate(here) if value in places]
                at = torch.tensor([a + FIRST for a, _ in pairs] + [UNKNOWN], dtype=torch.int64)
                origin = torch.tensor([b + FIRST for _, b in pairs] + [UNKNOWN], dtype=torch.int64)
                into[at] = out[origin]
                shared = len(pairs)
                report.append(
                    Copied(
                        vocabulary=name,
                        kept=shared,
                        new=len(here) - shared,
                        dropped=len(there) - shared,
                        variance=variance,
                    )
                )
            else:
                into.copy_(out)
                report.append(
                    Copied(vocabulary=name, kept=target.sizes[name] - FIRST, new=0, dropped=0, variance=variance)
                )
    target.zero_padding()
    return report


def to_width(rows: Tensor, width: int) -> tuple[Tensor, float]:
    """One vocabulary's rows in another width.

    Args:
        rows: float [V, D], padding and unknown first.
        width: K.

    Returns:
        Rows [V, K] and the share of the variance they keep. K = D: the rows. K > D: zeros behind them. K < D: their
        coordinates along the K directions in which the values' rows vary most, measured from their mean.
    """
    rows = rows.detach()
    if width >= rows.shape[1]:
        return torch.nn.functional.pad(rows, (0, width - rows.shape[1])), 1.0
    values = rows.double()
    centred = values - values[FIRST:].mean(0) if len(rows) > FIRST else values
    spread, directions = torch.linalg.eigh(centred[FIRST:].T @ centred[FIRST:])  # ascending
    top = directions[:, -width:].flip(1)
    largest = top.gather(0, top.abs().argmax(0, keepdim=True))
    top = top * torch.where(largest < 0, -1.0, 1.0)  # a direction has no sign of its own
    everything = float(spread.clamp(min=0).sum())
    share = float(spread[-width:].clamp(min=0).sum()) / everything if everything > 0 else 1.0
    return (centred @ top).to(rows.dtype), share


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


def copy_towers(towers: TwoTower, dataset: Dataset, old: TwoTower, old_dataset: Dataset) -> list[Copied]:
    """Begin towers with those of another run, whatever data it had."""
    mine, theirs = dataset.encoders.vocabularies, old_dataset.encoders.vocabularies
    report = copy_rows(towers.table, mine, old.table, theirs)
    if towers.bias is not None and old.bias is not None:
        copy_rows(towers.bias, mine, old.bias, theirs)
    log_report("retriever", "another run", report, copy_dense(towers, old))
    return report


def copy_ranker(ranker: Ranker, dataset: Dataset, old: Ranker, old_dataset: Dataset) -> list[Copied]:
    """Begin a ranker with that of another run, whatever data and tasks it had."""
    report = []
    for table, other in zip(ranker.tables(), old.tables(), strict=False):
        report += copy_rows(table, dataset.encoders.vocabularies, other, old_dataset.encoders.vocabularies)
    log_report("ranker", "another run", report, copy_dense(ranker, old))
    return report


def copy_plainly(tables: Sequence[EmbeddingTable], dataset: Dataset, source: TrainedRun) -> list[Copied]:
    """Begin tables with a run's rows of the values both know, as they are (GemNN's chain as published).

    Args:
        tables: of fresh towers or a fresh ranker.
        dataset: whose vocabularies they have.
        source: a run of any stage; its ranker's rows where it has a ranker, else its towers'.

    Returns:
        One entry per table and vocabulary.

    Raises:
        RunError: the two share no vocabulary, or their embeddings differ in width.
    """
    theirs, known = tables_of(source), source.dataset.encoders.vocabularies
    report = []
    for position, table in enumerate(tables):
        other = theirs[position if len(theirs) == len(tables) else 0]
        if table.dim != other.dim:
            raise RunError(
                f"plain rows need one width, and embeddings are {other.dim} wide in the source run and {table.dim} "
                f"here; set retrieval.tower.dim or ranking.model.input.embedding_dim to {other.dim}"
            )
        report += copy_rows(table, dataset.encoders.vocabularies, other, known)
    if not report:
        raise RunError("the source run has none of the features here, so that there are no rows to copy")
    return report


def tables_of(run: TrainedRun) -> list[EmbeddingTable]:
    """Embedding tables of a run's last stage: the ranker's, else the towers'."""
    if run.ranker is not None:
        return run.ranker.tables()
    assert run.retriever is not None  # a run without any stage is not written
    return [run.retriever.model.table]


def warm_start_ranker(
    ranker: Ranker, dataset: Dataset, retriever: Retriever, rows: Literal["rescaled", "plain"] = "rescaled"
) -> list[Copied]:
    """Begin the ranker's rows of the features both stages read with the retriever's.

    Args:
        ranker: with fresh weights.
        dataset: of both stages.
        retriever: trained.
        rows: `plain`: as they are, the widths being equal. `rescaled`: in the ranker's width and at the spread its
            table starts with, for the towers' scale means nothing to a ranker and their directions do.
    """
    mine = dataset.encoders.vocabularies
    report = []
    for table in ranker.tables():
        if rows == "plain":
            report += copy_rows(table, mine, retriever.model.table, mine)
            continue
        fresh = {name: _spread(table.rows_of(name)) for name in table.sizes}
        copied = copy_rows(table, mine, retriever.model.table, mine, resize=True)
        with torch.no_grad():
            for entry in copied:
                copies = table.rows_of(entry.vocabulary)
                target, spread = fresh[entry.vocabulary], _spread(copies)
                if np.isfinite(target) and np.isfinite(spread) and spread > 0:
                    copies.mul_(target / spread)
        report += copied
    log_report("ranker", "the retriever", report)
    return report


def _spread(rows: Tensor) -> float:
    """Standard deviation of the numbers in the rows of values; NaN for fewer than two rows."""
    return float(rows.detach()[FIRST:].std()) if len(rows) > FIRST + 1 else float("nan")


def log_report(what: str, source: str, report: Sequence[Copied], dense: int = 0) -> None:
    """Say what was copied: rows by vocabulary, and how many tensors outside the tables where only some were."""
    sentences = [*map(str, report), *([f"{dense} dense tensors"] if dense else [])]
    if sentences:
        log.info("warm start of the %s from %s: %s", what, source, "; ".join(sentences))


def as_json(source: str, report: Sequence[Copied]) -> dict[str, Any]:
    """The report for the run folder."""
    return {"from": source, "vocabularies": [asdict(entry) for entry in report]}
