"""The training of a whole run: towers -> companions -> their candidates -> warm start -> ranker -> calibration.

Each stage learns from what the stage before hands it, never jointly: the ranker's requests stand at the start of the
validation part, which no retriever was trained on, so the candidates it learns from are those it will meet. A run may
also go on from an earlier one: on its data set, with its weights and its optimisers' moments.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np

from ..artifacts.folder import Run, RunWriter, open_run
from ..artifacts.locate import RUNS
from ..artifacts.manifest import MANIFEST
from ..artifacts.names import CONFIG, INDEX, INDEX_REPORT, RANKING_HISTORY, RETRIEVAL_HISTORY
from ..base.arrays import Bool, Ints
from ..base.errors import ConfigError, RunError
from ..configs.run import RunConfig, config_hash, write_config
from ..data.build import load_dataset
from ..data.dataset import NOW, Dataset
from ..data.reading.tables import BadRows
from ..data.split import Part
from ..data.store import save_dataset
from ..funnel.run import assemble_retriever, companion_names, load_stages, save_ranker, save_retriever
from ..ranking.distil import DistilConfig
from ..ranking.requests import RequestSet
from ..ranking.train import TrainedRanker, train_ranker
from ..retrieval.baselines import build_baseline
from ..retrieval.baselines.base import Baseline
from ..retrieval.baselines.categories import SameCategory, item_categories
from ..retrieval.baselines.segment import SegmentPopularity, segment_traits, user_segments
from ..retrieval.index.base import IndexReport
from ..retrieval.index.tuning import build_index as build_checked_index
from ..retrieval.retriever import Retriever
from ..retrieval.towers.train import query_vectors, requests, train_two_tower
from ..retrieval.towers.windows import TowerData
from ..training.checkpoint import Checkpointer
from ..training.log import TrainingLog
from ..training.runtime import Runtime, start_runtime
from .continuation import SourceRun
from .start import Start
from .transfer import check_transfer

log = logging.getLogger(__name__)

CHECKPOINT_STEPS = 500
"""Steps between checkpoints inside an epoch."""


def train_run(
    config: RunConfig,
    run: Path | None = None,
    *,
    stage: str = "all",
    resume: bool = False,
    source_run: Path | None = None,
    base: Path = Path(),
) -> Path:
    """Train what a configuration describes and publish it as a run folder.

    Args:
        config: the whole configuration.
        run: folder to write; `runs/<name>` when None.
        stage: `retrieval`, `ranking`, or `all`. `ranking` stands on the retriever the run already has, if it has one.
        resume: continue from the checkpoints of a training that was killed.
        source_run: a run to go on from: its vocabularies grow, its events are history, its weights and its optimisers'
            moments are where the training starts; for a ranker with a frozen encoder, the run the encoder is from.
        base: folder that the configuration's paths start from.

    Returns:
        The run's folder.
    """
    path = run or RUNS / config.name
    runtime = start_runtime(config.runtime, config.seed)
    bad = BadRows(config.data.on_bad_rows)
    source = SourceRun.open(source_run) if source_run else None
    if stage != "retrieval":
        check_transfer(config.ranking.model, source)
    begin = Start(source, transfer=config.ranking.model.keeps_encoder)
    dataset = load_dataset(config.data, base, config.seed, bad, begin.dataset)
    for note in dataset.notes:
        log.warning("%s", note)
    if source is not None and not begin.transfer:
        carried = dataset.events.parts[dataset.events.source_rows < 0]
        learn = int((carried == Part.TRAIN).sum())
        log.info("%d events of %s carried on, %d of them to learn from", len(carried), source.name, learn)
        if stage != "retrieval":
            source.refuse_other_ranker(config, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    if bad.count():
        rejected = path.with_name(f"{path.name}.bad-rows.csv")
        bad.write(rejected)
        log.warning("%d bad rows were left out; they are listed in %s", bad.count(), rejected)
    checkpoints = path.with_name(f".{path.name}.checkpoints")
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    two_stages = bool(config.data.user and config.data.item)
    if stage == "retrieval" and not two_stages:
        raise ConfigError(
            "--stage retrieval needs data.user and data.item; these rows name none, train the ranker alone"
        )
    retriever: Retriever | None = None
    learned: TrainingLog | None = None
    if two_stages and stage != "ranking":
        keeper = _checkpointer(checkpoints, "retrieval", config, dataset, resume, begin)
        retriever, learned = _train_retriever(config, dataset, runtime, keeper, begin)
    elif two_stages:
        retriever = _kept_retriever(path, config, dataset)
    trained: TrainedRanker | None = None
    if stage != "retrieval" and (config.data.tasks or retriever is not None):
        keeper = _checkpointer(checkpoints, "ranking", config, dataset, resume, begin)
        trained = _train_second(config, dataset, retriever, runtime, keeper, begin)
    with RunWriter(
        path, seed=config.seed, config_hash=config_hash(config), data_fingerprint=dataset.fingerprint
    ) as writer:
        write_config(config, base, writer.file(CONFIG))
        (writer.folder / "data").mkdir()
        save_dataset(dataset, writer.folder / "data")
        if retriever is not None:
            save_retriever(retriever, dataset, writer.folder)
            if learned is not None:
                learned.write(writer.file(RETRIEVAL_HISTORY))
            elif stage == "ranking":
                _keep_retrieval(open_run(path), writer)
                begin.keep_retrieval(open_run(path), writer)
        if trained is not None:
            save_ranker(trained, writer.folder)
            trained.history.write(writer.file(RANKING_HISTORY))
        begin.write(writer)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return path


def _checkpointer(
    folder: Path, stage: str, config: RunConfig, dataset: Dataset, resume: bool, begin: Start
) -> Checkpointer:
    """Checkpoints of one stage, which belong to data, seed, source, and the sections its training depends on."""
    sections = ("data", "retrieval", "ranking")[: 2 if stage == "retrieval" else 3]
    parts = [dataset.fingerprint, str(config.seed), *(config_hash(getattr(config, name)) for name in sections)]
    parts += begin.identity
    return Checkpointer(folder / stage, CHECKPOINT_STEPS, resume=resume, fingerprint=" ".join(parts))


def _train_retriever(
    config: RunConfig, dataset: Dataset, runtime: Runtime, checkpointer: Checkpointer, begin: Start
) -> tuple[Retriever, TrainingLog]:
    unfitted_companions(config, dataset)  # a wrong name or option fails now, not after the training
    prepare = begin.of_towers(dataset)
    model, data, history = train_two_tower(dataset, config.retrieval, runtime, config.seed, checkpointer, prepare)
    begin.keep("retrieval", model)
    return assemble_retriever(config, model, data, fit_companions(config, dataset, data)), history


def fit_companions(config: RunConfig, dataset: Dataset, data: TowerData) -> dict[str, Baseline]:
    """The baselines of a run, fitted on the training events the towers saw."""
    history = data.history
    owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    known = history.parts < Part.VALID
    times = np.where(np.isfinite(history.times), history.times, np.nanmin(dataset.events.times) - 1.0)
    companions = unfitted_companions(config, dataset)
    for name, baseline in companions.items():
        baseline.fit(owner[known], history.items[known], times[known], history.num_users, data.num_items)
        log.info("fitted %s on %d events", name, int(known.sum()))
    return companions


def unfitted_companions(config: RunConfig, dataset: Dataset) -> dict[str, Baseline]:
    """The baselines of a run with what they are told of users and items, before they learn from events.

    Raises:
        ConfigError: a baseline, an option, or a feature that one is to read does not exist.
    """
    built: dict[str, Baseline] = {}
    for name in companion_names(config, dataset):
        options = dict(config.retrieval.baseline_options.get(name, {}))
        baseline = build_baseline(str(options.pop("model", name)), **options)
        if isinstance(baseline, SegmentPopularity):
            baseline.describe_users(user_segments(dataset, segment_traits(dataset, config.retrieval.segments)))
        elif isinstance(baseline, SameCategory):
            baseline.describe_items(item_categories(dataset, baseline.settings.features))
        built[name] = baseline
    return built


def _kept_retriever(path: Path, config: RunConfig, dataset: Dataset) -> Retriever | None:
    """The retriever of the run that is about to be replaced, if there is a run and it has one.

    Raises:
        RunError: it stands on other data, another split or other towers than the configuration says.
    """
    if not (path / MANIFEST).exists():
        return None
    run = open_run(path)
    if run.manifest.data_fingerprint != dataset.fingerprint:
        raise RunError(f"{path} was trained on other data; train both stages again, or name another --run")
    stages = load_stages(run, with_index=False)
    for section, old, new in (
        # where the tables lie may differ, for their content does not
        ("data", stages.config.data.relocated(lambda _: ""), config.data.relocated(lambda _: "")),
        ("retrieval", stages.config.retrieval, config.retrieval),
    ):
        if stages.retriever is not None and old != new:
            raise RunError(
                f"the retriever of {path} was trained with another [{section}] section; "
                "train both stages again, or set the section back"
            )
    return stages.retriever


def _keep_retrieval(old: Run, writer: RunWriter) -> None:
    """Copy history and index from the run that is being replaced: the retriever stayed, so its vectors did."""
    if RETRIEVAL_HISTORY in old:  # runs of earlier versions have none
        shutil.copy(old.file(RETRIEVAL_HISTORY), writer.file(RETRIEVAL_HISTORY))
    if old.has_directory(INDEX):
        shutil.copytree(old.directory(INDEX), writer.folder / INDEX)
        shutil.copy(old.file(INDEX_REPORT), writer.file(INDEX_REPORT))


def _train_second(
    config: RunConfig,
    dataset: Dataset,
    retriever: Retriever | None,
    runtime: Runtime,
    checkpointer: Checkpointer,
    begin: Start,
) -> TrainedRanker:
    asked = None
    if retriever is not None and config.ranking.select.enabled:
        asked = select_requests(dataset, retriever, config)
    prepare = begin.of_ranker(dataset, retriever if config.ranking.warm_start else None)
    section = config.ranking
    if section.distil.share > 0 and begin.dataset is not None:
        log.info("ranking.distil rests: the new rows alone are too few to train teachers on")
        section = section.model_copy(update={"distil": DistilConfig()})
    trained = train_ranker(dataset, section, runtime, config.seed, asked, checkpointer, prepare, config.blend)
    begin.keep("ranking", trained.model)
    return trained


def select_requests(dataset: Dataset, retriever: Retriever, config: RunConfig) -> RequestSet:
    """Requests at the start of the validation part: the retriever's candidates, and the item the user went on to take.

    A user who took several items makes a request of each, in which the others are no negatives.
    """
    users, _, truth = requests(retriever.data, Part.VALID)
    owner = np.asarray(truth.users)
    items = np.asarray(truth.items)
    limit = config.ranking.select.max_requests
    if len(items) > limit:
        drawn = np.sort(np.random.default_rng(config.seed).choice(len(items), limit, replace=False))
        owner, items = owner[drawn], items[drawn]
    needed, place = np.unique(owner, return_inverse=True)
    found = retriever.candidates(users[needed], Part.VALID, config.retrieval.num_candidates)
    rows = found.rows[place].copy()
    taken = rows == items[:, None]
    target = np.where(taken.any(1), taken.argmax(1), -1)
    rows[_others(rows, owner, items, truth.items, truth.users, retriever.data.num_items)] = -1
    kept = np.flatnonzero(target >= 0)
    everyone = np.unique(place, return_index=True)[1]
    missed = np.setdiff1d(everyone, kept)  # a user whose every item was missed still counts, as a request without one
    chosen = np.sort(np.concatenate([kept, missed[~np.isin(place[missed], place[kept])]]))
    log.info("%d requests, the retriever found the item in %d", len(chosen), len(kept))
    return RequestSet(
        dataset,
        int(Part.VALID),
        users[needed][place][chosen],
        rows[chosen],
        found.features[place][chosen],
        found.prior[place][chosen],
        target[chosen],
    )


def _others(
    rows: Ints,
    owner: Ints,
    items: Ints,
    truth_items: Ints,
    truth_owner: Ints,
    num_items: int,
) -> Bool:
    """Candidates [Q, C] that the request's user also took, other than the request's own item."""
    taken = np.unique(truth_owner * num_items + truth_items)
    keys = owner[:, None] * num_items + rows
    return np.asarray(np.isin(keys, taken) & (rows >= 0) & (rows != items[:, None]))


def build_index(run: Path, factory: str = "", target_recall: float = 0.0) -> IndexReport:
    """Build and check the index of a run's item vectors, then publish it into the run.

    Args:
        run: run folder.
        factory: overrides the configured one when not empty.
        target_recall: overrides the configured one when above 0.

    Raises:
        RunError: the run has no retriever, or the index does not agree with exact search.
    """
    opened = open_run(run)
    stages = load_stages(opened, with_index=False)
    if stages.retriever is None:
        raise RunError(f"{run} has no retriever, so there is nothing to index; train it with --stage all")
    retriever, config = stages.retriever, stages.config
    history = retriever.data.history
    askers = np.flatnonzero(np.diff(history.ptr) > 0)
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(askers)[: 2 * config.index.check_queries])
    queries = query_vectors(retriever.model, retriever.data, chosen, retriever.data.ends(NOW)[chosen])
    queries = queries.reshape(-1, queries.shape[-1])  # every interest of a user is a query of its own
    index, report = build_checked_index(
        retriever.item_vectors,
        queries,
        factory or config.index.factory,
        target_recall or config.index.target_recall,
        k=min(max(100, config.retrieval.num_candidates), retriever.data.num_items),
        check_queries=config.index.check_queries,
        seed=config.seed,
    )
    with opened.add_files() as folder:
        (folder / INDEX).parent.mkdir(parents=True, exist_ok=True)
        index.save(folder / INDEX)
        (folder / INDEX_REPORT).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    return report
