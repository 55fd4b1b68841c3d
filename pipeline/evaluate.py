"""`recsys evaluate`: retrieval, ranking and the whole funnel on the test part, in the JSON that scripts rely on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts.folder import Run, open_run
from ..artifacts.names import EVALUATION, USER_VALUES
from ..base import ranks
from ..base.arrays import AnyArray
from ..base.errors import RunError
from ..base.finding import Finding
from ..base.shares import told
from ..configs.file import dump_toml
from ..data.split import Part
from ..evaluation.attribution import funnel_metrics
from ..evaluation.gates import unused_experts
from ..evaluation.guards import filters_drop_relevant, summary
from ..evaluation.metrics.lists import list_metrics
from ..evaluation.slices import Slice, worst_slices
from ..funnel.folder import load_run
from ..funnel.run import TrainedRun
from ..retrieval.retriever import TOWER
from .leaks import refuse_leaks
from .next_items import next_item_figures
from .off_policy import has_propensities, off_policy_report
from .run_account import blend_account, example_lists, gate_account, protocol, training_account
from .run_slices import ITEMS, PAUSE, USERS, list_slices, task_slices
from .slice_columns import SliceColumn, slice_columns
from .stage_metrics import cutoffs, index_figures, ranking_figures, remember, retrieval_figures
from .trace import Bench
from .variety import variety_curve

log = logging.getLogger(__name__)

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


def evaluate_run(
    folder: Path,
    stage: str = "all",
    trained: TrainedRun | None = None,
    slices: Sequence[str] = (),
    variety: str = "",
) -> Json:
    """Measure a run folder on its test part, and keep the result in the run; see `evaluate`.

    Args:
        folder: the run folder.
        stage: `retrieval`, `ranking`, `funnel` or `all`.
        trained: what the folder holds; read from it when None.
        slices: columns to slice by, beside the usual and the configured ones.
        variety: see `evaluate`.
    """
    run = open_run(folder)
    try:
        evaluation = evaluate(trained or load_run(run, device=None), stage, slices, variety)
    except RunError as error:
        raise RunError(f"{folder}: {error}") from None
    if ranks.first():
        try:
            _keep(run, evaluation)
        except OSError as error:
            log.warning("%s cannot be written (%s): the evaluation is shown and not kept in it", folder, error.strerror)
    return evaluation.result


def evaluate(trained: TrainedRun, stage: str = "all", slices: Sequence[str] = (), variety: str = "") -> Evaluation:
    """Measure a run on its test part.

    Several processes answer a share of the requests and rows each, and the first one measures what all answered; the
    figures are those of one process, to the last bit.

    Args:
        trained: the run.
        stage: `retrieval`, `ranking`, `funnel` or `all`.
        slices: columns to slice by, beside the usual and the configured ones; see `slice_columns`.
        variety: column of the items by whose values the curve of variety is drawn (`variety_curve`); none when empty.

    Returns:
        The same result in every process; values per user in the first one.

    Raises:
        ConfigError: the run keeps no such column.
        RunError: the run lacks the stage.
        DataError: the run's data leaks.
    """
    refuse_learned(trained)
    if stage in ("retrieval", "funnel") and trained.retriever is None:
        raise RunError(f"there is no retriever, so --stage {stage} has nothing to measure; train with --stage all")
    if stage == "ranking" and trained.ranker is None:
        raise RunError("there is no ranker, so --stage ranking has nothing to measure; train with --stage all")
    chosen = slice_columns(trained.dataset, [*trained.config.evaluation.slices, *slices])
    bench = Bench(trained, Part.TEST, max(trained.config.evaluation.ks))
    leaks = refuse_leaks(trained.dataset)
    if ranks.world() == 1:
        return _measured(bench, stage, chosen, variety, leaks)
    _answer(bench, stage)
    found: Evaluation | None = None
    if ranks.first():
        with ranks.alone():
            found = _measured(bench, stage, chosen, variety, leaks)
    text = told("" if found is None else json.dumps(found.result))
    return found or Evaluation(json.loads(text), {})


def _answer(bench: Bench, stage: str) -> None:
    """Answer in several processes what `_measured` asks the bench for."""
    trained = bench.trained
    lists = trained.retriever is not None
    bench.answer(
        lists=lists and stage in ("retrieval", "all"),
        funnel=lists and stage in ("funnel", "all"),
        rows=trained.ranker is not None and bool(trained.dataset.config.tasks) and stage in ("ranking", "all"),
    )


def _measured(
    bench: Bench, stage: str, chosen: Sequence[SliceColumn], variety: str, leaks: Sequence[Finding]
) -> Evaluation:
    """The figures of what is answered; see `evaluate`."""
    trained = bench.trained
    result: Json = {"title": f"Evaluation of {trained.config.name}", "protocol": protocol(trained, stage)}
    values: dict[str, AnyArray] = {}
    findings: list[Finding] = list(leaks)
    sliced: list[Slice] = []
    if trained.retriever is not None and stage in ("retrieval", "funnel", "all"):
        users = bench.asked[0]
        result["protocol"] |= {"users": len(users), "items": trained.dataset.num_catalogue}
        values["users"] = users
    if trained.retriever is not None and stage in ("retrieval", "all"):
        result["retrieval"], faults = retrieval_figures(bench, values)
        result["index"] = index_figures(trained)
        findings += faults
        if figures := next_item_figures(bench):
            result["similar"] = figures
        if stage == "retrieval":
            towers = bench.systems[TOWER]
            depths = cutoffs(trained.config.evaluation, towers)
            sliced += list_slices(bench, towers, list_metrics(towers, bench.asked[2], depths), chosen)
    if trained.ranker is not None and trained.dataset.config.tasks and stage in ("ranking", "all"):
        result["ranking"], faults = ranking_figures(bench, values)
        findings += faults
        sliced += task_slices(bench, values, chosen)
        gates = gate_account(bench)
        if gates:
            result["gates"] = gates
            findings += unused_experts(gates)
    binary = [task for task, metrics in result.get("ranking", {}).items() if "auc" in metrics]
    if trained.retriever is not None and stage in ("funnel", "all"):
        trace = bench.trace
        result["funnel"] = funnel_metrics(
            trace,
            num_items=trained.dataset.num_catalogue,
            config=trained.config.evaluation,
            popularity=bench.popularity,
            item_vectors=bench.retriever.likeness(),
        )
        metrics = remember("funnel", trace.final, trace.truth, trained, values)
        sliced += list_slices(bench, trace.final, metrics, chosen)
        findings += filters_drop_relevant(result["funnel"]["stages"])
        if variety:
            result["variety"] = variety_curve(bench, variety)
        result["examples"] = example_lists(bench, trace.final)
        if has_propensities(bench) and binary:
            result["off_policy"] = off_policy_report(bench, binary[0])
    if trained.model is not None:
        result["blend"] = blend_account(trained)
    if sliced:
        result |= _slices(sliced, chosen)
    result["training"] = training_account(trained)
    result["findings"] = summary(findings)
    result["config"] = dump_toml(trained.config)
    result["data"] = {"fingerprint": trained.dataset.fingerprint, "notes": list(trained.dataset.notes)}
    if trained.schema_notes:
        result["data"]["schema_notes"] = list(trained.schema_notes)
    return Evaluation(result, values)


def refuse_learned(trained: TrainedRun) -> None:
    """What was trained on a part is never judged on it.

    Raises:
        RunError: the last fit learned from the test rows.
    """
    if trained.final is None or trained.final["rows"] != "all":
        return
    funnel = trained.final["chosen"].get("funnel", {})
    figures = ", ".join(
        f"{name} {value:.4f}" for name, value in funnel.items() if name.startswith("ndcg@") and isinstance(value, float)
    )
    raise RunError(
        f"the last fit learned from every row, so none is left to judge the run by; final.json keeps the test figures "
        f"of the run that was chosen{f' ({figures})' if figures else ''}; judge later events with --predictions"
    )


def _slices(slices: list[Slice], chosen: Sequence[SliceColumn]) -> Json:
    """All slices, the worst ones of the metrics that a slice is judged by, and what a reader looks at first."""
    names = dict.fromkeys(one.metric for one in slices)
    judged = [name for name in names if name.startswith(("ndcg@", "item_recall@")) or name.endswith((" auc", " rmse"))]
    first = [USERS, ITEMS, *([PAUSE] if any(one.column == PAUSE for one in slices) else ())]
    return {
        "slices": [one.to_json() for metric in judged for one in worst_slices(slices, metric)],
        "all_slices": [one.to_json() for one in slices],
        "sliced_by": {"metrics": judged, "columns": [*first, *(column.name for column in chosen)]},
    }


def _keep(run: Run, evaluation: Evaluation) -> None:
    """Store the result and the per-user values in the run."""
    from safetensors.numpy import save_file

    with run.add_files() as folder:
        target = folder / EVALUATION
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(evaluation.result, indent=1), encoding="utf-8")
        arrays = {name: np.ascontiguousarray(array) for name, array in evaluation.per_user.items()}
        save_file(arrays, folder / USER_VALUES)
