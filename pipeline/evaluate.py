"""`recsys evaluate`: retrieval, ranking and the whole funnel on the test part, in the JSON that scripts rely on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts.folder import Run, open_run
from ..artifacts.names import CONFIG, EVALUATION
from ..base.arrays import AnyArray, Ints
from ..base.errors import RunError
from ..base.finding import Finding
from ..base.ragged import Ragged
from ..configs.file import dump_toml
from ..configs.run import load_kept_config
from ..data.split import Part
from ..evaluation.attribution import funnel_metrics
from ..evaluation.config import EvaluationConfig
from ..evaluation.gates import unused_experts
from ..evaluation.guards import (
    embeddings_collapsed,
    filters_drop_relevant,
    index_faults,
    miscalibrated,
    summary,
    worse_than_popularity,
)
from ..evaluation.metrics.lists import UserMetrics, list_metrics
from ..evaluation.slices import history_buckets, item_slices, popularity_buckets, row_slices, user_slices, worst_slices
from ..evaluation.summary import combine, ranking_metrics, regression_metrics, retrieval_metrics
from ..evaluation.uncertainty.compare import TaskRows, compare
from ..funnel.folder import load_run
from ..funnel.funnel import effective_blend
from ..funnel.run import TrainedRun
from ..ranking.blend_search import searches
from ..ranking.calibrate import FITTED, sigmoid
from ..ranking.gate_log import read_gates
from ..retrieval.retriever import TOWER
from .leaks import refuse_leaks
from .off_policy import off_policy_report
from .trace import Bench

USER_VALUES = "metrics/users.safetensors"
EXAMPLES = 10
MAX_SLICED_COLUMNS = 5
"""Context columns that rows are sliced by, the last declared first."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured.

    Attributes:
        result: the JSON that scripts rely on.
        per_user: arrays by name, the values of every user and row behind the means, for paired comparisons.
    """

    result: Json
    per_user: dict[str, AnyArray]


def evaluate_run(folder: Path, stage: str = "all", trained: TrainedRun | None = None) -> Json:
    """Measure a run folder on its test part, and keep the result in the run; see `evaluate`.

    Args:
        folder: the run folder.
        stage: `retrieval`, `ranking`, `funnel` or `all`.
        trained: what the folder holds; read from it when None.
    """
    run = open_run(folder)
    try:
        evaluation = evaluate(trained or load_run(run), stage)
    except RunError as error:
        raise RunError(f"{folder}: {error}") from None
    _keep(run, evaluation)
    return evaluation.result


def evaluate(stages: TrainedRun, stage: str = "all") -> Evaluation:
    """Measure a run on its test part.

    Args:
        stages: the run.
        stage: `retrieval`, `ranking`, `funnel` or `all`.

    Raises:
        RunError: the run lacks the stage.
        DataError: the run's data leaks.
    """
    if stage in ("retrieval", "funnel") and stages.retriever is None:
        raise RunError(f"there is no retriever, so --stage {stage} has nothing to measure; train with --stage all")
    if stage == "ranking" and stages.ranker is None:
        raise RunError("there is no ranker, so --stage ranking has nothing to measure; train with --stage all")
    bench = Bench(stages, Part.TEST, max(stages.config.evaluation.ks))
    result: Json = {"title": f"Evaluation of {stages.config.name}", "protocol": protocol(stages, stage)}
    values: dict[str, AnyArray] = {}
    findings: list[Finding] = list(refuse_leaks(stages.dataset))
    slices: list[Any] = []
    if stages.retriever is not None and stage in ("retrieval", "funnel", "all"):
        users = bench.asked[0]
        result["protocol"] |= {"users": len(users), "items": stages.dataset.num_catalogue}
        values["users"] = users
    if stages.retriever is not None and stage in ("retrieval", "all"):
        found, faults = _retrieval(bench, values)
        result["retrieval"], result["index"] = found, _index(stages)
        findings += faults
    if stages.ranker is not None and stages.dataset.config.tasks and stage in ("ranking", "all"):
        result["ranking"], faults = _ranking(bench, values)
        findings += faults
        slices += _row_slices(bench, values)
        gates = _gates(bench)
        if gates:
            result["gates"] = gates
            findings += unused_experts(gates)
    binary = [task for task, metrics in result.get("ranking", {}).items() if "auc" in metrics]
    if stages.retriever is not None and stage in ("funnel", "all"):
        trace = bench.trace
        result["funnel"] = funnel_metrics(
            trace, num_items=stages.dataset.num_catalogue, config=stages.config.evaluation
        )
        metrics = _remember("funnel", trace.final, trace.truth, stages, values)
        slices += _slices(bench, trace.final, metrics)
        findings += filters_drop_relevant(result["funnel"]["stages"])
        result["examples"] = _examples(bench, trace.final)
        if stages.dataset.events.propensities is not None and binary:
            result["off_policy"] = off_policy_report(bench, binary[0])
    if stages.model is not None:
        result["blend"] = _blend(stages)
    if slices:
        judged_by = [f"ndcg@{stages.config.evaluation.list_k}", *(f"{task} auc" for task in binary)]
        result["slices"] = [one.to_json() for metric in judged_by for one in worst_slices(slices, metric)]
        result["all_slices"] = [one.to_json() for one in slices]
    result["training"] = _training(stages)
    result["findings"] = summary(findings)
    result["config"] = dump_toml(stages.config)
    result["data"] = {"fingerprint": stages.dataset.fingerprint, "notes": list(stages.dataset.notes)}
    return Evaluation(result, values)


def protocol(stages: TrainedRun, stage: str = "all") -> Json:
    """How the numbers came about: what a reader must know before comparing them with others.

    Candidates, seen items and the catalogue that is ranked are named only where lists are measured.
    """
    data, split = stages.dataset, stages.config.data.split
    lists: Json = {
        "filter_seen": True,
        "seen": "items the user has taken (positive events); items that were only shown return",
        "ranking": "full",
        "positive": stages.config.retrieval.positive or "every event",
        "candidates": stages.config.retrieval.num_candidates,
    }
    out: Json = {
        "split": split.kind,
        **(lists if stages.retriever is not None and stage != "ranking" else {}),
        "test_rows": len(data.rows(Part.TEST)),
        "train_rows": len(data.rows(Part.TRAIN)),
        "intervals": f"{stages.config.evaluation.level:.0%}, {stages.config.evaluation.draws} bootstrap draws of users",
        "notes": list(data.notes),
    }
    return out


def _retrieval(bench: Bench, values: dict[str, AnyArray]) -> tuple[Json, list[Finding]]:
    stages, (_, _, truth) = bench.stages, bench.asked
    config = stages.config.evaluation
    popularity = bench.retriever.data.popularity(Part.VALID).numpy().astype(np.int64)
    reports = {
        name: retrieval_metrics(
            rows,
            truth,
            num_items=stages.dataset.num_catalogue,
            config=config,
            popularity=popularity,
            item_vectors=bench.retriever.item_vectors,
        )
        for name, rows in bench.systems.items()
    }
    metrics = {name: _remember(name, rows, truth, stages, values) for name, rows in bench.systems.items()}
    findings: list[Finding] = list(embeddings_collapsed(bench.retriever.item_vectors))
    if "popularity" in metrics:
        deepest = max(_cutoffs(config, bench.systems[TOWER]))
        findings += worse_than_popularity(metrics[TOWER], metrics["popularity"], f"recall@{deepest}", config)
    if bench.retriever.index is not None:
        some = bench.queries[:256].reshape(-1, bench.queries.shape[-1])
        answer = bench.retriever.index.search(some, min(10, stages.dataset.num_catalogue))
        findings += index_faults(some, bench.retriever.item_vectors, answer.rows, answer.scores, tolerance=0.05)
    return combine(reports), findings


def _cutoffs(config: EvaluationConfig, rows: Ints) -> list[int]:
    """The configured cut-offs that lists `[U, k]` reach: a small catalogue has no hundred items."""
    return [k for k in config.ks if k <= rows.shape[1]] or [rows.shape[1]]


def _remember(name: str, rows: Ints, truth: Ragged, stages: TrainedRun, values: dict[str, AnyArray]) -> UserMetrics:
    """Per-user metrics of one system, kept for `recsys compare`."""
    metrics = list_metrics(rows, truth, _cutoffs(stages.config.evaluation, rows))
    for metric, per_user in metrics.values.items():
        values[f"{name}/{metric}"] = per_user.astype(np.float32)
    return metrics


def _index(stages: TrainedRun) -> Json:
    if stages.index_report is None:
        return {"factory": None, "note": "no index yet: recsys build-index; figures above are of exact search"}
    return dict(stages.index_report)


def _ranking(bench: Bench, values: dict[str, AnyArray]) -> tuple[Json, list[Finding]]:
    stages = bench.stages
    config = stages.config.evaluation
    rows = stages.dataset.rows(Part.TEST).numpy()
    users = stages.dataset.events.users[rows] if stages.dataset.config.user else np.arange(len(rows))
    values["rows/users"] = users
    out: Json = {}
    findings: list[Finding] = []
    fitted = stages.config.ranking.calibration.kind in FITTED
    for task, (mask, labels, logits) in bench.task_rows().items():
        calibrator = stages.calibrators.get(task)
        before = sigmoid(logits)
        after = calibrator(logits) if calibrator is not None else before
        found = ranking_metrics(labels, after, users, mask, config=config)
        if calibrator is not None:
            raw = ranking_metrics(labels, before, users, mask, config=config.model_copy(update={"draws": 0}))
            found["reliability_before"], found["ece_before"] = raw.get("reliability"), raw.get("ece")
        out[task] = found
        findings += miscalibrated(
            task, labels[mask], after[mask], users[mask], config=config, calibrated=fitted and calibrator is not None
        )
        values[f"rows/{task}"] = np.where(mask, after, np.nan).astype(np.float32)
        values[f"rows/{task}/label"] = np.where(mask, labels, np.nan).astype(np.float32)
    for task, (mask, labels, predictions) in bench.value_rows().items():
        out[task] = regression_metrics(labels, predictions, users, mask, config=config)
    return out, findings


def _training(stages: TrainedRun) -> Json:
    """What both stages went through: stage -> one record of numbers per epoch."""
    return {
        stage: [{key: value for key, value in epoch.items() if not isinstance(value, dict)} for epoch in epochs]
        for stage, epochs in stages.training.items()
    }


def _gates(bench: Bench) -> Json:
    """The gate report on test rows, and on validation rows after every epoch of the training."""
    stages = bench.stages
    assert stages.ranker is not None
    report: Json = read_gates(stages.ranker, stages.dataset, stages.dataset.rows(Part.TEST))
    if not report:
        return {}
    epochs = stages.training.get("ranking", ())
    return {**report, "epochs": [{"epoch": epoch["epoch"], **epoch["gates"]} for epoch in epochs if "gates" in epoch]}


def _blend(stages: TrainedRun) -> Json:
    """The table of weights that makes the lists, and where it comes from; a search's own account beside it."""
    used, found = effective_blend(stages), stages.found_blend
    if found is not None and searches(stages.config.blend):
        return {"chosen_by": "search on the validation part", **found.to_json()}
    configured = bool(stages.config.blend.weights) or used.kind == "task"
    tasks = [task.name for task in stages.ranker.tasks] if stages.ranker is not None else []
    weights = {used.task or tasks[0]: 1.0} if used.kind == "task" else used.weights or dict.fromkeys(tasks, 1.0)
    return {"chosen_by": "configuration" if configured else "default", "kind": used.kind, "weights": dict(weights)}


def _slices(bench: Bench, final: Ints, metrics: UserMetrics) -> list[Any]:
    stages, (users, seen, truth) = bench.stages, bench.asked
    config = stages.config.evaluation
    by_user = {"history": history_buckets(seen.lengths)}
    layout = stages.dataset.sides["user"]
    for column, name in enumerate(layout.categorical):
        vocabulary = stages.dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= config.max_slices + 2:
            codes = stages.dataset.users.categorical[:, column].numpy()[users]
            by_user[name] = np.array(vocabulary.names(codes.tolist()))
    counts = bench.retriever.data.popularity(Part.VALID).numpy().astype(np.int64)
    by_item = {"popularity": popularity_buckets(counts)}
    k = min(config.list_k, final.shape[1])
    return [*user_slices(metrics, by_user, config), *item_slices(final, truth, by_item, k, config)]


def _row_slices(bench: Bench, values: dict[str, AnyArray]) -> list[Any]:
    """Each task by the context columns of the rows, and by how much the user was seen in training."""
    dataset, config = bench.stages.dataset, bench.stages.config.evaluation
    rows = dataset.rows(Part.TEST).numpy()
    columns: dict[str, AnyArray] = {}
    for column, name in enumerate(dataset.sides["context"].categorical):
        vocabulary = dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= 4 * config.max_slices:
            codes = dataset.row_query.categorical[:, column].numpy()[rows]
            columns[name] = np.array(vocabulary.names(codes.tolist()))
    if dataset.config.time:
        columns["hour of day (UTC)"] = (dataset.events.times[rows] // 3600 % 24).astype(np.int64)
    if dataset.config.user:
        train = dataset.events.users[dataset.events.parts <= Part.TRAIN]
        columns["training rows"] = history_buckets(
            np.bincount(train, minlength=dataset.num_users)[values["rows/users"]]
        )
    if not columns or len(columns) > MAX_SLICED_COLUMNS:
        columns = {name: columns[name] for name in list(columns)[-MAX_SLICED_COLUMNS:]}
    found: list[Any] = []
    for task in bench.task_rows():
        mask = ~np.isnan(values[f"rows/{task}"])
        found += row_slices(
            values[f"rows/{task}/label"][mask],
            values[f"rows/{task}"][mask],
            values["rows/users"][mask],
            {name: column[mask] for name, column in columns.items()},
            config,
            task=task,
        )
    return found


def _examples(bench: Bench, final: Ints) -> list[Json]:
    """What a few users get, with titles: their latest history, the list, and which items they went on to take."""
    dataset, (users, seen, truth) = bench.stages.dataset, bench.asked
    chosen = np.linspace(0, len(users) - 1, min(EXAMPLES, len(users))).astype(int)
    out = []
    for i in chosen:
        wanted = set(truth.items[truth.ptr[i] : truth.ptr[i + 1]].tolist())
        past = seen.items[seen.ptr[i] : seen.ptr[i + 1]][-5:]
        out.append(
            {
                "user": dataset.user_ids[users[i]],
                "history": [dataset.titles[row] for row in past],
                "items": [{"title": dataset.titles[row], "hit": int(row) in wanted} for row in final[i] if row >= 0],
            }
        )
    return out


def _keep(run: Run, evaluation: Evaluation) -> None:
    """Store the result and the per-user values in the run."""
    from safetensors.numpy import save_file

    with run.add_files() as folder:
        target = folder / EVALUATION
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(evaluation.result, indent=1), encoding="utf-8")
        arrays = {name: np.ascontiguousarray(array) for name, array in evaluation.per_user.items()}
        save_file(arrays, folder / USER_VALUES)


def compare_runs(runs: Sequence[Path]) -> Json:
    """Paired differences of evaluated runs to the first: per metric, with intervals and corrected p-values.

    Raises:
        RunError: a run was not evaluated, or on other users or rows.
    """
    from safetensors.numpy import load_file

    opened = [open_run(run) for run in runs]
    tables = [load_file(run.file(USER_VALUES, "run `recsys evaluate` on it first")) for run in opened]
    names = [run.folder.name for run in opened]
    config = load_kept_config(opened[0].file(CONFIG)).evaluation
    result: Json = {"baseline": names[0], "comparisons": {}}
    for name, table in zip(names[1:], tables[1:], strict=True):
        first = tables[0]
        lists = None
        if "users" in first and "users" in table:
            if not np.array_equal(first["users"], table["users"]):
                raise RunError(
                    f"{names[0]} and {name} were evaluated on other users; compare runs of one data set and split"
                )
            lists = (_user_metrics(first), _user_metrics(table))
        tasks = {}
        for key in first:
            task = key.removeprefix("rows/")
            if key.startswith("rows/") and f"{key}/label" in first and key in table:
                mask = ~np.isnan(first[key])
                if not np.array_equal(first[f"{key}/label"][mask], table[f"{key}/label"][mask]):
                    raise RunError(
                        f"{names[0]} and {name} have other test rows; compare runs of one data set and split"
                    )
                tasks[task] = TaskRows(
                    first[f"{key}/label"][mask].astype(np.float64),
                    first[key][mask].astype(np.float64),
                    table[key][mask].astype(np.float64),
                    first["rows/users"][mask],
                )
        result["comparisons"][name] = [row.to_json() for row in compare(lists, tasks, config)]
    return result


def _user_metrics(table: dict[str, AnyArray]) -> UserMetrics:
    kept = {
        name: values.astype(np.float64)
        for name, values in table.items()
        if name.startswith((f"{TOWER}/", "funnel/")) and len(values) == len(table["users"])
    }
    return UserMetrics(np.arange(len(table["users"])), kept, 0)
