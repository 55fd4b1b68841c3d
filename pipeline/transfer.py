"""Frozen transfer: a ranker keeps another run's user encoder exactly as it is and learns its task networks alone.

DUPN's use of a universal representation on a new task (KDD 2018, arXiv 1805.10727, section 4.3). It is a warm start
from a run with the copied part held still; what could silently go wrong is that a part is held still which was never
copied. So everything frozen is compared with the run it came from, and a difference is an error. Raw values the run
has never seen could not learn a place of their own any more: they get its trained 'unknown' row, unless the warm start
knew better. Buckets of numbers lie elsewhere on every data set: each takes the run's bucket of the same values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch

from ..base.errors import ConfigError, RunError
from ..data.dataset import Dataset
from ..data.encoding.numeric import NumericEncoder
from ..data.vocabulary import FIRST, UNKNOWN
from ..nn.embedding import EmbeddingTable
from ..ranking.ranker import Ranker, RankerConfig
from .continuation import SourceRun
from .warm_start import Copied, copy_ranker

log = logging.getLogger(__name__)


def check_transfer(config: RankerConfig, source: SourceRun | None) -> None:
    """Refuse a ranker that keeps a run's encoder when no run is named; called before anything is trained.

    Raises:
        ConfigError: as said.
    """
    if config.keeps_encoder and source is None:
        raise ConfigError(
            f'ranking.model.frozen = true trains the task networks of "{config.kind}" on the user encoder of another '
            "run; name that run with --from, or set frozen = false"
        )


def transfer(ranker: Ranker, dataset: Dataset, source: SourceRun) -> list[Copied]:
    """Begin a fresh ranker with that of a run, and make sure that all it keeps came from there.

    Args:
        ranker: with fresh weights; its configuration keeps an encoder.
        dataset: whose vocabularies it has.
        source: run whose encoder is kept.

    Returns:
        What was copied.

    Raises:
        RunError: the run has no ranker, or one whose encoder is not the same.
    """
    old, name = source.trained, source.name
    if old.ranker is None:
        raise RunError(f"{name} has no ranker whose encoder could be kept; name another run with --from")
    fresh = [table.weight.detach().clone() for table in ranker.tables()]
    copied = copy_ranker(ranker, dataset, old.ranker, old.dataset)
    matched = {entry.vocabulary for entry in copied}
    for table, other in zip(ranker.tables(), old.ranker.tables(), strict=False):
        if not table.weight.requires_grad and table.dim == other.dim:
            matched |= match_buckets(table, dataset.encoders.numerics, other, old.dataset.encoders.numerics)
    if odd := [*_other_dense(ranker, old.ranker), *_other_vocabularies(ranker, matched)]:
        raise RunError(
            f"the user encoder of {name} cannot be kept, {', '.join(odd)} are missing or of another size "
            "there; give both runs the same features and the same ranking.model.input and profile_hidden"
        )
    for table, before in zip(ranker.tables(), fresh, strict=True):
        if not table.weight.requires_grad:
            unseen = _to_unknown(table, before, set(dataset.encoders.vocabularies))
            log.info("%d values new to the frozen table take its 'unknown' row", unseen)
    return copied


@torch.no_grad()
def match_buckets(
    table: EmbeddingTable,
    numerics: Mapping[str, NumericEncoder],
    source: EmbeddingTable,
    source_numerics: Mapping[str, NumericEncoder],
) -> set[str]:
    """Give every bucket of a number the row of the source's bucket that holds the same values.

    Args:
        table: table to fill.
        numerics: its numbers.
        source: table of the same width to copy from.
        source_numerics: the numbers of that one.

    Returns:
        The numbers that both tables know.
    """
    both = set(numerics) & set(source_numerics) & set(table.sizes) & set(source.sizes)
    for name in both:
        edges = numerics[name].edges
        middles = (edges[1:] + edges[:-1]) / 2
        first = edges[:1] if len(edges) else np.array([numerics[name].mode])
        inside = np.concatenate([np.nextafter(first, -np.inf), middles, edges[-1:]])  # a value in each bucket
        rows = source_numerics[name].buckets(np.concatenate([[np.nan, numerics[name].mode], inside]))
        table.rows_of(name)[UNKNOWN:] = source.rows_of(name)[torch.from_numpy(rows).long()]
    return both


def _other_dense(ranker: Ranker, old: Ranker) -> list[str]:
    """Frozen parameters outside the tables that are not bit for bit those of the old ranker."""
    theirs = dict(old.named_parameters())
    tables = {f"{name}.weight" for name, module in ranker.named_modules() if isinstance(module, EmbeddingTable)}
    return [
        name
        for name, parameter in ranker.named_parameters()
        if not parameter.requires_grad
        and name not in tables
        and not (name in theirs and torch.equal(parameter, theirs[name]))
    ]


def _other_vocabularies(ranker: Ranker, known: set[str]) -> list[str]:
    """Vocabularies of frozen tables that are not among the known ones: nothing was copied of them."""
    tables = [table for table in ranker.tables() if not table.weight.requires_grad]
    return [f'vocabulary "{name}"' for table in tables for name in table.sizes if name not in known]


@torch.no_grad()
def _to_unknown(table: EmbeddingTable, before: torch.Tensor, vocabularies: set[str]) -> int:
    """Rows that the warm start left as they were drawn become their vocabulary's unknown row; how many."""
    changed = 0
    for name in vocabularies & set(table.sizes):
        rows, start = table.rows_of(name), table.offsets[name]
        untouched = (rows == before[start : start + len(rows)]).all(1)
        untouched[:FIRST] = False
        rows[untouched] = rows[UNKNOWN].clone()
        changed += int(untouched.sum())
    return changed
