"""The last stage inside answers and evaluations: what rules promise on every rung, and what they cost is measured."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys import api
from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.cli.main import main
from recsys.configs.rules import RulesConfig, load_rules
from recsys.configs.run import load_config
from recsys.data.dataset import Dataset
from recsys.data.encoding.attributes import TextColumn
from recsys.data.subject import Subject
from recsys.funnel.arrange.stage import LastStage
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.funnel.run import TrainedRun
from recsys.pipeline.evaluate import evaluate
from recsys.retrieval.seen import Seen, SeenConfig
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun) -> TrainedRun:
    return load_run(open_run(tiny_run.folder))


def funnel(trained: TrainedRun, **sections: Any) -> Funnel:
    rules = RulesConfig.model_validate(sections)
    return Funnel(replace(trained, config=trained.config.model_copy(update={"rules": rules})))


def some(trained: TrainedRun) -> list[str]:
    """Users of every kind, a stranger among them."""
    return [*trained.dataset.user_ids[:12], "nobody"]


def test_rules_that_change_nothing_change_no_answer(trained: TrainedRun) -> None:
    plain = funnel(trained).recommend(some(trained), 10)
    ruled = funnel(trained, boost=[{"where": "price >= 0", "factor": 2.0}]).recommend(some(trained), 10)
    assert np.array_equal(plain.rows, ruled.rows)
    assert np.array_equal(plain.scores, ruled.scores, equal_nan=True)
    assert plain.propensities is None
    assert ruled.pinned is not None
    assert not ruled.pinned.any()


def test_blocked_items_are_in_no_answer_and_no_place_is_lost(trained: TrainedRun) -> None:
    users = some(trained)
    listed = set(funnel(trained).recommend(users, 5).rows.ravel().tolist()) - {-1}
    ids = sorted(trained.dataset.item_ids[row] for row in listed)
    answers = funnel(trained, block=[{"items": ids}]).recommend(users, 5)
    assert not listed & set(answers.rows.ravel().tolist())
    assert answers.counts.tolist() == [5] * len(users)


def test_a_pin_stands_in_every_answer_of_those_who_have_not_taken_it(trained: TrainedRun) -> None:
    users, data = some(trained), trained.dataset
    ruled = funnel(trained, pin=[{"item": data.item_ids[7], "slot": 2}])
    answers = ruled.recommend(users, 5)
    assert answers.pinned is not None
    assert ruled.retriever is not None
    for place, row in enumerate(answers.user_rows):
        taken = row >= 0 and 7 in ruled.retriever.histories(np.array([row]), 3).excluded.items
        assert bool(answers.pinned[place, 1]) == (not taken)
        assert (answers.rows[place, 1] == 7) == (not taken)
    assert json.loads(json.dumps(answers.to_json()))[0]["relaxed"] == []


def test_draws_are_the_seeds_and_say_their_chance(trained: TrainedRun) -> None:
    ruled, users = funnel(trained, explore={"slots": [1, 3], "epsilon": 0.5}), some(trained)
    seeds = range(len(users))
    one, again, other = (ruled.recommend(users, 5, seeds=[seed * step for seed in seeds]) for step in (1, 1, 2))
    turned = ruled.recommend(users[::-1], 5, seeds=seeds[::-1])
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.rows, other.rows)
    assert np.array_equal(one.rows, turned.rows[::-1])
    assert one.propensities is not None
    assert np.array_equal(np.isfinite(one.propensities).any(0), [True, False, True, False, False])
    item = one.to_json()[0]["items"][0]
    assert (item["explored"], item["propensity"]) == (True, one.propensities[0, 0])


def test_dated_rules_are_compiled_when_they_begin_and_end(trained: TrainedRun) -> None:
    assert trained.retriever is not None
    rules = RulesConfig.model_validate({"block": [{"items": [trained.dataset.item_ids[0]], "until": "2030-01-01"}]})
    history = trained.retriever.data.history
    stage = LastStage(rules, trained.dataset, trained.retriever.likeness, history)
    before, after = stage.at(1.7e9), stage.at(2.0e9)
    assert before is not None
    assert before.allowed is not None
    assert not before.allowed.contains(0)
    assert after is not None
    assert after.allowed is None
    assert stage.at(1.7e9 + 60) is before
    assert stage.changed(RulesConfig()).at(time.time()) is None


def test_a_hide_keeps_from_a_user_what_is_like_what_they_did(trained: TrainedRun) -> None:
    """Every rung, in answers and in the evaluation: item by item, and by a column."""
    data, users = trained.dataset, some(trained)
    plain = funnel(trained)
    before = plain.recommend(users, 8)
    bought = data.history("conversion")
    for scope in ("item", "brand"):
        ruled = funnel(trained, hide=[{"task": "conversion", "scope": scope}], seen={"policy": "none"})
        answers = ruled.recommend(users, 8)
        hidden = 0
        for place, row in enumerate(answers.user_rows.tolist()):
            own = set(bought.items[bought.ptr[row] : bought.ptr[row + 1]].tolist()) if row >= 0 else set()
            like = (
                own
                if scope == "item"
                else {
                    item
                    for item in range(data.num_catalogue)
                    if brands(data, item) & {brand for one in own for brand in brands(data, one)}
                }
            )
            assert not like & set(answers.rows[place].tolist())
            assert answers.eligible[place] == data.num_catalogue - len(like)
            hidden += len(like)
        assert hidden
    assert plain.recommend(users, 8).rows.tolist() == before.rows.tolist()
    result = evaluate(ruled.trained, "funnel").result
    stages = {stage["stage"]: stage for stage in result["funnel"]["stages"]}
    assert stages["filters"]["loss"] > 0
    assert result["protocol"]["filter_seen"] is False


def brands(data: Dataset, item: int) -> set[str]:
    column = data.item_columns["brand"]
    assert isinstance(column, TextColumn)
    return {column.values[code] for code in column.codes[column.ptr[item] : column.ptr[item + 1]]}


def test_a_hide_reads_what_a_request_brings(trained: TrainedRun) -> None:
    items = [trained.dataset.item_ids[row] for row in range(4)]
    events = [{"item": one, "labels": {"click": 1, "conversion": int(one == items[2])}} for one in items]
    ruled = funnel(trained, hide=[{"task": "conversion"}], seen="none")
    size = trained.dataset.num_catalogue
    answer = ruled.recommend([Subject(history=events)], size)
    assert set(range(size)) - set(answer.rows[0].tolist()) == {2}


def test_nobody_gets_what_is_their_own(trained: TrainedRun) -> None:
    """Stored users and strangers; items with several owners too."""
    users = [*trained.dataset.user_ids[:3], "a stranger"]
    owned = {users[0]: {1, 5}, users[3]: {5, 6}, users[1]: {7}}
    owners = [[name for name, rows in owned.items() if item in rows] for item in range(len(trained.dataset.item_ids))]
    column = TextColumn.several(pa.array(["|".join(names) for names in owners]), "|")
    data = replace(trained.dataset, attributes={**trained.dataset.attributes, "author_id": column})
    ruled = funnel(replace(trained, dataset=data), block=[{"where_user_column": "author_id"}], seen="none")
    size = data.num_catalogue
    answers = ruled.recommend([*users, None], size)
    missing = [set(range(size)) - set(rows.tolist()) for rows in answers.rows]
    assert missing == [{1, 5}, {7}, set(), {5, 6}, set()]
    subject = ruled.recommend([Subject(user="a stranger", history=[data.item_ids[0]])], size)
    assert set(range(size)) - set(subject.rows[0].tolist()) == {5, 6}


@pytest.mark.parametrize("policy", ["taken", "shown", "none"])
def test_the_last_stage_says_what_is_seen(trained: TrainedRun, policy: str) -> None:
    """In place of the policy that the run was trained with, in answers and in their evaluation."""
    section = trained.config.retrieval.model_copy(update={"seen": SeenConfig(policy=policy)})  # type: ignore[arg-type]
    configured = replace(trained, config=trained.config.model_copy(update={"retrieval": section}))
    assert configured.retriever is not None
    seen = Seen.of(trained.dataset, section.seen, configured.retriever.data.history)
    configured = replace(configured, retriever=configured.retriever.leaving_out(seen))
    ruled, users = funnel(trained, seen=policy), some(trained)
    assert ruled.recommend(users, 10).rows.tolist() == Funnel(configured).recommend(users, 10).rows.tolist()
    one, other = evaluate(ruled.trained, "retrieval").result, evaluate(configured, "retrieval").result
    assert one["retrieval"] == other["retrieval"]
    assert one["protocol"]["seen"] == other["protocol"]["seen"]


def test_a_file_of_ids_stays_with_the_run(trained: TrainedRun, tiny_run: TinyRun, tmp_path: Path) -> None:
    ids = [trained.dataset.item_ids[row] for row in (3, 4)]
    (tmp_path / "recalled.txt").write_text(f"{ids[0]}\n\n {ids[1]} \n", encoding="utf-8")
    (tmp_path / "rules.toml").write_text('[[block]]\nfile = "recalled.txt"\n', encoding="utf-8")
    read = load_rules(tmp_path / "rules.toml")
    assert read.block[0].items == tuple(ids)
    text = tiny_run.config_file.read_text(encoding="utf-8") + '\n[[rules.block]]\nfile = "recalled.txt"\n'
    (tmp_path / "shop.toml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "shop.toml").rules == read
    answers = funnel(trained, block=[{"file": str(tmp_path / "recalled.txt")}]).recommend(some(trained), 10)
    assert not {3, 4} & set(answers.rows.ravel().tolist())
    with pytest.raises(ConfigError, match="cannot be read"):
        RulesConfig.model_validate({"block": [{"file": "none.txt"}]}).with_files(tmp_path)


def test_wrong_rules_are_refused_before_anybody_asks(trained: TrainedRun) -> None:
    for sections, message in (
        ({"hide": [{"task": "colour"}]}, "no binary task"),
        ({"hide": [{"task": "click", "scope": "colour"}]}, "rules.hide.scope"),
        ({"block": [{"where_user_column": "author"}]}, "rules.block.where_user_column"),
        ({"seen": {"tasks": ["colour"]}}, "rules.seen names"),
    ):
        with pytest.raises(ConfigError, match=message):
            funnel(trained, **sections)


def test_an_evaluation_measures_what_filters_and_rules_cost(trained: TrainedRun) -> None:
    assert trained.retriever is not None
    rare = np.argsort(trained.retriever.data.popularity(3).numpy(), kind="stable")[:5]
    pins = [{"item": trained.dataset.item_ids[row], "slot": slot} for slot, row in enumerate(rare, start=1)]
    sections = {"block": [{"where": "price < 20"}], "pin": pins}
    ruled = funnel(trained, **sections).trained
    result, plain = (evaluate(run, "funnel").result for run in (ruled, trained))
    stages = {stage["stage"]: stage for stage in result["funnel"]["stages"]}
    assert stages["filters"]["loss"] > 0
    assert stages["rules"]["loss"] > 0  # what stands in all places is what fewest people want
    assert sum(stage["loss"] for stage in stages.values()) == pytest.approx(result["funnel"]["gap"])
    assert result["protocol"]["rules"]["pin"][0]["item"] == pins[0]["item"]
    assert {stage["stage"] for stage in plain["funnel"]["stages"]}.isdisjoint({"filters", "rules"})
    assert "rules" not in plain["protocol"]


def test_the_curve_of_variety_begins_at_the_lists_that_are_served(trained: TrainedRun) -> None:
    result = evaluate(trained, "funnel", variety="category").result
    first, *others = result["variety"]["points"]
    k = result["variety"]["k"]
    assert first[f"ndcg@{k}"] == pytest.approx(result["funnel"][f"ndcg@{k}"])
    assert first["ndcg_lost"] == 0
    assert len(others) == 18
    whole = {point["kind"]: point for point in others if point["strength"] == 1.0}
    assert whole["mmr"][f"diversity@{k}"] > first[f"diversity@{k}"]
    assert whole["dpp"][f"diversity@{k}"] > first[f"diversity@{k}"]
    with pytest.raises(ConfigError, match="keeps no item column"):
        evaluate(trained, "funnel", variety="colour")


def test_rules_from_a_file_and_from_python(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[cap]]\ncolumn = "category"\nmost = 1\n\n[explore]\nslots = [2]\nepsilon = 1.0\n')
    named = ["--run", str(tiny_run.folder), "--rules", str(file)]
    user = load_run(open_run(tiny_run.folder)).dataset.user_ids[0]
    assert main(["recommend", "--user", user, "-k", "4", *named]) == 0
    assert "drawn (" in capsys.readouterr().out
    assert main(["recommend", "--user", user, "-k", "4", "--json", *named]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert [item["explored"] for item in items] == [False, True, False, False]
    recommender = api.load(tiny_run.folder, rules=file)
    assert recommender.config.rules.cap[0].column == "category"
    assert len(recommender.recommend(user, 4)) == 4
    file.write_text("[[cap]]\ncolum = 1\n")
    assert main(["recommend", "--user", user, *named]) == 2
    assert "rules.toml" in capsys.readouterr().err
