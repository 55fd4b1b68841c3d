"""Boosted trees that answer as a ranker does: rows of a batch in, a logit (or value) per task out.

Every task has trees of its own, `select` those of LambdaRank (Burges 2010), which start from the retriever's
log-probability as the network does: `z = t (log p + f(x))`, f the trees, t found on held-out requests, so that the
softmax of z over a request means what it says. The trees of `select` also read the retrievers' opinions and the other
tasks' logits. What is kept is LightGBM's own text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ...base.arrays import F32
from ...base.device import to_host
from ...base.errors import ConfigError, RunError
from ...base.package import install_hint
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ..ranker import Ranker
from ..requests import SELECT, RequestBatch, RequestRanker, SelectConfig
from .columns import Columns
from .settings import TreesConfig, TreeSettings

log = logging.getLogger(__name__)


@runtime_checkable
class Written(Protocol):
    """A part of a model that is kept as texts, beside the tensors of the whole."""

    def texts(self) -> dict[str, str]:
        """File name -> content."""

    def read_texts(self, texts: Mapping[str, str]) -> None:
        """Become the part whose `texts` these are."""


def written_parts(model: nn.Module) -> Iterator[Written]:
    """The parts of a model that are kept as texts, always in the same order."""
    return (module for module in model.modules() if isinstance(module, Written))


def lightgbm() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError(f"boosted trees need the package LightGBM; run {install_hint('trees')}") from error
    # It would print to stdout, where answers go.
    lightgbm.register_logger(log, info_method_name="debug", warning_method_name="debug")
    return lightgbm


class Forest(Ranker):
    """Trees for every task.

    Args:
        settings: how they are grown and what they read.
        layout: columns and vocabulary sizes of the batches.
        tasks: objectives on logged rows.
    """

    kind = "trees"
    paper = "Ke et al. NeurIPS 2017 (LightGBM); Burges 2010 (LambdaRank)"
    summary = "boosted trees for every task, LambdaRank for the listwise one"
    Config = TreesConfig
    shares_input = False

    def __init__(self, settings: TreeSettings, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        own = {name: getattr(settings, name) for name in TreeSettings.model_fields}
        super().__init__(TreesConfig.model_validate(own), layout, tasks)
        self.columns = Columns.of(layout, settings)
        self.trees: dict[str, Any] = {}
        """Task -> LightGBM's booster; a task without any says 0."""

    def values(self, table: F32) -> dict[str, F32]:
        """Rows of `columns` [R, F] -> task -> logit or value, float32 [R]."""
        return {task.name: predicted(self.trees.get(task.name), table) for task in self.tasks}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Ranker.forward`."""
        where = batch.item.categorical.device
        return {name: torch.from_numpy(told).to(where) for name, told in self.values(self.columns.table(batch)).items()}

    def shared_layer(self) -> list[nn.Parameter]:
        """None."""
        return []

    def texts(self) -> dict[str, str]:
        """The trees of each task, by its place."""
        return {
            f"{place:02d}.txt": self.trees[task.name].model_to_string()
            for place, task in enumerate(self.tasks)
            if task.name in self.trees
        }

    def read_texts(self, texts: Mapping[str, str]) -> None:
        """See `Written`."""
        of_place = {f"{place:02d}.txt": task.name for place, task in enumerate(self.tasks)}
        self.trees = {of_place[name]: booster(text) for name, text in texts.items() if name in of_place}


class RequestForest(RequestRanker):
    """Trees that also answer `select`.

    Args:
        ranker: trees of the tasks.
        num_features: opinions F per candidate.
        config: see `SelectConfig`.
    """

    def __init__(self, ranker: Forest, num_features: int, config: SelectConfig) -> None:
        nn.Module.__init__(self)
        self.ranker: Forest = ranker
        self.config = config
        self.num_features = num_features
        self.others = [task.name for task in ranker.tasks]
        self.select: Any = None
        self.scale = 1.0

    def table(self, requests: RequestBatch) -> tuple[F32, dict[str, F32]]:
        """What the trees of `select` read of R candidates, float32 [R, F], and the tasks' logits."""
        rows = self.ranker.columns.table(requests.batch)
        logits = self.ranker.values(rows)
        opinions = [to_host(requests.features), to_host(requests.prior)[:, None]]
        return np.concatenate([rows, *opinions, *(told[:, None] for told in logits.values())], axis=1), logits

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of `table`."""
        opinions = [f"opinion {place}" for place in range(self.num_features)]
        return (*self.ranker.columns.names, *opinions, "retriever", *(f"logit of {task}" for task in self.others))

    def forward(self, requests: RequestBatch) -> dict[str, Tensor]:
        """See `RequestRanker.forward`."""
        table, logits = self.table(requests)
        told = {**logits, SELECT: self.scale * (to_host(requests.prior) + predicted(self.select, table))}
        return {name: torch.from_numpy(values.astype(np.float32)).to(requests.prior) for name, values in told.items()}

    def texts(self) -> dict[str, str]:
        """The trees of `select`, and their scale."""
        trees = {} if self.select is None else {"select.txt": self.select.model_to_string()}
        return {**trees, "select.json": json.dumps({"scale": self.scale})}

    def read_texts(self, texts: Mapping[str, str]) -> None:
        """See `Written`."""
        self.select = booster(texts["select.txt"]) if "select.txt" in texts else None
        self.scale = float(json.loads(texts["select.json"])["scale"])


def build_forest(
    settings: TreeSettings, layout: Layout, tasks: Sequence[TaskSpec], num_features: int, select: SelectConfig
) -> tuple[nn.Module, Forest]:
    """Trees that have not grown yet, and around them those of `select` where there are opinions to read."""
    forest = Forest(settings, layout, tasks)
    return (RequestForest(forest, num_features, select), forest) if num_features else (forest, forest)


def booster(text: str) -> Any:
    """Trees from LightGBM's text.

    Raises:
        ConfigError: the package is not installed.
        RunError: the text holds no trees.
    """
    package = lightgbm()
    try:
        return package.Booster(model_str=text)
    except package.basic.LightGBMError as error:
        raise RunError(f"a file of boosted trees cannot be read ({error}); train the run again") from error


def predicted(trees: Any, table: F32) -> F32:
    """Sum of the leaves that each row of the table falls into, float32 [R]; 0 without trees."""
    if trees is None:
        return np.zeros(len(table), dtype=np.float32)
    return np.asarray(trees.predict(table, raw_score=True, num_threads=torch.get_num_threads()), dtype=np.float32)
