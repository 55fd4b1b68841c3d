"""Bring your own lists: equal to an independent library on random tables, and one sentence for every bad line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.errors import DataError
from recsys.cli.main import main
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.external import external_metrics
from recsys.pipeline.external import evaluate_predictions, read_lists
from recsys.tests.support.nonempty import nonempty

CONFIG = EvaluationConfig(ks=(1, 3, 10), draws=0)


def random_tables(seed: int, grades: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ties, short lists, users without predictions and users without truth, in shuffled order."""
    rng = np.random.default_rng(seed)
    guess, truth = [], []
    for user in rng.permutation(25):
        for item in rng.choice(30, rng.integers(0, 14), replace=False):
            guess.append((f"u{user}", f"i{item}", float(rng.integers(0, 5)) / 4))
        for item in rng.choice(30, rng.integers(0, 5), replace=False):
            truth.append((f"u{user}", f"i{item}", int(rng.integers(0, 4)) if grades else 1))
    guess += [("nobody", "i1", 1.0), ("u0", "i99", 0.5)]
    truth += [("silent", "i1", 1)]
    return (
        pd.DataFrame(guess, columns=["user", "item", "score"]).sample(frac=1, random_state=seed),
        pd.DataFrame(truth, columns=["user", "item", "relevance"]).sample(frac=1, random_state=seed),
    )


def untied(guess: pd.DataFrame) -> pd.DataFrame:
    """The same order without ties: score first, later item id first."""
    ordered = guess.sort_values(["user", "score", "item"], ascending=[True, False, False])
    return ordered.assign(rank=ordered.groupby("user").cumcount() + 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), grades=st.booleans())
def test_equal_to_ir_measures_on_random_tables(seed: int, grades: bool) -> None:
    ir = pytest.importorskip("ir_measures")
    guess, truth = random_tables(seed, grades)
    found = external_metrics(lists := read_lists(guess, truth, 10), CONFIG)
    users = lists.user_ids[found.users]
    qrels = [ir.Qrel(*row) for row in truth.itertuples(index=False)]
    tied = [ir.ScoredDoc(*row) for row in guess.itertuples(index=False)]
    ranked = [ir.ScoredDoc(row.user, row.item, -float(row.rank)) for row in untied(guess).itertuples()]
    # the reciprocal rank of ir_measures comes from another provider, which leaves ties in table order
    names = {"recall": ir.R, "hit": ir.Success, "ndcg": ir.nDCG, "precision": ir.P, "map": ir.AP}
    runs = [({**names, "mrr": ir.RR}, ranked), (names, tied)]
    for measures, run in runs:
        for name, measure in nonempty(measures.items()):
            for k in nonempty(CONFIG.ks):
                theirs = {one.query_id: one.value for one in ir.iter_calc([measure @ k], qrels, run)}
                for user, value in nonempty(zip(users, found.values[f"{name}@{k}"], strict=True)):
                    assert value == pytest.approx(theirs[user], abs=1e-6), (name, k, user)


def test_every_kind_of_table_gives_the_same_numbers(tmp_path: Path) -> None:
    guess, truth = random_tables(3)
    want = {**evaluate_predictions(guess, truth, config=CONFIG), "findings": []}  # they name the files
    guess.to_csv(tmp_path / "guess.csv", index=False)
    truth.to_csv(tmp_path / "truth.tsv", index=False, sep="\t")
    guess.to_parquet(tmp_path / "guess.parquet")
    for predictions in (
        tmp_path / "guess.csv",
        str(tmp_path / "guess.parquet"),
        pl.from_pandas(guess),
        pl.from_pandas(guess).to_arrow(),
        {name: guess[name].tolist() for name in guess.columns},
        untied(guess)[["user", "item", "rank"]],
    ):
        assert {**evaluate_predictions(predictions, tmp_path / "truth.tsv", config=CONFIG), "findings": []} == want
    assert {**evaluate_predictions(guess, truth[["user", "item"]], config=CONFIG), "findings": []} == want


def test_counts_of_users_and_coverage() -> None:
    guess = pd.DataFrame({"user": [1, 1, 2, 9], "item": [10, 11, 10, 12], "rank": [1, 2, 1, 1]})
    truth = pd.DataFrame({"user": [1.0, 2.0, 3.0, 4.0], "item": [11, 10, 10, 10], "relevance": [1, 1, 1, 0]})
    found = evaluate_predictions(guess, truth, config=EvaluationConfig(ks=(1, 2), draws=20), num_items=8)
    assert found["users"] == 3
    assert found["users_without_truth"] == 1  # user 4: nothing relevant
    assert found["users_without_predictions"] == 2  # users 3 and 4
    assert found["predictions_without_truth"] == 1  # user 9
    assert found["hit@1"] == pytest.approx(1 / 3)
    assert found["hit@2"] == pytest.approx(2 / 3)
    assert found["mrr@2"] == pytest.approx((0.5 + 1) / 3)
    assert found["coverage@2"] == 2 / 8
    assert found["hit@1_ci"][0] <= found["hit@1"] <= found["hit@1_ci"][1]
    sampled = evaluate_predictions(guess, truth, config=CONFIG, sampled=100)
    assert "ndcg@3_sampled@100" in sampled
    assert "ndcg@3" not in sampled


BAD = {
    "null id": ("user,item,score\na,b,1\n,b,1\n", r"guess\.csv, line 3: user is None, expected an id"),
    "score no number": ("user,item,score\na,b,high\n", r"line 2: score is 'high', expected a finite number"),
    "score nan": ("user,item,score\na,b,nan\n", r"line 2: score is 'nan', expected a finite number"),
    "pair twice": (
        "user,item,score\na,b,1\na,c,1\na,b,2\n",
        r"line 4: user 'a' and item 'b' stand there a second time",
    ),
    "no column": ("user,movie,score\na,b,1\n", r"no column item; found user, movie, score"),
    "no order": ("user,item\na,b\n", r"no column rank or score"),
    "empty file": ("", r"guess\.csv is empty \(0 bytes\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    (tmp_path / "guess.csv").write_text(text)
    (tmp_path / "truth.csv").write_text("user,item\na,b\n")
    with pytest.raises(DataError, match=message) as error:
        evaluate_predictions(tmp_path / "guess.csv", tmp_path / "truth.csv")
    assert "\n" not in str(error.value)
    assert "guess.csv" in str(error.value)


def test_no_file_and_no_table() -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        evaluate_predictions("nowhere.csv", {"user": ["a"], "item": ["b"]})
    with pytest.raises(DataError, match="predictions is a int"):
        evaluate_predictions(3, {"user": ["a"], "item": ["b"]})


@pytest.mark.parametrize(
    ("guessed", "sentence"),
    [
        (
            "1.0",
            'None of the 2 users of truth.csv is in guess.csv: truth.csv says "1" and guess.csv "1.0"; write whole',
        ),
        (" 1", 'None of the 2 users of truth.csv is in guess.csv: truth.csv says "1" and guess.csv " 1"; write them'),
        ("x1", "None of the 2 users of truth.csv is in guess.csv."),
    ],
)
def test_ids_that_match_nothing_are_a_finding_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], guessed: str, sentence: str
) -> None:
    (tmp_path / "guess.csv").write_text(f"user,item,rank\n{guessed},a,1\n{guessed.replace('1', '2')},b,1\n")
    (tmp_path / "truth.csv").write_text("user,item\n1,a\n2,b\n")
    files = [str(tmp_path / name) for name in ("guess.csv", "truth.csv")]
    found = evaluate_predictions(*files)
    assert [finding["severity"] for finding in found["findings"]] == ["error"]
    assert found["findings"][0]["sentence"].startswith(sentence)
    assert main(["evaluate", "--predictions", files[0], "--truth", files[1]]) == 0
    assert sentence in " ".join(capsys.readouterr().out.split())


def test_users_without_a_list_are_told_and_items_nobody_recommends_are_not() -> None:
    truth = {"user": [1, 2, 3], "item": ["a", "b", "c"]}
    guess = {"user": [1, 2, 3], "item": ["a", "a", "a"], "rank": [1, 1, 1]}
    assert evaluate_predictions(guess, truth, config=CONFIG)["findings"] == []
    fewer = {name: values[1:] for name, values in guess.items()}
    assert evaluate_predictions(fewer, truth, config=CONFIG)["findings"] == [
        {
            "severity": "warning",
            "name": "users_without_list",
            "sentence": "1 of the 3 users of the truth frame have no list in the predictions frame and count as 0.",
        }
    ]
    none = evaluate_predictions({"user": [1], "item": [7], "rank": [1]}, {"user": [1], "item": ["7.0"]}, config=CONFIG)
    assert none["findings"][0]["name"] == "items_do_not_join"


def test_no_row_at_all() -> None:
    nothing: dict[str, list[str]] = {"user": [], "item": [], "rank": []}
    found = evaluate_predictions(nothing, {"user": ["a"], "item": ["b"]}, config=CONFIG)
    assert found["recall@10"] == 0
    assert found["users_without_predictions"] == 1
    assert evaluate_predictions(nothing, {"user": [], "item": []}, config=CONFIG)["recall@10"] is None
