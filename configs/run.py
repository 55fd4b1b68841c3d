"""The whole configuration of a run: one TOML file, a section per part, each section's class beside what it configures.

Paths in a configuration are relative to the file they are written in. The resolved configuration, every key spelt
out, is written into the run, where it is itself a file that can be trained from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ..base.extensions import load, modules_of
from ..base.settings import Settings
from ..data.schema import DataConfig
from ..evaluation.config import EvaluationConfig
from ..ranking.blend import BlendConfig
from ..ranking.config import RankingConfig
from ..ranking.requests import SELECT
from ..retrieval.index.tuning import IndexConfig
from ..retrieval.seen import SeenConfig
from ..retrieval.towers.train import RetrievalConfig
from ..training.runtime import RuntimeConfig
from .extended import used_entries
from .file import dump_table, dump_toml, load_settings, overridden
from .final import EnsembleConfig, FinalConfig
from .retired import without_retired
from .rules import RulesConfig


class RunConfig(Settings):
    """Everything that decides a run."""

    extensions: tuple[str, ...] = ()
    """Modules of other packages that are imported first, for the rankers, losses, encoders, baselines, balances and
    sources that they add, e.g. `["my_package.rankers"]`. What an installed package adds by an entry point is found
    without being named, and named in the run that uses it."""
    name: str = Field(pattern=r"^\w[\w.-]*$")
    """Name of the run's folder; the configuration file's own name when left out."""
    seed: int = Field(default=0, ge=0)
    """Of everything random: splits, initial weights, batches, sampled negatives."""
    start: Literal["run", "rows"] = "run"
    """What a training takes from the run named with --from. `run`: all of it, as a new day goes on; `rows`: the
    embedding rows of values both know, copied as they are, and nothing else, as a stage of GemNN's chain does. A ranker
    with `frozen = true` takes its encoder instead."""
    data: DataConfig
    """Where the tables are and what their columns mean."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """The first stage: two towers, their loss, and how many candidates they hand on."""
    index: IndexConfig = IndexConfig()
    """How item vectors are searched."""
    ranking: RankingConfig = RankingConfig()
    """The second stage: which ranker, and how it is trained."""
    blend: BlendConfig = BlendConfig()
    """How the tasks' probabilities become one score."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """Several seeds, served as one model."""
    final: FinalConfig = FinalConfig()
    """A last fit on more rows, after the choice on validation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How runs are judged."""
    rules: RulesConfig = RulesConfig()
    """What a list must, must not and should hold beside the best items; the funnel is measured with it."""

    runtime: RuntimeConfig = RuntimeConfig()
    """How training and scoring use the machine."""

    def __str__(self) -> str:
        """As TOML, every key spelt out."""
        return dump_toml(self)

    @property
    def seen(self) -> SeenConfig:
        """What lists leave out as seen: by the last stage where it says so, else by retrieval."""
        return self.rules.seen or self.retrieval.seen

    @field_validator("extensions")
    @classmethod
    def _imported(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        load(named)  # before the sections, whose kinds they add
        return named

    @model_validator(mode="after")
    def _with_all_that_is_used(self) -> Self:
        needed = modules_of(used_entries(self), self.extensions)
        object.__setattr__(self, "extensions", needed)  # the model is frozen for others
        return self

    @field_validator("name")
    @classmethod
    def _not_the_pointer(cls, name: str) -> str:
        if name == "latest":
            raise ValueError('a run cannot be called "latest", which always points to the newest; choose another name')
        return name

    @model_validator(mode="after")
    def _towers_of_one_vector(self) -> Self:
        if self.ensemble.seeds > 1 and self.retrieval.tower.interests > 1:
            raise ValueError(
                f"ensemble.seeds = {self.ensemble.seeds} with retrieval.tower.interests = "
                f"{self.retrieval.tower.interests}: interests of several seeds have no common order; set one to 1"
            )
        return self

    @model_validator(mode="after")
    def _items_that_differ(self) -> Self:
        data, chosen = self.data, self.retrieval.tower.item_features
        read = [spec for spec in data.inputs("item") if chosen is None or spec.name in chosen]
        if data.user and read and all(spec.hash_buckets and spec.source == data.item for spec in read):
            raise ValueError(
                f'the item tower reads "{read[0].name}" alone, and ids in hash_buckets share rows: two items would '
                "have one vector; add another item feature, or give every id a row (hash_buckets = 0)"
            )
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        if self.retrieval.num_candidates < self.evaluation.list_k:
            raise ValueError(
                f"retrieval.num_candidates = {self.retrieval.num_candidates} is less than "
                f"evaluation.list_k = {self.evaluation.list_k}; a list cannot be longer than its candidates"
            )
        return self

    @model_validator(mode="after")
    def _one_width_for_plain_rows(self) -> Self:
        towers, ranker = self.retrieval.tower.dim, self.ranking.model.input.embedding_dim
        if self.ranking.warm_start and self.ranking.warm_start_rows == "plain" and towers != ranker:
            raise ValueError(
                f'ranking.warm_start_rows = "plain" copies embeddings as they are, and retrieval.tower.dim = {towers} '
                f"is not ranking.model.input.embedding_dim = {ranker}; give both one width"
            )
        return self

    @model_validator(mode="after")
    def _rows_to_choose_by(self) -> Self:
        split = self.data.split
        if split.kind not in ("time", "random") or split.valid > 0 or split.valid_from:
            return self
        chosen = {"ranking.fit.metric": self.ranking.fit.metric}
        if self.data.user and self.data.item:
            chosen["retrieval.fit.metric"] = self.retrieval.fit.metric
        if keys := [f'{key} = ""' for key, metric in chosen.items() if metric]:
            raise ValueError(
                f"data.split.valid = 0 leaves no rows to choose an epoch by; set {' and '.join(sorted(keys))}, so that "
                "the last epoch's weights are kept, or a share above 0"
            )
        if self.blend.search:
            raise ValueError("data.split.valid = 0 leaves no rows to search the blend on; set blend.search = false")
        return self

    @model_validator(mode="after")
    def _blend_of_tasks(self) -> Self:
        tasks = [task.name for task in self.data.tasks]
        if self.data.user and self.data.item and self.ranking.select.enabled:
            tasks.append(SELECT)
        asked = {"weights": list(self.blend.weights), "task": [self.blend.task] if self.blend.kind == "task" else []}
        for key, names in asked.items():
            for name in names:
                if name and name not in tasks:
                    close = difflib.get_close_matches(name, tasks, n=1)
                    hint = f'; did you mean "{close[0]}"?' if close else ""
                    raise ValueError(f'blend.{key} names "{name}", which is no task; tasks: {", ".join(tasks)}{hint}')
        return self


BASIC_KEYS = (
    "seed",
    "data.source",
    "data.path",
    "data.events",
    "data.items",
    "data.users",
    "data.user",
    "data.item",
    "data.time",
    "data.split.kind",
    "retrieval.positive",
    "retrieval.loss",
    "retrieval.proposers",
    "retrieval.num_candidates",
    "retrieval.tower.dim",
    "retrieval.tower.history.encoder",
    "retrieval.fit.epochs",
    "retrieval.optim.lr",
    "index.factory",
    "ranking.model.kind",
    "ranking.model.input.embedding_dim",
    "ranking.model.tower_hidden",
    "ranking.model.dropout",
    "ranking.batch_size",
    "ranking.fit.epochs",
    "ranking.optim.lr",
    "ranking.balance.kind",
    "ranking.calibration.kind",
    "blend.weights",
    "runtime.threads",
)
"""Keys that most runs change; the documentation shows them first and marks all others as advanced."""


def load_config(file: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a TOML file, overridden and validated.

    Args:
        file: the TOML file; paths in it are relative to its folder.
        overrides: `a.b.c=VALUE` each, as after `--set`.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    found = load_settings(RunConfig, file, overrides, defaults={"name": file.stem})
    return found.model_copy(update={"rules": found.rules.with_files(file.parent)})


def with_settings(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration with `a.b.c=VALUE` overrides on top, as after `--set`.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    return overridden(RunConfig, dump_table(config), overrides, "the configuration") if overrides else config


def load_kept_config(file: Path) -> RunConfig:
    """The resolved configuration that a run keeps, written by this version or an earlier one (`without_retired`).

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    return load_settings(RunConfig, file, prepare=without_retired)


def config_hash(config: Settings) -> str:
    """sha256 of every key, defaults included: equal for configurations that mean the same."""
    return hashlib.sha256(json.dumps(dump_table(config), sort_keys=True).encode()).hexdigest()


def write_config(config: RunConfig, base: Path, file: Path) -> None:
    """Write the resolved configuration, its paths made relative to the file's folder.

    Args:
        config: the configuration.
        base: folder its paths are relative to now.
        file: TOML file to write.
    """
    moved = config.data.relocated(lambda path: os.path.relpath(base / path, file.parent))
    here = config.model_copy(update={"data": moved})
    file.write_text(dump_toml(here), encoding="utf-8")
