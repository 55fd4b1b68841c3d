"""`recsys evaluate` against plain loops over the lists, in the keys that scripts rely on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.artifacts.folder import open_run
from recsys.artifacts.names import EVALUATION
from recsys.base.errors import RunError
from recsys.cli.main import main
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.funnel.run import TrainedRun
from recsys.pipeline.compare import compare_runs
from recsys.pipeline.evaluate import evaluate, evaluate_run
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.pipeline.trace import Bench
from recsys.ranking.scoring import score_rows
from recsys.retrieval.retriever import Retriever
from recsys.tests.support.tiny import TinyRun

K = 5
SYSTEMS = {"two_tower", "popularity", "item_knn", "ease"}


@pytest.fixture(scope="module")
def folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run that evaluations may write into."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    shutil.copytree(tiny_run.folder, out)
    return out


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return evaluate_run(folder)


@pytest.fixture(scope="module")
def stages(folder: Path) -> TrainedRun:
    return load_run(open_run(folder))


@pytest.fixture(scope="module")
def asked(stages: TrainedRun) -> dict[int, tuple[set[int], set[int]]]:
    """User row -> what they clicked before the test part, and what new they clicked in it; straight from the log."""
    events = stages.dataset.events
    clicked = (events.labels[:, 0] > 0) & (events.items < stages.dataset.num_catalogue)
    found = {}
    for user in range(stages.dataset.num_users):
        own = clicked & (events.users == user)
        before = set(events.items[own & (events.parts < Part.TEST)].tolist())
        wanted = set(events.items[own & (events.parts == Part.TEST)].tolist()) - before
        if wanted:
            found[user] = (before, wanted)
    return found


def by_hand(lists: dict[int, list[int]], asked: dict[int, tuple[set[int], set[int]]], k: int) -> dict[str, float]:
    """Means over users of the plain metrics of one list each."""
    hit, recall, ndcg, mrr = [], [], [], []
    for user, (_, wanted) in asked.items():
        places = [place for place, item in enumerate(lists[user][:k]) if item in wanted]
        hit.append(float(bool(places)))
        recall.append(len(places) / len(wanted))
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
        ndcg.append(sum(1 / np.log2(place + 2) for place in places) / ideal)
        mrr.append(1 / (places[0] + 1) if places else 0.0)
    means = {"hit": hit, "recall": recall, "ndcg": ndcg, "mrr": mrr}
    return {f"{name}@{k}": float(np.mean(values)) for name, values in means.items()}


def test_the_answer_has_the_keys_of_the_contract(result: dict[str, Any], asked: dict[int, Any]) -> None:
    assert {"protocol", "retrieval", "similar", "index", "ranking", "funnel"} <= result.keys()
    protocol = result["protocol"]
    assert (protocol["split"], protocol["filter_seen"], protocol["ranking"]) == ("time", True, "full")
    assert (protocol["users"], protocol["items"]) == (len(asked), 80)
    assert protocol["seen"].startswith("items the user has taken (positive events)")
    assert result["retrieval"].keys() >= SYSTEMS
    assert result["retrieval"]["two_tower"].keys() >= {
        f"{m}@{k}" for m in ("recall", "hit", "ndcg", "mrr") for k in (5, 20)
    }
    assert result["index"].keys() >= {"factory", "p50_ms"}
    assert any(key.startswith("ann_recall@") for key in result["index"])
    assert result["ranking"].keys() == {"click", "conversion"}
    for task in result["ranking"].values():
        assert task.keys() >= {"auc", "gauc", "logloss", "ece", "positives", "rows"}
    funnel = {"hit@5", "recall@5", "ndcg@5", "mrr@5", "coverage@5", "oracle_ndcg@5", "headroom_taken", "stages"}
    lists = {f"{name}@5" for name in ("coverage", "gini", "novelty", "popularity", "diversity")}
    assert result["funnel"].keys() >= funnel | lists
    assert all(figures.keys() >= lists for figures in result["retrieval"].values())
    json.dumps(result)


def test_what_makes_all_items_popular_makes_none_alike(result: dict[str, Any], folder: Path) -> None:
    """An item bias is what `logit_adjustment` adds to: lists that it does not change are as diverse as before."""
    trained = load_run(open_run(folder))
    assert trained.retriever is not None
    assert trained.retriever.item_vectors.shape[1] == trained.retriever.model.config.dim + 1
    trained.retriever.item_vectors[:, -1] += 50.0
    lifted = evaluate(trained).result
    assert not any(finding["name"] == "embeddings_collapsed" for finding in lifted["findings"])
    for name in ("popularity", "item_knn"):
        found = [one["retrieval"][name]["diversity@5"] for one in (result, lifted)]
        assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_every_rate_has_its_interval_beside_it_and_none_is_sampled(result: dict[str, Any]) -> None:
    sections = [*result["retrieval"].values(), result["funnel"], *result["ranking"].values()]
    rates = 0
    for section in sections:
        for name, value in section.items():
            assert "sampled" not in name
            bare = name.split("@")[0]
            rate = bare in {
                "recall",
                "hit",
                "ndcg",
                "mrr",
                "coverage",
                "precision",
                "oracle_ndcg",
                "auc",
                "gauc",
                "ece",
            }
            if rate and not name.endswith("_ci") and value is not None:
                low, high = section[f"{name}_ci"]
                assert low <= high
                assert -1e-9 <= low <= value + 0.02  # a pivotal interval need not hold its own estimate
                rates += 1
    assert rates > 40


def test_retrieval_is_judged_on_the_whole_catalogue_without_what_was_seen(
    result: dict[str, Any], stages: TrainedRun, asked: dict[int, tuple[set[int], set[int]]]
) -> None:
    retriever = stages.retriever
    assert retriever is not None
    users = np.array(list(asked))
    histories = retriever.histories(users, Part.TEST)
    scores = {"two_tower": retriever.queries(users, Part.TEST) @ retriever.item_vectors.T}
    scores |= {name: retriever.companions[name].score(histories) for name in ("popularity", "item_knn")}
    popularity = np.bincount(retriever.data.history.items[retriever.data.history.parts < Part.VALID], minlength=80)
    for name, matrix in scores.items():
        lists = {}
        for row, user in enumerate(users.tolist()):
            unseen = [item for item in range(80) if item not in asked[user][0]]
            known = [item for item in unseen if name == "two_tower" or matrix[row, item] != 0]
            best = sorted(known, key=lambda item, row=row, m=matrix: (-m[row, item], item))  # type: ignore[misc]
            lists[user] = best + sorted(set(unseen) - set(known), key=lambda item: (-popularity[item], item))
        for k in (5, 20):
            for metric, value in by_hand(lists, asked, k).items():
                assert result["retrieval"][name][metric] == pytest.approx(value, abs=1e-6), (name, metric)


def test_the_funnel_is_judged_by_the_lists_it_gives_one_by_one(
    result: dict[str, Any], stages: TrainedRun, asked: dict[int, tuple[set[int], set[int]]]
) -> None:
    funnel = Funnel(stages)
    lists, named, reachable = {}, set(), []
    for user, (before, wanted) in asked.items():
        users = np.array([user])
        found = funnel.retriever.candidates(users, int(Part.TEST), 20)
        assert before.isdisjoint(found.rows[found.rows >= 0].tolist())
        ranked = funnel.rank(users, found, int(Part.TEST))
        lists[user] = [item for item in ranked.top(K)[0].tolist() if item >= 0]
        named |= set(lists[user])
        inside = len(wanted & set(found.rows[0].tolist()))
        gains = [1 / np.log2(place + 2) for place in range(K)]
        reachable.append(sum(gains[: min(inside, K)]) / sum(gains[: min(len(wanted), K)]))
    for metric, value in by_hand(lists, asked, K).items():
        assert result["funnel"][metric] == pytest.approx(value, abs=1e-6), metric
    assert result["funnel"][f"coverage@{K}"] == pytest.approx(len(named) / 80)
    assert result["funnel"][f"oracle_ndcg@{K}"] == pytest.approx(np.mean(reachable), abs=1e-6)


def test_the_losses_of_the_stages_add_up(result: dict[str, Any]) -> None:
    funnel = result["funnel"]
    assert funnel["gap"] == pytest.approx(1 - funnel[f"ndcg@{K}"])
    assert sum(stage["loss"] for stage in funnel["stages"]) == pytest.approx(funnel["gap"])
    assert funnel[f"oracle_ndcg@{K}"] >= funnel[f"ndcg@{K}"]


def test_tasks_are_judged_on_the_rows_of_their_sample_space(result: dict[str, Any], stages: TrainedRun) -> None:
    dataset = stages.dataset
    assert stages.ranker is not None
    rows = dataset.rows(Part.TEST)
    logits = score_rows(stages.ranker, dataset, rows)
    for column, task in enumerate(("click", "conversion")):
        inside = dataset.events.mask[rows.numpy(), column]
        labels = dataset.events.labels[rows.numpy(), column][inside].astype(float)
        scores = logits[task][inside].astype(np.float64)
        pairs = scores[labels > 0][:, None] - scores[labels == 0][None, :]
        found = result["ranking"][task]
        assert (found["rows"], found["positives"]) == (inside.sum(), labels.sum())
        assert found["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-6)
        p = np.clip(stages.calibrators[task](scores), 1e-12, 1 - 1e-12)
        logloss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
        assert found["logloss"] == pytest.approx(logloss, abs=1e-5)


def test_the_score_of_a_missed_item_is_the_one_it_would_have_had(stages: TrainedRun) -> None:
    """The perfect retriever of the report: a missed item stands to the served ones as it would in one list with them,
    whatever else was missed.
    """
    bench = Bench(stages, Part.TEST, 20)
    trace, retriever, funnel = bench.trace, bench.retriever, Funnel(stages)
    assert trace.truth_scores is not None
    assert trace.candidates is not None
    assert trace.scores is not None
    several = 0
    for row, user in enumerate(bench.asked[0]):
        users = np.array([user])
        named = trace.candidates[row]
        wanted, given = trace.truth[row], trace.truth_scores[trace.truth.ptr[row] : trace.truth.ptr[row + 1]]
        inside = np.isin(wanted, named)
        for item, score in zip(wanted[inside], given[inside], strict=True):
            assert score == trace.scores[row, np.flatnonzero(named == item)[0]]
        several += (~inside).sum() > 1
        for item, score in zip(wanted[~inside], given[~inside], strict=True):
            rows = np.append(named, item)[None, :]
            nobody = np.zeros((*rows.shape, 1), dtype=np.int32)
            found = retriever.describe(
                rows, retriever.queries(users, Part.TEST), retriever.histories(users, Part.TEST), nobody, len(named)
            )
            together = funnel.rank(users, found, int(Part.TEST)).scores[0]
            assert score / trace.scores[row] == pytest.approx(together[-1] / together[:-1], rel=1e-3)
    assert several > 3


@pytest.fixture(scope="module")
def crowd(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose candidates come from four retrievers by quota, with its index."""
    names = ("two_tower", "item_knn", "same_category", "recent_popularity")
    quotas = ", ".join(f"{name} = {places}" for name, places in zip(names, (8, 4, 4, 4), strict=True))
    config = tiny_run.config(
        f"retrieval.proposers={json.dumps(names)}", "retrieval.merge=quota", f"retrieval.quotas={{{quotas}}}"
    )
    run = train_run(config, tmp_path_factory.mktemp("crowd") / "run", base=tiny_run.world)
    build_run_index(run)
    return run


def test_several_retrievers_are_told_apart_to_the_hits(crowd: Path) -> None:
    found = evaluate_run(crowd)
    sources = found["funnel"]["sources"]
    assert list(sources) == ["two_tower", "item_knn", "same_category", "recent_popularity"]
    for credit in ("credit_of_candidates", f"credit_of_list@{K}", f"credit_of_hits@{K}"):
        assert sum(one[credit] for one in sources.values()) == pytest.approx(1.0)
    assert [one["stage"] for one in found["funnel"]["stages"]] == ["retrieval", "ann", "merge", "ranking"]
    stages = load_run(open_run(crowd))
    assert stages.retriever is not None
    trace = Bench(stages, Part.TEST, 20).trace
    for row, user in enumerate(Bench(stages, Part.TEST, 20).asked[0]):
        alone = stages.retriever.candidates(np.array([user]), int(Part.TEST), 20)
        assert trace.candidates is not None
        assert trace.proposed is not None
        assert np.array_equal(trace.candidates[row], alone.rows[0])
        assert np.array_equal(trace.proposed[row], alone.proposed[0])
    assert set(trace.without) == set(sources)
    left_out = Retriever(
        stages.retriever.model,
        stages.retriever.data,
        stages.retriever.companions,
        ("two_tower", "same_category", "recent_popularity"),
        index=stages.retriever.index,
        quotas=stages.config.retrieval.quotas,
    )
    rest = left_out.candidates(Bench(stages, Part.TEST, 20).asked[0], int(Part.TEST), 20)
    assert np.array_equal(rest.rows, trace.without["item_knn"])


def test_a_single_retriever_is_the_source_of_everything(result: dict[str, Any]) -> None:
    sources = result["funnel"]["sources"]
    assert list(sources) == ["two_tower"]
    assert sources["two_tower"]["credit_of_candidates"] == 1.0
    assert sources["two_tower"]["recall_lost"] == pytest.approx(sources["two_tower"]["recall"])
    assert "merge" not in [one["stage"] for one in result["funnel"]["stages"]]


def test_both_trainings_are_told_epoch_by_epoch(result: dict[str, Any]) -> None:
    training = result["training"]
    assert [record["epoch"] for record in training["retrieval"]] == [1, 2, 3]
    assert [record["epoch"] for record in training["ranking"]] == [1, 2]
    assert all({"loss", "ndcg@10"} <= record.keys() for record in training["retrieval"])
    assert all({"loss", "select_ndcg@10"} <= record.keys() for record in training["ranking"])


def test_sources_are_shown_to_people(crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main(["evaluate", "--run", str(crowd), "--stage", "funnel", "--report", str(page)]) == 0
    shown, drawn = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert "Sources" in shown
    for text in (
        "What each retriever contributes",
        "same_category",
        "hits@5",
        "recall gain",
        "The ranker, 2",
    ):
        assert text in drawn


def test_the_result_is_kept_in_the_run(folder: Path, result: dict[str, Any]) -> None:
    assert open_run(folder).read_json(EVALUATION) == json.loads(json.dumps(result))


def test_a_run_that_cannot_be_written_is_judged_all_the_same(
    folder: Path, result: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "kept"
    shutil.copytree(folder, copy)
    (copy / ".adding").write_text("a file in the way: no folder can be made here, for root neither")
    assert evaluate_run(copy, "ranking")["ranking"] == result["ranking"]
    assert f"{copy} cannot be written" in caplog.text
    assert open_run(copy).read_json(EVALUATION) == json.loads(json.dumps(result))


def test_evaluating_twice_gives_the_same_numbers(folder: Path, result: dict[str, Any]) -> None:
    again = evaluate_run(folder)
    for section in ("retrieval", "ranking", "funnel", "protocol"):
        assert again[section] == result[section]


@pytest.mark.parametrize(
    ("stage", "there", "absent"),
    [
        ("retrieval", {"retrieval", "index"}, {"ranking", "funnel"}),
        ("ranking", {"ranking"}, {"retrieval", "funnel"}),
        ("funnel", {"funnel"}, {"retrieval", "ranking"}),
    ],
)
def test_one_stage_alone(
    tiny_run: TinyRun, tmp_path: Path, result: dict[str, Any], stage: str, there: set[str], absent: set[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    found = evaluate_run(run, stage)
    assert there <= found.keys()
    assert not absent & found.keys()
    assert all(found[section] == result[section] for section in there)


def test_a_run_without_ranker_or_index_is_judged_for_what_it_has(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = train_run(tiny_run.config(), tmp_path / "run", base=tiny_run.world, stage="retrieval")
    found = evaluate_run(run)
    assert found["index"]["factory"] is None
    assert "ranking" not in found
    towers = found["retrieval"]["two_tower"]
    assert found["funnel"][f"ndcg@{K}"] == pytest.approx(towers[f"ndcg@{K}"])  # its list is the retriever's
    with pytest.raises(RunError, match="there is no ranker, so --stage ranking has nothing to measure"):
        evaluate_run(run, "ranking")


def test_two_runs_are_compared_user_by_user(folder: Path, result: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    found = compare_runs([folder, tmp_path / "other"])
    rows = found["comparisons"]["other"]
    assert rows
    assert all(row["difference"] == 0 for row in rows)


def test_the_command_prints_json_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    assert main(["evaluate", "--run", str(folder), "--json", "--report", str(page)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["protocol"]["ranking"] == "full"
    assert page.read_text(encoding="utf-8").lstrip().startswith("<!")
    assert main(["evaluate", "--run", str(folder), "--stage", "ranking"]) == 0
    assert "click" in capsys.readouterr().out


def test_cut_offs_beyond_the_catalogue_are_left_out(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run.config("evaluation.ks=[5, 1000]", "retrieval.fit.epochs=1")
    run = train_run(config, tmp_path / "run", stage="retrieval", base=tiny_run.world)
    towers = evaluate_run(run, "retrieval")["retrieval"]["two_tower"]
    assert [key for key in towers if key.startswith("recall@")] == ["recall@5", "recall@5_ci"]
