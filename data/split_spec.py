"""How rows are parted into train, validation and test: the section `[data.split]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ..base.settings import Settings

ORDERED_SPLITS = ("time", "leave_last")
"""Splits under which a user's held-out events are later than those trained on."""


class SplitSpec(Settings):
    """How rows are parted into train, validation and test."""

    kind: Literal["time", "leave_last", "random", "column"] = "time"
    """`time`: two cuts for everybody (the default: it is what a deployed model meets); `leave_last`: each user's last
    event is test and the one before validation; `random`: by row; `column`: a column names the part of each row."""
    valid_from: str = ""
    """Start of validation for `time`: epoch seconds or an ISO date; empty: the quantile `1 - valid - test`."""
    test_from: str = ""
    """Start of test for `time`: epoch seconds or an ISO date; empty: the quantile `1 - test`."""
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of rows for validation (`time` without dates, `random`)."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of rows for test (`time` without dates, `random`)."""
    column: str = ""
    """For `column`: the column whose values are `train`, `valid`, `test`, or are explained by `parts`. `file` is the
    name of each row's file where `data.events` lists several."""
    parts: dict[str, Literal["train", "valid", "test"]] = {}
    """For `column`: the part each value stands for, e.g. `{ "adult.data" = "train", "adult.test" = "test" }`."""
    halve_test: bool = False
    """For `column`: no value says `valid`; half of the test rows, drawn with the seed, become validation."""
    stratify: str = ""
    """For `random` and `halve_test`: rows are drawn within each value of this column."""

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave no rows to train on; lower one")
        return self
