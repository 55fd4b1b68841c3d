"""Which columns of the events are objectives, and how each becomes a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...base.errors import ConfigError
from ..schema import TaskSpec
from .names import (
    BEFORE_WORDS,
    LABEL_WORDS,
    NEGATIVE_ANSWERS,
    NEGATIVE_WORDS,
    POSITIVE_ANSWERS,
    RATING_WORDS,
    STRENGTH,
    TYPE_NAMES,
    plain,
    says,
    words_of,
)
from .summary import ColumnSummary, Summaries

_FEW_GRADES = 21
_NESTED_POSITIVES = 20
"""Fewest positives of a task before it counts as a step after another one."""


@dataclass(kw_only=True)
class Labels:
    """The tasks of a log.

    Attributes:
        tasks: the likeliest first, so that a step comes after the one it needs.
        reasons: task -> why it is one.
        positive: task whose label makes an event a positive of retrieval; empty: every event is one.
        unwanted: tasks that speak against an item, such as `hide`.
        graded: columns that say more than their task does and so describe past events.
        notes: a sentence about each decision.
    """

    tasks: list[TaskSpec] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    positive: str = ""
    unwanted: list[str] = field(default_factory=list)
    graded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, task: TaskSpec, reason: str) -> None:
        """One more task."""
        self.tasks.append(task)
        self.reasons[task.name] = reason
        self.notes.append(f'task "{task.name}": {reason}')


def infer_labels(events: Summaries, roles: set[str], asked: Sequence[str] | None) -> Labels:
    """The tasks, found or asked for.

    Args:
        events: columns of the events.
        roles: columns that are ids or times.
        asked: names of columns, or of tasks found in graded columns; None to take every clear one; empty for none.

    Raises:
        ConfigError: an asked task is no column, or several columns are equally likely.
    """
    columns = {name: column for name, column in events.items() if name not in roles}
    labels = Labels()
    exposures = _asked(columns, list(asked), labels) if asked is not None else _clear(columns, labels)
    labels.unwanted = [task.name for task in labels.tasks if says(task.name, NEGATIVE_WORDS)]
    wanted = [name for name in exposures if name not in labels.unwanted]
    if asked is None:
        wanted.sort(key=lambda name: -_positives(_task(labels, name), columns))
        labels.tasks.sort(key=lambda task: (task.name in labels.unwanted, -_positives(task, columns), task.name))
        _drop_echoes(labels, columns)
    if wanted:
        labels.positive = wanted[0]
    _nest(labels, columns)
    return labels


def _clear(columns: Summaries, labels: Labels) -> list[str]:
    """Add the tasks that need no asking; the names of those whose rows are exposures rather than interactions."""
    flags = sorted(name for name, column in columns.items() if _two_valued(column))
    named = [name for name in flags if says(name, LABEL_WORDS | NEGATIVE_WORDS)]
    exposures = []
    for name in named:
        _add_flag(labels, columns[name])
        exposures.append(name)
    ratings = sorted(name for name in columns if says(name, RATING_WORDS) and _graded(columns[name]))
    kinds = sorted(name for name in columns if plain(name) in TYPE_NAMES and _kinds(columns[name]))
    if len(ratings) > 1:
        exact = [name for name in ratings if plain(name) in RATING_WORDS]
        if len(exact) != 1:
            raise ConfigError(f"{', '.join(ratings)} may each be the rating; name the tasks with tasks= (--task NAME)")
        ratings = exact
    for name in ratings:
        _add_rating(labels, columns[name], "like" if "like" not in named else f"good_{name}")
    for name in kinds[:1]:
        exposures += _add_kinds(labels, columns[name], None)
    open_ = [name for name in flags if name not in named and not says(name, BEFORE_WORDS) and columns[name].flagged]
    if labels.tasks:
        for name in open_:
            labels.notes.append(f'"{name}" is 0 or 1 and no task; --task {name} would make it one')
    elif len(open_) == 1:
        _add_flag(labels, columns[open_[0]])
        exposures.append(open_[0])
    elif open_:
        raise ConfigError(
            f"{', '.join(open_)} are all 0 or 1, and no name says which of them is to be predicted; name the tasks "
            "with tasks= (--task NAME), or none with tasks=[]"
        )
    return exposures


def _asked(columns: Summaries, asked: list[str], labels: Labels) -> list[str]:
    exposures = []
    for name in asked:
        column = columns.get(name)
        if column is None and name.partition("=")[0] in columns:
            exposures.append(_add_word(labels, columns[name.partition("=")[0]], name.partition("=")[2]))
        elif column is None:
            exposures += _derived(columns, name, labels)
        elif _two_valued(column):
            _add_flag(labels, column)
            exposures.append(name)
        elif column.kind == "number" and (_graded(column) or says(name, RATING_WORDS)):
            _add_rating(labels, column, name)
        elif column.kind == "number":
            spec = TaskSpec(name=name, kind="regression", log1p=bool(column.known.min() >= 0))
            labels.add(spec, f"a number between {column.known.min():g} and {column.known.max():g}: regression")
        elif _kinds(column):
            exposures += _add_kinds(labels, column, None)
        else:
            raise ConfigError(
                f'the task "{name}" is a column of {column.distinct:,} different texts; say which one is 1, such as '
                f'"{name}={next(iter(column.counts), "")}"'
            )
    return exposures


def _add_word(labels: Labels, column: ColumnSummary, word: str) -> str:
    """The task that is 1 where a column holds one word; its name."""
    spelled = tuple(sorted(str(value) for value in column.counts if str(value).strip() == word.strip()))
    if not spelled:
        raise ConfigError(
            f'no row of "{column.name}" is "{word}"; it holds {", ".join(map(str, list(column.counts)[:8]))}'
        )
    spec = TaskSpec(name=_task_name(word), column=column.name, equals=spelled)
    labels.add(spec, f'"{column.name}" is "{word}"; {_rate(column, lambda value: value in spelled):.2%} are')
    return spec.name


def _derived(columns: Summaries, name: str, labels: Labels) -> list[str]:
    """A task whose name is no column: `like` of a rating, or a word of a column of event kinds."""
    for other in sorted(columns):
        if plain(other) in TYPE_NAMES and any(_task_name(str(value)) == name for value in _kinds(columns[other])):
            return _add_kinds(labels, columns[other], name)
    ratings = sorted(other for other in columns if says(other, RATING_WORDS) and _graded(columns[other]))
    if name in ("like", "liked") and len(ratings) == 1:
        _add_rating(labels, columns[ratings[0]], name)
        return []
    raise ConfigError(
        f'the task "{name}" is no column of the events; name one of {", ".join(sorted(columns)) or "no columns"}'
    )


def _add_flag(labels: Labels, column: ColumnSummary) -> None:
    if column.flagged:
        rate = _rate(column, lambda value: str(value).strip().lower() in ("1", "1.0", "true"))
        labels.add(TaskSpec(name=column.name), f"0 or 1; {rate:.2%} are 1")
        return
    if column.kind == "number":
        high = float(column.known.max())
        rate = float((column.known >= high).mean())
        labels.add(TaskSpec(name=column.name, at_least=high), f"two numbers; {rate:.2%} are {high:g}")
        return
    values = [str(value) for value in column.counts]
    answers = tuple(sorted(value for value in values if plain(value) in POSITIVE_ANSWERS))
    if not answers:
        answers = (values[-1],)  # the rarer word is what happens
    rate = _rate(column, lambda value: value in answers)
    labels.add(TaskSpec(name=column.name, equals=answers), f'two words; {rate:.2%} are "{answers[0].strip()}"')


def _add_rating(labels: Labels, column: ColumnSummary, name: str) -> None:
    grades = sorted(set(column.known.tolist()))
    threshold = next((grade for grade in grades if grade >= 0.75 * grades[-1]), grades[-1])
    rate = float((column.known >= threshold).mean())
    if not 0.02 < rate < 0.98:
        threshold = max(float(np.median(column.known)), grades[1])
        rate = float((column.known >= threshold).mean())
    labels.add(
        TaskSpec(name=name, column="" if name == column.name else column.name, at_least=threshold),
        f'"{column.name}" of {grades[0]:g} to {grades[-1]:g} is at least {threshold:g}; {rate:.2%} are',
    )
    labels.graded.append(column.name)


def _add_kinds(labels: Labels, column: ColumnSummary, only: str | None) -> list[str]:
    """Tasks from a column of event kinds: every kind stronger than the weakest, or the one that is asked for."""
    kinds = _kinds(column)
    levels = {value: STRENGTH[plain(value)] for value in kinds}
    least = min(levels.values())
    if only is not None:
        kinds = [value for value in kinds if _task_name(value) == only]
    shown_only = least == 0
    names = []
    for value in sorted(kinds, key=lambda value: levels[value]):
        if levels[value] > least or only is not None:
            rate = _rate(column, lambda other, value=value: other == value)  # type: ignore[misc]
            spec = TaskSpec(name=_task_name(value), column=column.name, equals=(value,))
            labels.add(spec, f'"{column.name}" is "{value}"; {rate:.2%} are')
            names.append(spec.name)
    labels.graded.append(column.name)
    return names if shown_only else []


def _drop_echoes(labels: Labels, columns: Summaries) -> None:
    """Take out the tasks that nobody asked for and that say in every row what an earlier one says."""
    said: dict[str, NDArray[np.float32]] = {}
    for task in list(labels.tasks):
        values = label_of(task, columns)
        same = next((name for name, other in said.items() if np.array_equal(values, other, equal_nan=True)), "")
        if not same or labels.positive == task.name:
            said[task.name] = values
            continue
        labels.tasks.remove(task)
        labels.notes.remove(f'task "{task.name}": {labels.reasons.pop(task.name)}')
        labels.notes.append(f'task "{task.name}" is left out: in every row it is what "{same}" is')


def _nest(labels: Labels, columns: Summaries) -> None:
    """Tasks that are never 1 where another one is 0 are steps after it: they mean something only where it is 1."""
    plain_flags = {task.name for task in labels.tasks if not (task.column or task.equals or task.at_least)}
    values = {
        name: columns[name].numbers > 0
        for name in plain_flags
        if columns[name].kind in ("number", "flag") and not columns[name].missing
    }
    for place, task in enumerate(labels.tasks):
        if task.name not in values or values[task.name].sum() < _NESTED_POSITIVES:
            continue
        earlier = [
            other.name
            for other in labels.tasks[:place]
            if other.name in values
            and values[other.name].sum() > values[task.name].sum()
            and not (values[task.name] & ~values[other.name]).any()
        ]
        if earlier:
            gate = min(earlier, key=lambda name: (int(values[name].sum()), name))
            labels.tasks[place] = task.model_copy(update={"where": gate})
            labels.notes.append(f'"{task.name}" is 1 only where "{gate}" is: it is learned on those rows')


def _two_valued(column: ColumnSummary) -> bool:
    """Whether a column has two values that can be a label: 0 and 1, yes and no, or two of anything with a label's
    name.
    """
    if column.flagged:
        return True
    if column.distinct != 2 or column.kind not in ("number", "text"):
        return False
    if column.kind == "text" and {plain(str(value)) for value in column.counts} <= POSITIVE_ANSWERS | NEGATIVE_ANSWERS:
        return True
    return column.kind == "text" or bool(column.whole)


def _graded(column: ColumnSummary) -> bool:
    """Whether the numbers may be grades: a few of them, none below 0, none above 100."""
    return (
        column.kind == "number"
        and 3 <= column.distinct <= _FEW_GRADES
        and float(column.known.min()) >= 0
        and float(column.known.max()) <= 100
    )


def _kinds(column: ColumnSummary) -> list[str]:
    """The values of a column of event kinds that are known by name; none unless two are."""
    if column.kind != "text" or not 2 <= column.distinct <= 50:
        return []
    known = [str(value) for value in column.counts if plain(str(value)) in STRENGTH]
    return sorted(known) if len({STRENGTH[plain(value)] for value in known}) >= 2 else []


def _task_name(value: str) -> str:
    return "_".join(words_of(value)) or plain(value)


def _rate(column: ColumnSummary, positive: Callable[[object], bool]) -> float:
    """Share of the rows with a value whose value is positive."""
    there = column.rows - column.missing
    return sum(count for value, count in column.counts.items() if positive(value)) / max(there, 1)


def _task(labels: Labels, name: str) -> TaskSpec:
    return next(task for task in labels.tasks if task.name == name)


def _positives(task: TaskSpec, columns: Summaries) -> float:
    """Share of rows with label 1."""
    column = columns[task.source]
    if task.equals:
        return _rate(column, lambda value: value in task.equals)
    if task.at_least is not None:
        return float((column.known >= task.at_least).mean())
    return _rate(column, lambda value: str(value).strip().lower() in ("1", "1.0", "true"))


def label_of(task: TaskSpec, log: Summaries) -> NDArray[np.float32]:
    """A binary label as float32 [rows], NaN where there is none; all NaN for a regression."""
    column = log[task.source]
    if task.kind == "regression":
        return np.full(column.rows, np.nan, np.float32)
    if task.equals:
        values = [None if value is None else float(value in task.equals) for value in column.values.to_pylist()]
        return np.array(values, dtype=np.float32)
    if column.kind == "text":  # true and false
        answers = {"true": 1.0, "false": 0.0}
        texts = column.values.to_pylist()
        return np.array([np.nan if t is None else answers[t.strip().lower()] for t in texts], dtype=np.float32)
    threshold = 1.0 if task.at_least is None else task.at_least
    return np.where(np.isnan(column.numbers), np.nan, column.numbers >= threshold).astype(np.float32)
