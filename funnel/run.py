"""A trained run in memory: what training makes, what a run folder holds, what answers and is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..base.arrays import F32
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..ranking.blend_search import FoundBlend
from ..ranking.calibrate import Calibrator
from ..ranking.ranker import Ranker
from ..retrieval.baselines.base import Baseline
from ..retrieval.baselines.segment import SEGMENT_POPULARITY, segment_traits
from ..retrieval.index.base import CandidateIndex
from ..retrieval.retriever import TOWER, Retriever
from ..retrieval.seen import Seen
from ..retrieval.towers.two_tower import TwoTower
from ..retrieval.towers.windows import TowerData

Stage = Literal["retrieval", "ranking"]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """Both stages of a run with the data they were trained on.

    Attributes:
        config: resolved configuration.
        dataset: encoded data.
        retriever: first stage; None for a run that only ranks.
        model: second stage as it answers requests; None for a run that only retrieves.
        ranker: the ranker inside `model`.
        calibrators: per binary task.
        found_blend: weights found by search on the validation part, if the run has them.
        training: stage -> one record per epoch of its training.
        index_report: how the index of `retriever` was tuned and checked; None without an index.
        optimizers: stage -> moments of its optimiser and weights of its helpers, for a training that goes on from here;
            empty where the configuration does not keep them, and where they were not loaded.
        warm_start: stage -> where its first weights came from.
        epochs: stage -> passes over the training rows after which validation chose the weights, of each seed; empty
            for a run that was read back.
        final: of a run with a last fit: its rows, its epochs, and the test figures of the run that was chosen, where
            no test rows are left; None without one.
        schema_notes: what was decided where the schema was inferred, one sentence a decision; empty where it was given.
        log: of a run that learned from an exported log of a service: `log` (its id) and `last` (position of the last
            row it knows); None of others.
    """

    config: RunConfig
    dataset: Dataset
    retriever: Retriever | None = None
    model: nn.Module | None = None
    ranker: Ranker | None = None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    found_blend: FoundBlend | None = None
    training: Mapping[Stage, Sequence[Json]] = field(default_factory=dict)
    index_report: Json | None = None
    optimizers: Mapping[Stage, Mapping[str, Tensor]] = field(default_factory=dict)
    warm_start: Mapping[str, Any] = field(default_factory=dict)
    epochs: Mapping[Stage, tuple[int, ...]] = field(default_factory=dict)
    final: Json | None = None
    schema_notes: tuple[str, ...] = ()
    log: Json | None = None

    @cached_property
    def asked(self) -> Retriever | None:
        """The first stage as it answers and is measured: what is seen is what the last stage takes for seen."""
        policy = self.config.rules.seen
        if self.retriever is None or policy is None:
            return self.retriever
        return self.retriever.leaving_out(Seen.of(self.dataset, policy, self.retriever.data.history, "rules.seen"))

    def to(self, device: torch.device) -> Self:
        """This run, its models moved to where they are to answer; a trained run and a loaded one are on the CPU."""
        for module in (None if self.retriever is None else self.retriever.model, self.model, self.ranker):
            if module is not None:
                module.to(device)
        return self


def assemble_retriever(
    config: RunConfig,
    model: TwoTower,
    data: TowerData,
    companions: Mapping[str, Baseline],
    index: CandidateIndex | None = None,
    vectors: F32 | None = None,
    content: Tensor | None = None,
) -> Retriever:
    """The first stage as the configuration wants it, of trained parts."""
    section = config.retrieval
    scorers = usable_scorers(config, companions)
    return Retriever(model, data, companions, section.proposers, scorers, index, section.places, vectors, content)


def companion_names(config: RunConfig, dataset: Dataset) -> tuple[str, ...]:
    """Baselines a run fits: those in its tables, its proposers and its scorers, and what new users get; no EASE for a
    large catalogue.
    """
    retrieval = config.retrieval
    ladder = ("popularity", *((SEGMENT_POPULARITY,) if segment_traits(dataset, retrieval.segments) else ()))
    names = dict.fromkeys((*ladder, *retrieval.baselines, *retrieval.proposers, *retrieval.scorers))
    large = dataset.num_catalogue > retrieval.baseline_items
    kinds = {name: str(retrieval.baseline_options.get(name, {}).get("model", name)) for name in names}
    return tuple(name for name in names if name != TOWER and not (kinds[name] == "ease" and large))


def usable_scorers(config: RunConfig, companions: Mapping[str, Baseline]) -> tuple[str, ...]:
    """The configured scorers that were fitted."""
    return tuple(name for name in config.retrieval.scorers if name in companions)
