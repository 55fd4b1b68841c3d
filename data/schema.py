"""What the columns mean: features with their side and kind, tasks with their sample space, counts, splits.

This is the `[data]` section of a run's configuration. It names columns and never sizes: vocabularies, bin edges
and counts are learned from the training part of the data.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import cached_property
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ..base.memory import available_memory, bytes_of
from ..base.settings import Settings, known_name
from .derived_spec import DerivedSpec
from .feature_spec import FeatureSpec, Side
from .notation import Notation
from .reading.sources import FILES, SOURCES
from .split_spec import ORDERED_SPLITS, SplitSpec

TableName = Literal["events", "users", "items"]


class TaskSpec(Settings):
    """One objective: a label column, its kind, and the rows on which it means something."""

    name: str
    """How the task is called in losses, metrics and answers."""
    column: str = ""
    """Label column of the events; the task's own name when empty."""
    kind: Literal["binary", "regression"] = "binary"
    """`binary` labels are 0 or 1 (see `at_least`); `regression` labels are any number."""
    at_least: float | None = None
    """Turns a graded column into a binary label: 1 where the value is at least this."""
    equals: tuple[str, ...] = ()
    """Turns a column of words into a binary label: 1 where the value is one of these, 0 at every other word."""
    log1p: bool = False
    """Regress on log(1 + label): for durations and amounts."""
    where: str = ""
    """Sample space: an earlier binary task that must be 1 for this label to exist. Empty: every row."""
    scene: str = ""
    """Sample space by routing: `column=value` of a context feature; rows of other scenes are masked."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the task's loss."""
    weight_column: str = ""
    """Event column with the weight that each row has in this task's loss alone, such as the seconds watched: it
    multiplies `data.weight` and `data.weights`. A row without a value does not count for the task."""

    @property
    def source(self) -> str:
        """Column the label is read from."""
        return self.column or self.name

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if self.equals and (self.at_least is not None or self.kind != "binary"):
            raise ValueError(f'task "{self.name}": equals makes a binary label by itself; leave at_least and kind out')
        return self


class CountSpec(Settings):
    """As-of statistics of a key: how many rows it has had, and the smoothed rate of each task among them.

    Training rows count strictly earlier rows only; later parts see the counts frozen at the end of training, and
    requests that are answered now those of the whole log.
    """

    keys: tuple[str, ...] = Field(min_length=1, max_length=2)
    """One or two categorical features, e.g. `["user_id", "tab"]`."""
    tasks: tuple[str, ...] = ()
    """Binary tasks whose rate is kept; the number of rows always is."""
    smoothing: float = Field(default=20.0, gt=0)
    """Rows of the overall rate mixed into each key's rate."""
    bins: int = Field(default=16, ge=1)
    """Buckets of each statistic, besides the one of its most frequent value."""
    scale: Literal["log", "standard", "equal_frequency"] = "log"
    """How each statistic is also fed as a number, as for numeric features."""

    @property
    def name(self) -> str:
        """Feature-name prefix, e.g. `user_id*tab`."""
        return "*".join(self.keys)


class WeightRule(Settings):
    """A training weight for the rows in which a column is one of some values, or lies between two numbers."""

    column: str
    """Column of the events. What happened may decide too: a weight is no input of the models."""
    equals: tuple[str, ...] = ()
    """Rows in which it is one of these."""
    at_least: float | None = None
    """Rows in which it is a number of at least this."""
    below: float | None = None
    """Rows in which it is a number below this."""
    weight: float = Field(ge=0, allow_inf_nan=False)
    """Factor on the weight of these rows; rows without a value keep theirs."""

    @model_validator(mode="after")
    def _one_kind_of_condition(self) -> Self:
        between = self.at_least is not None or self.below is not None
        if bool(self.equals) == between:
            raise ValueError(f'weights of "{self.column}": set either equals, or at_least and below')
        return self


class DataConfig(Settings):
    """Where the tables are and what their columns mean."""

    source: str = FILES
    """`files`: CSV or Parquet tables; `movielens`, `census` and `kuairand` read a public data set's official layout.
    Extensions add others."""
    path: str = ""
    """Zip or folder of a public data set, relative to the configuration file."""
    events: str | tuple[str, ...] = ""
    """Event table for `files` (text such as CSV, Parquet or Feather; each may be compressed), relative to the
    configuration file; also a folder of Parquet files, or `sql:SELECT ...`. A list of files is read as one table, with
    their names in a column `file`."""
    database: str = ""
    """What answers `sql:`: `duckdb:FILE`, an address of SQLAlchemy, or `env:NAME`, a variable with one of these."""
    header: tuple[str, ...] | dict[TableName, tuple[str, ...]] = ()
    """Column names of text event files that have no header line; of other tables too as
    `{ events = ["a", "b"], items = ["c", "d"] }`."""
    delimiter: str | dict[TableName, str] = ""
    """Between the values of text files, where a file's first line has it; found from the first lines when empty.
    Several characters, such as `, ` or `::`, are allowed where values are never quoted. By table:
    `{ events = "\\t", items = "|" }`."""
    encoding: str | dict[TableName, str] = "utf-8"
    """Of text files that begin with no byte order mark, such as `latin-1` or `utf-16-le`; by table:
    `{ items = "latin-1" }`."""
    decimal: Literal[".", ","] = "."
    """What stands before the decimals of numbers in text files: with a comma, "3,5" is three and a half."""
    missing: tuple[str, ...] = ()
    """Texts that stand for nothing, in every column of text: `["NA", "null", "-"]`. An empty text always does."""
    time_format: str = ""
    """How times are written in text, in the directives of Python's `strptime`: `%d.%m.%Y %H:%M`. ISO dates are read
    without it, and beside it."""
    time_zone: str = ""
    """Zone of the times that name none, such as `Europe/Berlin`; UTC when empty. Numbers count from 1970 UTC anyway."""
    users: str = ""
    """User table for `files`; may be absent."""
    items: str = ""
    """Item table for `files`; may be absent."""
    options: dict[str, str | int | float | bool] = {}
    """Passed to the reader of another source, e.g. `{ include_statistics = true }`."""
    user: str = "user_id"
    """Column of user ids in events and users. Empty: rows have no user (ranking only)."""
    item: str = "item_id"
    """Column of item ids in events and items. Empty: rows have no item (ranking only)."""
    time: str = "timestamp"
    """Column of event times: epoch seconds or milliseconds, or ISO dates. Empty: file order."""
    title: str = ""
    """Item column shown to people."""
    attributes: tuple[str, ...] = ()
    """Columns of the item table kept with the run, beside id, title and item features, so that `recsys recommend
    --where` can ask about them."""
    weight: str = ""
    """Event column with a training weight per row."""
    weights: tuple[WeightRule, ...] = ()
    """Conditions on columns and the weight of the rows that meet them; of several that a row meets, and of `weight`,
    the product counts."""
    propensity: str = ""
    """Event column with the logging policy's probability of the exposure, for off-policy estimates."""
    scale: Literal["log", "standard", "equal_frequency"] = "log"
    """How numeric features and counts that name no `scale` of their own are fed as numbers."""
    features: tuple[FeatureSpec, ...] = ()
    """Inputs of the models."""
    tasks: tuple[TaskSpec, ...] = ()
    """Objectives of the ranker."""
    derived: tuple[DerivedSpec, ...] = ()
    """Inputs of the ranker that are computed from columns and from the moment."""
    counts: tuple[CountSpec, ...] = ()
    """As-of statistics fed as numeric features."""
    split: SplitSpec = SplitSpec()
    """How rows are parted."""
    memory: str = ""
    """Memory that building the data set may take, such as `3GB` or `500MB`; half of what is free when empty. A log that
    needs more is built column by column in files of the folder for temporary files (`TMPDIR`), with the same result."""
    workers: int = Field(default=0, ge=0)
    """Counts that are worked out at the same time, with the same result; each takes memory of its own. 0: as many as
    there are cores, at most four, and one at a time where the log does not fit into `memory`."""
    on_bad_rows: Literal["error", "drop"] = "error"
    """`drop` leaves bad rows out, counts them and writes them beside the run."""

    @field_validator("source")
    @classmethod
    def _there_is(cls, source: str) -> str:
        return source if source == FILES or SOURCES.find(source) else known_name(source, [FILES, *SOURCES])

    @field_validator("memory")
    @classmethod
    def _a_size(cls, given: str) -> str:
        if given:
            bytes_of(given)
        return given

    @field_validator("delimiter")
    @classmethod
    def _tab_as_written(cls, given: str | dict[TableName, str]) -> str | dict[TableName, str]:
        """In a literal string of TOML a tab is the two characters that stand for it."""
        if isinstance(given, str):
            return given.replace("\\t", "\t")
        return {table: one.replace("\\t", "\t") for table, one in given.items()}

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, given: str | dict[TableName, str]) -> str | dict[TableName, str]:
        for name in [given] if isinstance(given, str) else given.values():
            try:
                codecs.lookup(name)
            except LookupError:
                raise ValueError(f'"{name}" is no encoding; expected such as utf-8, latin-1, cp1252, gb18030') from None
        return given

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, given: str) -> str:
        try:
            _ = ZoneInfo(given) if given else None
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'"{given}" is no time zone; expected a name such as Europe/Berlin or UTC') from None
        return given

    @field_validator("time_format")
    @classmethod
    def _format(cls, given: str) -> str:
        if given and ("%" not in given or ("%d" not in given and "%j" not in given)):
            raise ValueError(f'"{given}" is no format of times; expected directives such as %d.%m.%Y %H:%M')
        return given

    @field_validator("features", "tasks", "derived")
    @classmethod
    def _unique(cls, specs: tuple[FeatureSpec | TaskSpec | DerivedSpec, ...]) -> object:
        names = [spec.name for spec in specs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"declared twice: {', '.join(twice)}; names must differ")
        return specs

    @field_validator("features", "counts")
    @classmethod
    def _scaled(
        cls, specs: tuple[FeatureSpec, ...] | tuple[CountSpec, ...], info: ValidationInfo
    ) -> tuple[FeatureSpec | CountSpec, ...]:
        """Numbers that name no scale take the section's: a file that extends another need not list them again."""
        scale = info.data.get("scale", "log")
        return tuple(
            spec
            if "scale" in spec.model_fields_set or (isinstance(spec, FeatureSpec) and spec.kind != "numeric")
            else spec.model_copy(update={"scale": scale})
            for spec in specs
        )

    @model_validator(mode="after")
    def _used_scale(self) -> Self:
        fed = [*(spec.scale for spec in self.features if spec.kind == "numeric"), *(spec.scale for spec in self.counts)]
        if self.scale != "log" and self.scale not in fed:
            raise ValueError(
                f'scale = "{self.scale}" is the scale of no number: each numeric feature and count names its own; '
                "take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _references(self) -> Self:
        features = {spec.name: spec for spec in self.features}
        tasks = [spec.name for spec in self.tasks]
        labels = {task.source for task in self.tasks}
        for spec in self.features:
            if spec.side == "context" and spec.source in labels and not spec.after_event:
                raise ValueError(
                    f'feature "{spec.name}" reads the label column "{spec.source}" of its own row; '
                    "remove it, or set after_event = true to describe past events with it"
                )
            if spec.side != "context" and spec.kind != "sequence" and not getattr(self, spec.side):
                raise ValueError(
                    f'feature "{spec.name}" is of the {spec.side}, but data.{spec.side} is empty; '
                    f'name the column of {spec.side} ids, or set side = "context"'
                )
            for name in spec.of:
                if name not in features or features[name].side != "item" or features[name].kind != "categorical":
                    raise ValueError(f'sequence "{spec.name}": of = "{name}" is no categorical item feature')
                if features[name].hashes > 1:
                    raise ValueError(f'sequence "{spec.name}": of = "{name}" has hashes = 2; name a feature of one row')
            if strange := sorted(set(spec.matches) - set(spec.of)):
                raise ValueError(f'sequence "{spec.name}": matches {strange} must be among of = {list(spec.of)}')
            for name in spec.properties:
                if name != "gap" and name not in tasks:
                    raise ValueError(f'sequence "{spec.name}": property "{name}" is neither "gap" nor a task')
            if spec.shared_with:
                self._shares(spec, features.get(spec.shared_with))
            if spec.where and spec.where not in tasks:
                raise ValueError(f'sequence "{spec.name}": where = "{spec.where}" is no task; tasks: {tasks}')
        for position, task in enumerate(self.tasks):
            if task.where and task.where not in tasks[:position]:
                raise ValueError(f'task "{task.name}": where = "{task.where}" must be an earlier task')
        for derived in self.derived:
            self._derives(derived)
        for name in self.attributes:
            if name in features and features[name].side == "item" and features[name].kind != "vector":
                raise ValueError(f'attributes: "{name}" is an item feature, so it is kept already; leave it out')
        for count in self.counts:
            for key in count.keys:
                if key not in features or features[key].kind != "categorical":
                    raise ValueError(f'counts {count.name}: "{key}" is no categorical feature')
                if features[key].after_event:
                    raise ValueError(f'counts {count.name}: "{key}" is known only after the event; count by another')
            for task_name in count.tasks:
                if task_name not in tasks:
                    raise ValueError(f'counts {count.name}: "{task_name}" is no task; tasks: {tasks}')
        return self

    def _shares(self, spec: FeatureSpec, other: FeatureSpec | None) -> None:
        """Refuse a feature that shares the table of one that has none of its own."""
        tables = ("categorical", "multi")
        if spec.hashes > 1 or (other is not None and other.hashes > 1):
            raise ValueError(f'feature "{spec.name}": a feature with hashes = 2 shares no table')
        if spec.kind not in tables or other is None or other.kind not in tables or other.shared_with or other is spec:
            raise ValueError(
                f'feature "{spec.name}": shared_with = "{spec.shared_with}" is for two categorical or multi features; '
                "the named one has a table of its own"
            )

    def _derives(self, spec: DerivedSpec) -> None:
        """Refuse a derived feature whose inputs are not there, or are known only after the event."""
        about = f'derived "{spec.name}"'
        if spec.name in {feature.name for feature in self.features}:
            raise ValueError(f"{about}: a feature has this name too; names must differ")
        after = {task.source for task in self.tasks} | {f.source for f in self.features if f.after_event}
        for side, column in spec.sources:
            if side != "context" and not getattr(self, side):
                raise ValueError(f"{about} reads a column of the {side}, but data.{side} is empty")
            if side == "context" and column in after:
                raise ValueError(f'{about} reads "{column}", which is known only after the event; read another column')
        at_moment = spec.kind == "since" or not spec.inputs
        if at_moment and not self.time:
            raise ValueError(f"{about}: {spec.kind} asks for the moment, but data.time is empty; name the time column")
        if spec.kind == "since" and not spec.inputs and (not self.user or self.split.kind not in ORDERED_SPLITS):
            raise ValueError(
                f"{about}: since the user's row before asks for data.user and a split in time "
                f'({" or ".join(ORDERED_SPLITS)}); found split "{self.split.kind}"'
            )

    @property
    def notation(self) -> Notation:
        """How the texts of the tables are written."""
        return Notation(self.decimal, self.time_format, self.time_zone, self.missing)

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes; without it half of what is free."""
        return bytes_of(self.memory) if self.memory else available_memory() // 2

    @cached_property
    def shared(self) -> dict[str, str]:
        """Feature -> the other feature whose vocabulary and embeddings it has."""
        return {spec.name: spec.shared_with for spec in self.features if spec.shared_with}

    def relocated(self, change: Callable[[str], str]) -> DataConfig:
        """The same section with every path that is not empty changed; a query is no path."""
        names = (self.events,) if isinstance(self.events, str) else self.events
        moved = tuple(one if not one or one.startswith("sql:") else change(one) for one in names)
        paths: dict[str, object] = {"events": moved[0] if isinstance(self.events, str) else moved}
        given = {n: p for n in ("path", "users", "items") if (p := getattr(self, n)) and not p.startswith("sql:")}
        paths.update({name: change(path) for name, path in given.items()})
        paths["features"] = tuple(
            f.model_copy(update={"pretrained": change(f.pretrained)}) if f.pretrained else f for f in self.features
        )
        return self.model_copy(update=paths)

    def inputs(self, side: Side) -> tuple[FeatureSpec, ...]:
        """Features of a side that describe its rows; sequences and what is known only after the event are none."""
        return tuple(s for s in self.features if s.side == side and s.kind != "sequence" and not s.after_event)

    def feature(self, name: str) -> FeatureSpec:
        """The feature called `name` (KeyError if there is none)."""
        return {spec.name: spec for spec in self.features}[name]
