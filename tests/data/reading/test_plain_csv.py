"""A plain CSV without header, in two files, with words for labels: UCI Adult's configuration on hand-made rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.base.errors import DataError
from recsys.configs.run import RunConfig, load_config, write_config
from recsys.data.build import load_dataset
from recsys.data.schema import DataConfig, TaskSpec

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "adult.toml"
PEOPLE = [
    "25, Private, 1111, HS-grad, 9, Never-married, Sales, Own-child, White, Male, 0, 0, 40, United-States, <=50K",
    "47, Self-emp, 2222, Masters, 14, Married-civ-spouse, Sales, Husband, Black, Male, 7000, 0, 50, ?, >50K",
    "33, Private, 3333, HS-grad, 9, Divorced, Tech-support, Unmarried, White, Female, 0, 1800, 38, Cuba, <=50K",
    "61, ?, 4444, Bachelors, 13, Never-married, ?, Not-in-family, White, Female, 0, 0, 20, United-States, >50K",
]


@pytest.fixture
def adult(tmp_path: Path) -> RunConfig:
    """The shipped configuration beside hand-made files in the official layout."""
    (tmp_path / "adult.data").write_text("\n".join(PEOPLE * 3) + "\n\n")
    (tmp_path / "adult.test").write_text("|1x3 Cross validator\n" + "".join(f"{row}.\n" for row in PEOPLE * 2) + "\n")
    (tmp_path / "adult.toml").write_text(CONFIG.read_text())
    return load_config(tmp_path / "adult.toml")


def test_two_columns_of_words_become_two_labels(adult: RunConfig, tmp_path: Path) -> None:
    dataset = load_dataset(adult.data, tmp_path, seed=0)
    assert dataset.task_names == ("income", "never_married")
    order = np.argsort(dataset.events.source_rows)
    np.testing.assert_array_equal(dataset.events.labels[order], [[0, 1], [1, 0], [0, 0], [1, 1]] * 5)
    assert dataset.events.mask.all()


def test_each_file_is_its_part_and_the_line_that_is_no_row_is_left_out(adult: RunConfig, tmp_path: Path) -> None:
    dataset = load_dataset(adult.data, tmp_path, seed=0)
    assert [len(dataset.rows(part)) for part in ("train", "valid", "test")] == [12, 4, 4]
    train = dataset.events.source_rows[dataset.rows("train").numpy()]
    assert sorted(train) == list(range(12))


def test_labels_and_the_sampling_weight_are_no_inputs(adult: RunConfig, tmp_path: Path) -> None:
    layout = load_dataset(adult.data, tmp_path, seed=0).layout
    inputs = {*layout.query.categorical, *layout.query.numeric, *layout.item.categorical, *layout.item.numeric}
    assert not inputs & {"income", "marital_status", "never_married", "fnlwgt", "file"}
    assert {"age", "workclass", "relationship", "hours_per_week"} <= inputs
    assert len(inputs) == 12


def test_a_bad_line_is_an_error_when_it_is_not_to_be_dropped(adult: RunConfig, tmp_path: Path) -> None:
    strict = adult.data.model_copy(update={"on_bad_rows": "error"})
    with pytest.raises(DataError, match=r"adult\.test, line 1"):
        load_dataset(strict, tmp_path, seed=0)


def test_words_that_never_occur_are_refused_with_those_that_do(adult: RunConfig, tmp_path: Path) -> None:
    task = TaskSpec(name="income", equals=("rich",))
    with pytest.raises(DataError, match=r'no row of column "income" is "rich".*"<=50K", ">50K"'):
        load_dataset(adult.data.model_copy(update={"tasks": (task,)}), tmp_path, seed=0)


def test_a_missing_word_is_an_unobserved_label(tmp_path: Path) -> None:
    rows = "".join(f"{color},{part}\n" for color, part in [("red", "train"), ("", "train"), ("blue", "test")])
    (tmp_path / "events.csv").write_text("color,part\n" + rows)
    config = DataConfig.model_validate(
        {
            "events": "events.csv",
            "user": "",
            "item": "",
            "time": "",
            "tasks": [{"name": "red", "column": "color", "equals": ["red"]}],
            "split": {"kind": "column", "column": "part"},
        }
    )
    events = load_dataset(config, tmp_path, seed=0).events
    np.testing.assert_array_equal(events.mask[:, 0], [True, False, True])
    np.testing.assert_array_equal(events.labels[:, 0], [1, 0, 0])


def test_a_word_label_has_no_threshold() -> None:
    with pytest.raises(ValidationError, match="equals makes a binary label by itself"):
        TaskSpec(name="income", equals=(">50K",), at_least=1.0)
    with pytest.raises(ValidationError, match="equals makes a binary label by itself"):
        TaskSpec(name="income", equals=(">50K",), kind="regression")


def test_a_value_without_a_part_is_named(adult: RunConfig, tmp_path: Path) -> None:
    split = adult.data.split.model_copy(update={"parts": {"adult.data": "train", "other": "test"}})
    config = adult.data.model_copy(
        update={"split": split, "on_bad_rows": "error", "events": ("adult.data", "more.data")}
    )
    (tmp_path / "more.data").write_text("\n".join(PEOPLE) + "\n")
    with pytest.raises(DataError, match=r'column "file": found "more\.data", expected adult\.data or other'):
        load_dataset(config, tmp_path, seed=0)


def test_the_resolved_configuration_finds_the_same_files_from_elsewhere(adult: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "runs" / "adult").mkdir(parents=True)
    written = tmp_path / "runs" / "adult" / "config.toml"
    write_config(adult, tmp_path, written)
    again = load_config(written)
    assert again.data.events == ("../../adult.data", "../../adult.test")
    one, two = load_dataset(adult.data, tmp_path, seed=0), load_dataset(again.data, written.parent, seed=0)
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.events.labels, two.events.labels)


def test_one_file_with_a_header_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("a,y,part\n1,1,train\n2,0,test\n")
    config = DataConfig.model_validate(
        {
            "events": "events.csv",
            "user": "",
            "item": "",
            "time": "",
            "tasks": [{"name": "y"}],
            "features": [{"name": "a", "side": "context"}],
            "split": {"kind": "column", "column": "part"},
        }
    )
    assert load_dataset(config, tmp_path, seed=0).encoders.vocabularies["a"].values == ("1",)
