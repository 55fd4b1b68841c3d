"""The last fit: what validation chose is trained again on more rows before it is published.

Towers, baselines, histories, counts and vocabularies are then those of all these rows. Nothing is chosen any more: the
number of epochs, the calibration and the blend are those that validation found. A ranker that learned `select` keeps
its weights: its requests are the validation events, which its logged rows and its retriever may not know, so it cannot
learn from both. Any other ranker is trained again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..base.device import CPU
from ..base.errors import ConfigError
from ..configs.final import FinalConfig
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.split import Part
from ..funnel.run import Stage, TrainedRun
from ..ranking.ensemble import build_members
from ..ranking.requests import RequestRanker
from ..ranking.trees.fit import grows_trees
from ..retrieval.towers.adjustment import Adjustment
from ..training.runtime import Runtime, runtime_session
from .continuation import Learned, take_weights
from .evaluate import evaluate
from .start import Start
from .train import Trained, train_ranker, train_retriever

log = logging.getLogger(__name__)

Json = dict[str, Any]


def settled_final(config: RunConfig, *, stage: str, goes_on: bool, built: bool = False) -> RunConfig:
    """The configuration with what `final.rows = "auto"` means for this training, before anything is trained.

    `auto` never asks for what would be refused, so that one file goes through every verb; whether a last fit is worth
    its time is for whoever writes the file to say (docs/experiments.md).

    Args:
        config: the whole configuration.
        stage: that is trained.
        goes_on: whether the training goes on from an earlier run.
        built: whether the data set was built before, so that no table is there to be encoded again.

    Raises:
        ConfigError: a last fit or an ensemble would not be one: only one of two stages is trained, or an earlier run is
            gone on from.
    """
    if config.ensemble.seeds > 1 and goes_on:
        raise ConfigError("an ensemble begins anew, and --from goes on from one model; set ensemble.seeds to 1")
    two_stages = bool(config.data.user and config.data.item)
    if config.final.rows == "auto":
        possible = two_stages and stage == "all" and not (goes_on or built or grows_trees(config.ranking))
        return config.model_copy(update={"final": FinalConfig(rows="valid" if possible else "none")})
    if not config.final.is_made:
        return config
    if stage != "all" and two_stages:
        raise ConfigError(f"a last fit is of both stages; leave --stage {stage} out, or set final.rows to none")
    if goes_on:
        raise ConfigError(
            "a last fit begins anew and --from goes on: the next --from learns from what is held out here; "
            "leave --from out, or set final.rows to none"
        )
    return config


def last_fit(chosen: TrainedRun, encode: Callable[[Dataset, Part], Dataset]) -> TrainedRun:
    """The run that is published: the chosen one, or what the last fit makes of it.

    Args:
        chosen: trained, with the best epochs by validation.
        encode: encodes the same tables on a data set's vocabularies, with the parts up to one as training rows.

    Raises:
        DataError: the data of the chosen run leaks, so it cannot be judged before its test rows are learned from.
    """
    config = chosen.config
    if not config.final.is_made:
        return chosen
    everything = config.final.rows == "all"
    account: Json = {
        "rows": config.final.rows,
        "epochs": {stage: list(epochs) for stage, epochs in chosen.epochs.items()},
    }
    if everything:
        log.info("the run that was chosen is judged on its test part, before the last fit learns from it")
        account["chosen"] = evaluate(chosen).result
    dataset = encode(chosen.dataset, Part.TEST if everything else Part.VALID)
    rows = int((dataset.events.parts == Part.TRAIN).sum())
    account["training_rows"] = rows
    log.info("last fit on %d rows, chosen on %d", rows, int((chosen.dataset.events.parts == Part.TRAIN).sum()))
    with runtime_session(config.runtime, config.seed) as runtime:
        final = replace(chosen, dataset=dataset, index_report=None, final=account)
        if chosen.retriever is not None:
            final = _retriever_again(final, runtime)
        if isinstance(chosen.model, RequestRanker):
            account["ranker"] = "kept"
            return _ranker_kept(final, chosen).to(CPU)
        if chosen.ranker is not None:
            account["ranker"] = "trained again"
            final = _ranker_again(final, runtime)
    return final.to(CPU)


def _retriever_again(run: TrainedRun, runtime: Runtime) -> TrainedRun:
    """With towers and baselines of the run's own data set, trained from fresh weights."""
    start = Start.of(None, run.config, "all")
    records, config = run.training.get("retrieval", ()), run.config
    if records and "horizon" in records[-1]:  # measured on what are training rows now
        section = config.retrieval.model_copy(update={"horizon": records[-1]["horizon"]})
        config = config.model_copy(update={"retrieval": section})
    adjustment = Adjustment.of_record(records[-1]) if records else None
    retriever, trained = train_retriever(
        run.dataset, config, runtime, start, epochs=run.epochs["retrieval"], adjustment=adjustment
    )
    return replace(run, retriever=retriever, optimizers=_with(run, "retrieval", trained))


def _ranker_kept(run: TrainedRun, chosen: TrainedRun) -> TrainedRun:
    """With the chosen ranker's weights in the grown vocabularies; what is new begins where its like are."""
    assert chosen.model is not None
    assert chosen.retriever is not None
    config, dataset = run.config, run.dataset
    seeds = config.seed, config.ensemble.seeds
    features = len(chosen.retriever.feature_names)
    model, ranker = build_members(config.ranking, dataset.layout, dataset.config.tasks, features, *seeds)
    state = chosen.optimizers.get("ranking", {})
    take_weights(model, dataset, Learned(chosen.model, chosen.dataset, state), "model")
    model.eval()
    ranker.eval()
    return replace(run, model=model, ranker=ranker)


def _ranker_again(run: TrainedRun, runtime: Runtime) -> TrainedRun:
    """With a ranker trained from fresh weights on the run's own data set; calibrators and blend stay."""
    start = Start.of(None, run.config, "all")
    ranked, trained = train_ranker(run.dataset, run.config, runtime, start, run.retriever, epochs=run.epochs["ranking"])
    return replace(run, model=ranked.model, ranker=ranked.ranker, optimizers=_with(run, "ranking", trained))


def _with(run: TrainedRun, stage: Stage, trained: Trained) -> Mapping[Stage, Mapping[str, Tensor]]:
    """The optimisers' states with that of a stage that was trained again."""
    return run.optimizers if trained.optimizer is None else {**run.optimizers, stage: trained.optimizer}
