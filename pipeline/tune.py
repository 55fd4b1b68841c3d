"""`recsys tune`: a search over configurations, judged by the validation part alone.

Trials are suggested by TPE (Bergstra et al. 2011) and kept in a SQLite file beside the run, so that several processes
search at once and a killed search goes on: a trial holds a lock, which the system lets go with its process, and a trial
without its lock is tried again. Trials that are worse than the median of the others at the same epoch end early. The
test part is read by nobody: not by a trial, and not to choose.

A trial has a place in the search and hears of the trials `abreast` places before it and earlier, which have ended when
it begins; so a search finds the same whether one process tries all trials or several do, and whoever is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.folder import open_run
from ..artifacts.manifest import MANIFEST
from ..artifacts.names import TUNING
from ..base import ranks
from ..base.errors import ConfigError, RecsysError, RunError
from ..base.files import locked, waiting, write_whole
from ..base.package import install_hint
from ..base.tuned import Dimension
from ..configs.file import dump_table, flat
from ..configs.final import FinalConfig
from ..configs.run import RunConfig, config_hash, with_settings
from ..configs.space import declared_space
from ..data.dataset import Dataset
from ..data.reading.readers import Source
from ..data.reading.tables import BadRows
from ..report.page import tuning_page
from ..training.callbacks import Callback, Started
from .encoded import encode
from .final import settled_final
from .processes import shared_dataset
from .publish import train_run
from .train import Stages, train
from .trial_values import as_kept, from_kept, is_within, suggested
from .validation import Judged, judged

log = logging.getLogger(__name__)

Json = dict[str, Any]
IDENTITY, STUDY, LOCKS, PAGE = "search.json", "study.db", "locks", "trials.html"
KILLED, FAULT, SECONDS, PLACE = "killed", "fault", "seconds", "place"
STARTUP = 5
"""Trials before any is ended early, and random ones before TPE has something to go by."""
ABREAST = 4
"""Trials that may be under way at once."""
WAIT_SECONDS = 60
"""How long a process waits for another one's entry in the file."""
PAUSE_SECONDS = 0.2
"""Between two looks at whether the trials that the next one hears of have ended."""


def optuna() -> Any:
    """The package, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        raise ConfigError(f"a search needs the package Optuna; run {install_hint('tune')}") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return package


class Hopeless(RecsysError):
    """A trial that is ended early."""


class _Watch(Callback):
    """Tells Optuna the figure of every epoch of the stage that decides, and ends a hopeless trial."""

    def __init__(self, trial: Any, heard: Any, stage: str, metric: str) -> None:
        self.trial, self.heard, self.stage, self.metric, self.here = trial, heard, stage, metric, False

    def on_start(self, training: Started) -> None:
        """See `Callback`."""
        self.here = training.stage == self.stage

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """See `Callback`."""
        if self.here and self.metric in record:
            self.trial.report(record[self.metric], int(record["epoch"]))
            so_far = self.trial.study._storage.get_trial(self.trial._trial_id)
            if self.heard.pruner.prune(self.heard, so_far):
                raise Hopeless(f"trial {self.trial.user_attrs[PLACE]} is worse than the others were at this epoch")


@dataclass(frozen=True)
class Search:
    """A search in progress.

    Attributes:
        folder: where it is kept.
        config: that trials change.
        dataset: encoded once.
        space: dotted key -> values.
        stage: that is trained.
        by: metric that decides, of which stage, and its direction.
        abreast: trials that may be under way at once.
    """

    folder: Path
    config: RunConfig
    dataset: Dataset
    space: Mapping[str, Dimension]
    stage: Stages
    by: Judged
    abreast: int = ABREAST

    def study(self) -> Any:
        """The trials so far, in the file that all processes share."""
        package = optuna()
        storage = package.storages.RDBStorage(
            f"sqlite:///{self.folder / STUDY}", engine_kwargs={"connect_args": {"timeout": WAIT_SECONDS}}
        )
        return package.create_study(
            storage=storage,
            study_name="recsys",
            load_if_exists=True,
            direction=self._direction,
            sampler=package.samplers.RandomSampler(seed=0),  # of what is settled before a trial is asked for
        )

    @property
    def _direction(self) -> str:
        return "maximize" if self.by.upwards else "minimize"

    def heard(self, place: int, trials: Sequence[Any]) -> Any:
        """A study, in memory, of the trials that the one at a place hears of; what it draws hangs on them and on it."""
        package = optuna()
        study = package.create_study(
            direction=self._direction,
            # What a trial is drawn from depends on its place alone, whichever process draws it.
            sampler=package.samplers.TPESampler(
                seed=(self.config.seed * 1_000_003 + place) % 2**32, n_startup_trials=STARTUP
            ),
            pruner=package.pruners.MedianPruner(n_startup_trials=STARTUP),
        )
        earlier = [one for one in trials if one.user_attrs[PLACE] <= place - self.abreast]
        study.add_trials(sorted(earlier, key=lambda one: int(one.user_attrs[PLACE])))
        return study

    def own_values(self) -> dict[str, Any]:
        """What the configuration says itself, for the first trial; without values outside the space."""
        said = flat(dump_table(self.config))
        inside = {
            key: said[key] for key, dimension in self.space.items() if key in said and is_within(dimension, said[key])
        }
        return {key: as_kept(self.space[key], value) for key, value in inside.items()}

    def run_trials(self, wanted: int) -> None:
        """Try configurations until so many trials have ended, those of all processes counted."""
        with waiting(self.folder):  # whoever comes first makes the file
            study = self.study()
        while True:
            with contextlib.ExitStack() as held:
                with waiting(self.folder):
                    self._take_back(study)
                    trials = [one for one in study.get_trials(deepcopy=False) if not one.user_attrs.get(KILLED)]
                    place = self._next(trials, wanted)
                    if place == wanted:
                        return
                    if place is not None:
                        heard = self.heard(place, trials)
                        trial = self._begun(study, heard, place)
                        held.enter_context(locked(self.folder / LOCKS / str(trial.number), create=True))
                if place is not None:
                    self._try(study, heard, trial)
            if place is None:
                time.sleep(PAUSE_SECONDS)

    def _next(self, trials: Sequence[Any], wanted: int) -> int | None:
        """The first place that nobody has taken; None while others must end before it, `wanted` when all have ended."""
        states = optuna().trial.TrialState
        ended = {one.user_attrs[PLACE] for one in trials if one.state.is_finished()}
        taken = {one.user_attrs[PLACE] for one in trials if one.state != states.WAITING}
        place = next((place for place in range(wanted) if place not in taken), wanted)
        awaited = range(wanted if place == wanted else place - self.abreast + 1)
        return place if ended.issuperset(awaited) else None

    def _begun(self, study: Any, heard: Any, place: int) -> Any:
        """A trial with its values; the first one has the configuration's own."""
        waits = [one for one in study.get_trials(deepcopy=False) if one.state == optuna().trial.TrialState.WAITING]
        if not waits:  # else somebody died between the two lines below, and left what they would write again
            if place == 0:
                heard.enqueue_trial(self.own_values())
            drawn = heard.ask()
            for key, dimension in self.space.items():
                suggested(drawn, key, dimension)
            study.enqueue_trial(drawn.params, user_attrs={PLACE: place})
        return study.ask()

    def _take_back(self, study: Any) -> None:
        """Trials whose process died are marked, and their places are free."""
        states = optuna().trial.TrialState
        for one in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            with contextlib.suppress(RunError), locked(self.folder / LOCKS / str(one.number), create=True):
                log.info("trial %d was cut off and is tried again", one.user_attrs[PLACE])
                study._storage.set_trial_user_attr(one._trial_id, KILLED, True)
                study.tell(one.number, state=states.FAIL)

    def _try(self, study: Any, heard: Any, trial: Any) -> None:
        """One trial: its values, its training, its figure."""
        states = optuna().trial.TrialState
        started = time.perf_counter()
        values = {key: suggested(trial, key, dimension) for key, dimension in self.space.items()}
        settings, place = as_settings(values), trial.user_attrs[PLACE]
        log.info("trial %d: %s", place, " ".join(settings) or "as configured")
        state, value = states.COMPLETE, None
        try:
            config = with_settings(self.config, settings)
            watch = _Watch(trial, heard, self.by.stage, self.by.metric)
            value = self.by.of(train(self.dataset, config, stage=self.stage, callbacks=[watch]))
            log.info("trial %d: %s %.6g", place, self.by.metric, value)
        except Hopeless as end:
            log.info("%s", end)
            state = states.PRUNED
        except RecsysError as error:  # these values do not go together, or the training diverged: no reason to end
            log.warning("trial %d failed: %s", place, error)
            trial.set_user_attr(FAULT, str(error))
            state = states.FAIL
        trial.set_user_attr(SECONDS, time.perf_counter() - started)
        study.tell(trial, value, state=state)

    def account(self) -> Json:
        """The trials as a report shows them, best first."""
        study = self.study()
        trials = []
        for one in study.get_trials(deepcopy=False):
            if not one.state.is_finished() or one.user_attrs.get(KILLED):
                continue
            values = {key: from_kept(self.space[key], told) for key, told in one.params.items()}
            trials.append(
                {
                    "trial": one.user_attrs[PLACE],
                    "state": one.state.name.lower(),
                    self.by.metric: one.value if one.value is not None else None,
                    "epochs": max(one.intermediate_values, default=0),
                    "seconds": one.user_attrs.get(SECONDS),
                    "settings": values,
                    **({FAULT: one.user_attrs[FAULT]} if FAULT in one.user_attrs else {}),
                }
            )
        trials.sort(key=lambda one: int(one["trial"]))
        ended = [one for one in trials if one[self.by.metric] is not None]
        if not ended:
            fault = next((one[FAULT] for one in trials if FAULT in one), "")
            raise RunError(f"no trial of {self.folder} came to an end{f': {fault}' if fault else ''}")
        best = (max if self.by.upwards else min)(ended, key=lambda one: one[self.by.metric])
        return {
            "metric": self.by.metric,
            "upwards": self.by.upwards,
            "stage": self.stage,
            "best": best,
            "trials": trials,
        }


def tune(
    config: RunConfig,
    trials: int,
    run: Path,
    *,
    space: Mapping[str, Dimension] | None = None,
    stage: Stages = "all",
    metric: str = "",
    base: Path = Path(),
    tables: Mapping[str, Source] | None = None,
    abreast: int = ABREAST,
) -> Json:
    """Search, then train the best configuration and publish it as a run, with the account of the search in it.

    Called again it goes on, with up to `abreast` processes at once; the trials are those that one process would try.

    Args:
        config: the whole configuration; its own values are the first trial.
        trials: that are to end, those of earlier calls included.
        run: folder of the run; the search is kept beside it, in `<run>.search`.
        space: dotted key -> values; what the configuration classes declare when None.
        stage: `retrieval` or `all`; of data without users and items `all` is the ranker.
        metric: figure of the validation part that decides; what picks the epochs of the last stage when empty.
        base: folder that the configuration's paths start from.
        tables: as of `publish.train_run`.
        abreast: trials that may be under way at once; each hears of those that many places before it and earlier, so
            another number is another search.

    Returns:
        `best`, `trials`, `metric`, and `run`, or no `run` where another process publishes it.

    Raises:
        ConfigError: Optuna is missing, or there is nothing to search.
        RunError: the folder holds another search, or no trial came to an end.
    """
    optuna()
    if stage == "ranking":
        raise ConfigError("a ranker stands on a retriever that its trials would share; search --stage all or retrieval")
    chosen = dict(declared_space(config) if space is None else space)
    if stage == "retrieval" or not (config.data.user and config.data.item):
        other = "ranking" if stage == "retrieval" else "retrieval"
        chosen = {key: dimension for key, dimension in chosen.items() if not key.startswith(f"{other}.")}
    if not chosen:
        raise ConfigError("there is nothing to search; name keys and their values with --space FILE")
    plain = config.model_copy(update={"final": FinalConfig(rows="none")})
    place = run.with_name(f".{run.name}.data")
    place.parent.mkdir(parents=True, exist_ok=True)
    dataset = shared_dataset(lambda: encode(plain, base, BadRows(config.data.on_bad_rows), tables), place)
    by = judged(plain, dataset, stage, metric)
    folder = run.with_name(f"{run.name}.search")
    identity = {
        "config": config_hash(plain),
        "data": dataset.fingerprint,
        "stage": stage,
        "metric": by.metric,
        "space": {key: repr(dimension) for key, dimension in sorted(chosen.items())},
        "abreast": abreast,
    }
    search = Search(folder, plain, dataset, chosen, stage, by, abreast)
    with ranks.alone():  # every process has trials of its own
        _settle(folder, identity)
        search.run_trials(trials)
        account = search.account()
        if not ranks.first():
            return account
        write_whole(folder / PAGE, tuning_page(account, f"{config.name}: {len(account['trials'])} trials"))
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(folder / LOCKS / "best", create=True))
            except RunError as error:
                log.info("another process publishes the best trial (%s)", error)
                return account
            best = with_settings(config, as_settings(account["best"]["settings"]))
            settled = settled_final(best, stage=stage, goes_on=False)
            _publish(settled, run, stage, base, tables, account)
    return {**account, "run": str(run)}


def _publish(
    config: RunConfig, run: Path, stage: Stages, base: Path, tables: Mapping[str, Source] | None, account: Json
) -> None:
    """Train the best configuration, unless the run is it already, and add the account."""
    there = open_run(run) if (run / MANIFEST).exists() else None
    if there is None or there.manifest.config_hash != config_hash(config) or TUNING not in there:
        train_run(config, run, stage=stage, base=base, tables=tables)
    with open_run(run).add_files() as staging:
        (staging / TUNING).write_text(json.dumps(account, indent=1), encoding="utf-8")


def _settle(folder: Path, identity: Json) -> None:
    """Make the folder, or refuse that of another search."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with waiting(folder):
        file = folder / IDENTITY
        if not file.exists():
            write_whole(file, json.dumps(identity, indent=1))
        found = json.loads(file.read_text(encoding="utf-8"))
    odd = sorted(key for key in identity if found.get(key) != identity[key])
    if odd:
        raise RunError(
            f"{folder} holds a search that differs in {', '.join(odd)}; name another --run, or remove that folder"
        )


def as_settings(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted key as `KEY=VALUE` texts."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]
