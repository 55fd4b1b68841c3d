"""`recsys auto`: a short list of configurations that are known to be good, tried in order while there is time."""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..artifacts.folder import open_run
from ..artifacts.names import TUNING
from ..base.errors import ConfigError, RecsysError
from ..configs.run import RunConfig, config_hash, with_settings
from ..data.reading.readers import Source
from ..data.reading.tables import BadRows
from ..funnel.folder import save_run
from ..funnel.run import TrainedRun
from ..training.callbacks import Callback
from .at_rest import settled_run
from .encoded import encode, encode_again
from .final import last_fit, settled_final
from .train import Stages, train
from .validation import judged

log = logging.getLogger(__name__)

Json = dict[str, Any]
RANKER, TOWERS = "ranking", "retrieval"
RECIPES: dict[str, tuple[str, ...]] = {
    "as configured": (),
    "shared bottom with GemNN's gate": (
        'ranking.model.kind="shared_bottom"',
        "ranking.model.input.joint_gate.enabled=true",
    ),
    "trees beside the network": ("ranking.trees.enabled=true",),
    "trees alone": ('ranking.model.kind="trees"', "ranking.trees.enabled=false"),
    "towers that read the order of histories": ('retrieval.tower.history.encoder="lstm"',),
    "wider vectors": ("retrieval.tower.dim=128",),
}
"""Name -> what it changes: what raised the tables of docs/results most often, the cheap ones first."""


class OutOfTime(RecsysError):
    """The time is over."""


class _Deadline(Callback):
    """Ends a training when the time is over."""

    def __init__(self, until: float) -> None:
        self.until = until

    def on_step(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """See `Callback`."""
        if time.perf_counter() > self.until:
            raise OutOfTime("the time is over")


@dataclass(frozen=True)
class _Tried:
    name: str
    value: float
    trained: TrainedRun


def recipes(config: RunConfig, stage: Stages) -> Iterator[tuple[str, RunConfig]]:
    """The configurations that this data and this machine allow, each once."""
    seen = set()
    two_stages = bool(config.data.user and config.data.item)
    for name, settings in RECIPES.items():
        rooms = {setting.split(".")[0] for setting in settings}
        if (TOWERS in rooms and not two_stages) or (RANKER in rooms and stage == "retrieval"):
            continue
        if any("trees" in setting for setting in settings) and importlib.util.find_spec("lightgbm") is None:
            continue
        try:
            found = settled_final(with_settings(config, settings), stage=stage, goes_on=False)
        except ConfigError as error:
            log.info("%s: left out, %s", name, error)
            continue
        if config_hash(found) not in seen:
            seen.add(config_hash(found))
            yield name, found


def auto(
    config: RunConfig,
    minutes: float,
    run: Path,
    *,
    stage: Stages = "all",
    metric: str = "",
    base: Path = Path(),
    tables: Mapping[str, Source] | None = None,
) -> Json:
    """Train one configuration after the other, and publish the best by the validation part.

    The first one, the configuration as it is, is always trained to its end; what has not ended when the time is over is
    left out. What is tried is compared before a last fit; the best has the one that `[final]` asks for, which takes its
    own time.

    Args:
        config: the whole configuration.
        minutes: for all that is tried.
        run: folder of the run.
        stage: `retrieval` or `all`.
        metric: figure of the validation part that decides; what picks the epochs when empty.
        base: folder that the configuration's paths start from.
        tables: as of `publish.train_run`.

    Returns:
        `best`, `trials`, `metric` and `run`, as of a search.

    Raises:
        ConfigError: the ranker alone is asked for, or nothing is measured in validation.
    """
    if stage == "ranking":
        raise ConfigError("a ranker stands on a retriever; try --stage all or retrieval")
    settled_final(config, stage=stage, goes_on=False)  # a last fit that would not be one is refused here
    started = time.perf_counter()
    dataset = encode(config, base, BadRows(config.data.on_bad_rows), tables)
    by = judged(config, dataset, stage, metric)
    best: _Tried | None = None
    trials: list[Json] = []
    for number, (name, settled) in enumerate(recipes(config, stage)):
        begun = time.perf_counter()
        looking = [_Deadline(started + 60 * minutes)] if best is not None else []
        if looking and begun > started + 60 * minutes:
            break
        told: Json = {"trial": number, "state": "complete", "settings": {"recipe": name}, by.metric: None}
        try:
            trained = train(dataset, settled, stage=stage, callbacks=looking)
            told[by.metric] = by.of(trained)
            told["epochs"] = len(trained.training.get(by.stage, ()))
            better = best is None or (told[by.metric] > best.value) == by.upwards
            best = _Tried(name, told[by.metric], trained) if best is None or better else best
            log.info("%s: %s %.6g", name, by.metric, told[by.metric])
        except OutOfTime:
            told["state"] = "out of time"
        except RecsysError as error:
            if best is None:
                raise
            told |= {"state": "fail", "fault": str(error)}
        trials.append({**told, "seconds": time.perf_counter() - begun})
    assert best is not None
    fitted = last_fit(best.trained, partial(encode_again, config, base, tables))
    save_run(settled_run(fitted), run, base)
    chosen = next(one for one in trials if one["settings"]["recipe"] == best.name)
    account = {"metric": by.metric, "upwards": by.upwards, "stage": stage, "best": chosen, "trials": trials}
    with open_run(run).add_files() as staging:
        (staging / TUNING).write_text(json.dumps(account, indent=1), encoding="utf-8")
    return {**account, "run": str(run)}
