"""Answers of the whole funnel: nothing seen, the same alone and in company, and popularity for those nobody knows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.cli.main import main
from recsys.data.dataset import NOW
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.funnel.ladder import POPULAR
from recsys.funnel.ranked import Ranked
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.publish import train_run
from recsys.ranking.requests import SELECT
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

USERS = [str(user) for user in range(1, 121)]


@pytest.fixture(scope="module")
def funnel(tiny_run: TinyRun) -> Funnel:
    return recsys.load(tiny_run.folder).funnel


@pytest.fixture(scope="module")
def clicks(tiny_world: Path) -> pd.DataFrame:
    events = pd.read_csv(tiny_world / "events.csv", dtype={"user_id": str, "item_id": str})
    return events[events["click"] == 1]


def untimed(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "timings_ms"}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal answers: texts, order and counts exactly, numbers to 1e-5; timings left out."""

    def numbers(value: Any) -> tuple[str, list[float]]:
        found: list[float] = []
        shape = json.dumps(value, default=str, sort_keys=True)
        for text in re.findall(r": (-?\d+\.[\deE+-]+)", shape):
            found.append(float(text))
        return re.sub(r": -?\d+\.[\deE+-]+", ": #", shape), found

    (words, values), (other_words, other_values) = numbers(untimed(one)), numbers(untimed(other))
    return words == other_words and values == pytest.approx(other_values, abs=1e-5)


def test_an_answer_has_what_the_contract_says(funnel: Funnel) -> None:
    (answer,) = funnel.recommend(["1"], k=10).to_json()
    asked_for = {"user", "known", "items", "candidates", "timings_ms"}
    assert answer.keys() == asked_for | {"rung", "eligible", "short"}
    assert (answer["user"], answer["known"], answer["rung"], answer["candidates"]) == ("1", True, "history", 20)
    assert answer["short"] == 0
    assert len(answer["items"]) == 10
    assert answer["timings_ms"].keys() == {"retrieve", "rank", "total"}
    assert 0 < answer["timings_ms"]["retrieve"] + answer["timings_ms"]["rank"] <= answer["timings_ms"]["total"] + 0.01
    for item in answer["items"]:
        assert item.keys() == {"item", "title", "score", "tasks", "sources"}
        assert item["tasks"].keys() == {"click", "conversion", SELECT}
        assert all(0 <= p <= 1 for p in item["tasks"].values())
        assert item["sources"] == ["two_tower"]
    json.dumps(answer)


def test_the_best_come_first_and_each_once(funnel: Funnel) -> None:
    for answer in nonempty(funnel.recommend(USERS, k=10).to_json()):
        scores = [item["score"] for item in answer["items"]]
        assert scores == sorted(scores, reverse=True)
        assert len({item["item"] for item in answer["items"]}) == 10


def test_nobody_gets_what_they_had(funnel: Funnel, clicks: pd.DataFrame) -> None:
    had = clicks.groupby("user_id")["item_id"].agg(set)
    for answer in funnel.recommend(USERS, k=20).to_json():
        assert had.get(answer["user"], set()).isdisjoint(item["item"] for item in answer["items"])
    assert had.map(len).max() > 10


def test_one_user_gets_the_same_answer_alone_and_among_others(funnel: Funnel) -> None:
    together = funnel.recommend([*USERS[:40], "nobody"], k=7, explain=True).to_json()
    backwards = funnel.recommend(["nobody", *USERS[:40][::-1]], k=7, explain=True).to_json()[::-1]
    alone = [funnel.recommend([answer["user"]], k=7, explain=True).to_json()[0] for answer in together]
    for one, other, single in nonempty(zip(together, backwards, alone, strict=True)):
        assert same(one, other)
        assert same(one, single)


def test_many_requests_ranked_at_once_are_ranked_as_one_by_one(funnel: Funnel) -> None:
    """The evaluation asks in blocks what serving asks one by one."""
    users = np.arange(30)
    found = funnel.retriever.candidates(users, NOW, 20)
    together = funnel.rank(users, found, NOW)
    for user in nonempty(users):
        alone = funnel.rank(users[[user]], funnel.retriever.candidates(users[[user]], NOW, 20), NOW)
        assert np.array_equal(alone.rows[0], together.rows[user])
        assert np.allclose(alone.scores[0], together.scores[user], atol=1e-6)
        assert np.array_equal(alone.top(3)[0], together.top(3)[user])


def test_an_unknown_user_gets_what_is_popular_in_training(funnel: Funnel, tiny_run: TinyRun) -> None:
    (answer,) = funnel.recommend(["nobody"], k=12, explain=True).to_json()
    assert (answer["user"], answer["known"], len(answer["items"])) == ("nobody", False, 12)
    assert all(item["sources"] == [POPULAR] for item in answer["items"])
    events = load_run(open_run(tiny_run.folder)).dataset.events
    clicked = (events.parts == 0) & (events.labels[:, 0] > 0)
    counts = np.bincount(events.items[clicked], minlength=80)
    rows = [funnel.dataset.item_rows[item["item"]] for item in answer["items"]]
    assert counts[rows].tolist() == sorted(counts, reverse=True)[:12]
    assert [item["score"] for item in answer["items"]] == pytest.approx((counts[rows] / counts.sum()).tolist())


def test_more_items_than_candidates_may_be_asked_for_but_no_more_than_there_are(funnel: Funnel) -> None:
    (answer,) = funnel.recommend(["nobody"], k=80).to_json()
    assert len(answer["items"]) == 80
    (known,) = funnel.recommend(["1"], k=60).to_json()
    assert len({item["item"] for item in known["items"]}) == 60
    with pytest.raises(ConfigError, match="k=81 exceeds the 80 items of the catalogue; lower k"):
        funnel.recommend(["1"], k=81).to_json()


def test_whoever_has_had_nearly_everything_gets_the_rest(funnel: Funnel, clicks: pd.DataFrame) -> None:
    had = clicks.groupby("user_id")["item_id"].nunique()
    user = str(had.idxmax())
    (answer,) = funnel.recommend([user], k=80).to_json()
    assert len(answer["items"]) == answer["candidates"] == 80 - had[user]


def test_an_explanation_names_sources_tasks_and_the_nearest_of_the_history(
    funnel: Funnel, clicks: pd.DataFrame
) -> None:
    (plain,) = funnel.recommend(["7"], k=5).to_json()
    (answer,) = funnel.recommend(["7"], k=5, explain=True).to_json()
    had = set(clicks[clicks["user_id"] == "7"]["item_id"])
    vectors = funnel.retriever.item_vectors[:, :8]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert "why" not in plain["items"][0]
    for item in answer["items"]:
        why = item["why"]
        assert why["sources"] == item["sources"]
        assert why["tasks"] == item["tasks"]
        rows = funnel.dataset.item_rows
        near = {other: float(unit[rows[other]] @ unit[rows[item["item"]]]) for other in had}
        best = sorted(near, key=lambda other: -near[other])[:3]
        assert [reason["item"] for reason in why["because_of"]] == best
        assert [reason["similarity"] for reason in why["because_of"]] == pytest.approx(
            [near[i] for i in best], abs=1e-5
        )


def test_the_command_prints_one_json_object_a_user(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["recommend", "--run", str(tiny_run.folder)]
    assert main([*base, "--user", "1", "--user", "nobody", "-k", "3", "--json"]) == 0
    out, _ = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["user"], first["known"], second["user"], second["known"]) == ("1", True, "nobody", False)
    assert [len(answer["items"]) for answer in (first, second)] == [3, 3]
    assert main([*base, "--user", "1", "-k", "3"]) == 0
    shown = capsys.readouterr().out
    assert all(item["title"] in shown for item in first["items"])  # titles, not numbers, where people read
    assert main([*base, "--user", "1", "-k", "81"]) == 2
    assert capsys.readouterr().err == "error: k=81 exceeds the 80 items of the catalogue; lower k\n"


def test_users_from_a_file_are_answered_in_its_order(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users.txt").write_text("9\n\n 3 \nnobody\n")
    run = ["--run", str(tiny_run.folder)]
    assert main(["recommend", "--users", str(tmp_path / "users.txt"), *run, "-k", "2", "--json"]) == 0
    assert [json.loads(line)["user"] for line in capsys.readouterr().out.splitlines()] == ["9", "3", "nobody"]


def test_a_run_without_a_ranker_answers_in_the_retrievers_order(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = train_run(tiny_run.config(), tmp_path / "run", base=tiny_run.world, stage="retrieval")
    answerer = recsys.load(run).funnel
    for user in nonempty(USERS[:10]):
        (answer,) = answerer.recommend([user], k=5).to_json()
        found = answerer.retriever.candidates(np.array([answerer.dataset.user_rows[user]]), NOW, 20)
        assert [answerer.dataset.item_rows[item["item"]] for item in answer["items"]] == found.rows[0, :5].tolist()
        assert answer["items"][0]["tasks"].keys() == {SELECT}


def test_a_duration_is_answered_in_its_own_unit(tiny_run: TinyRun, tmp_path: Path) -> None:
    """A task learned as log(1 + seconds) is told, and blended, in seconds."""
    text = tiny_run.config_file.read_text()
    task = '[[data.tasks]]\nname = "dwell"\ncolumn = "dwell_seconds"\nkind = "regression"\nlog1p = true\n'
    (tiny_run.world / "dwell.toml").write_text(text.replace("[[data.features]]", task + "\n[[data.features]]", 1))
    run = replace(tiny_run, config_file=tiny_run.world / "dwell.toml")
    config = run.config("blend.kind=task", "blend.task=dwell", "retrieval.fit.epochs=1")
    folder = train_run(config, tmp_path / "run", base=tiny_run.world)
    answerer = recsys.load(folder).funnel
    assert answerer.trained.ranker is not None
    users = np.arange(20)
    for user, answer in zip(
        users, answerer.recommend([answerer.dataset.user_ids[u] for u in users], k=5).to_json(), strict=True
    ):
        rows = np.array([[answerer.dataset.item_rows[item["item"]] for item in answer["items"]]])
        with torch.no_grad():
            logs = answerer.trained.ranker(answerer.dataset.candidates(np.array([user]), rows, NOW))["dwell"]
        told = [item["tasks"]["dwell"] for item in answer["items"]]
        assert told == pytest.approx(np.expm1(logs.numpy()).tolist(), rel=1e-4, abs=1e-5)
        assert [item["score"] for item in answer["items"]] == told
    result = evaluate(answerer.trained, "ranking").result
    assert "dwell rmse" in result["sliced_by"]["metrics"]
    tiers = [e for e in result["all_slices"] if (e["column"], e["metric"]) == ("popularity", "dwell rmse")]
    assert sum(e["size"] for e in tiers) == result["ranking"]["dwell"]["rows"]
    squares = sum(e["size"] * e["estimate"] ** 2 for e in tiers) / result["ranking"]["dwell"]["rows"]
    assert squares == pytest.approx(result["ranking"]["dwell"]["rmse"] ** 2)


def test_another_blend_gives_another_order(tiny_run: TinyRun, tmp_path: Path) -> None:
    stages = load_run(open_run(tiny_run.folder))
    by_click = stages.config.model_copy(
        update={"blend": stages.config.blend.model_copy(update={"weights": {"click": 1.0}})}
    )
    answerer = Funnel(replace(stages, config=by_click))
    for answer in answerer.recommend(USERS[:20], k=5).to_json():
        for item in answer["items"]:
            assert item["score"] == pytest.approx(item["tasks"]["click"], rel=1e-5)
    unknown = stages.config.model_copy(
        update={"blend": stages.config.blend.model_copy(update={"weights": {"buy": 1.0}})}
    )
    with pytest.raises(ConfigError, match="buy"):
        Funnel(replace(stages, config=unknown)).recommend(["1"], k=5).to_json()


def test_ties_keep_the_retrievers_order_and_pads_stay_behind() -> None:
    ranked = Ranked(np.array([[4, 7, 2, -1]]), np.array([[0.5, 0.9, 0.5, -np.inf]]), {})
    assert ranked.top(3).tolist() == [[7, 4, 2]]
    assert ranked.top(6).tolist() == [[7, 4, 2, -1, -1, -1]]
