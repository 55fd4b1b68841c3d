"""What a training will hold in memory, before it holds it: by part, beside what is free, with the setting that helps.

The sums are arithmetic on the sizes of the data at hand; code, batches and the allocator's leavings come on top
(`REST`). What is held for as long as a training lasts is counted, not what passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..base import ranks
from ..base.errors import RunError
from ..base.memory import free_memory
from ..configs.run import RunConfig
from ..data.batch import SideLayout
from ..data.dataset import Dataset
from ..data.feature_spec import FeatureSpec
from ..data.parts import Parts
from ..data.split import Part
from ..funnel.run import companion_names
from ..ranking.trees.columns import Columns
from ..ranking.trees.settings import TreesConfig
from ..report.values import gigabytes

Stages = Literal["retrieval", "ranking", "all"]
FLOAT = 4
MOMENTS = {"adam": 2.0, "rowwise_adagrad": 0.0}
"""Numbers that an optimiser keeps for each number of a table; `rowwise_adagrad` keeps one a row instead."""
REST = 0.15
"""Share on top of the sum: batches, activations, fragments."""


@dataclass(frozen=True)
class Lying:
    """How a machine's processes hold vocabularies.

    Attributes:
        processes: of this training on this machine.
        pieces: of a vocabulary, over all machines; 1 where every process holds it whole.
        smallest: rows of the smallest vocabulary that lies in pieces.
    """

    processes: int = 1
    pieces: int = 1
    smallest: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> Lying:
        """Of this training."""
        spread = config.runtime.engine == "torchrec" and ranks.world() > 1
        return cls(ranks.beside(), ranks.world() if spread else 1, config.runtime.shard_from)

    def rows(self, sizes: Iterable[int]) -> float:
        """Rows of vocabularies of these sizes that this machine holds."""
        return self.processes * sum(rows / self.pieces if rows >= self.smallest else rows for rows in sizes)


@dataclass(frozen=True)
class Table:
    """The embedding tables of one stage.

    Attributes:
        stage: `retrieval` or `ranking`.
        sizes: rows of each vocabulary.
        width: numbers of a row.
        optimizer: `[...optim] table_optimizer`.
        copies: how often weights and moments are held: for what is trained, and for the best epoch so far.
        lying: how the processes of this machine hold them.
    """

    stage: str
    sizes: dict[str, int]
    width: int
    optimizer: str
    copies: int
    lying: Lying

    @property
    def rows(self) -> int:
        """Of all vocabularies."""
        return sum(self.sizes.values())

    def bytes(self, optimizer: str = "", rows: int | None = None) -> int:
        """Weights and moments, and their copies."""
        kind = optimizer or self.optimizer
        held = self.lying.rows(self.sizes.values() if rows is None else [rows])
        numbers = held * (self.width * (1 + MOMENTS[kind]) + (kind == "rowwise_adagrad"))
        return int(numbers * FLOAT * self.copies)

    def at_rest(self, dtype: str) -> int:
        """Weights alone in a run folder and when served."""
        return int(self.rows * {"float32": self.width * 4, "float16": self.width * 2, "int8": self.width + 4}[dtype])


@dataclass(frozen=True)
class Holding:
    """One part of what a training holds: its name, its bytes, and what it is made of in words."""

    name: str
    bytes: int
    made_of: str


@dataclass(frozen=True)
class Remedy:
    """A setting, and the bytes that it would save."""

    setting: str
    bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a training will hold.

    Attributes:
        holdings: by part, the data set first.
        tables: embedding tables of the stages.
        remedies: settings that save, the most first.
        free: bytes that a process may still take; None where the system does not say.
    """

    holdings: tuple[Holding, ...]
    tables: tuple[Table, ...]
    remedies: tuple[Remedy, ...]
    free: int | None

    @property
    def data(self) -> int:
        """Bytes of the data set, which is there before the training begins."""
        return self.holdings[0].bytes

    @property
    def training(self) -> int:
        """Bytes that the training takes beside the data set."""
        return int(sum(one.bytes for one in self.holdings[1:]) * (1 + REST))

    @property
    def fits(self) -> bool:
        """Whether the training has room, as far as the system tells."""
        return self.free is None or self.training <= self.free

    def to_json(self) -> dict[str, Any]:
        """As `recsys data check` prints it."""
        return {
            "holdings": [asdict(one) for one in self.holdings],
            "tables": [
                {
                    "stage": one.stage,
                    "rows": one.rows,
                    "width": one.width,
                    "optimizer": one.optimizer,
                    "adam": one.bytes("adam"),
                    "rowwise_adagrad": one.bytes("rowwise_adagrad"),
                    **{dtype: one.at_rest(dtype) for dtype in ("float32", "float16", "int8")},
                }
                for one in self.tables
            ],
            "training": self.training,
            "total": self.data + self.training,
            "free": self.free,
            "remedies": [asdict(one) for one in self.remedies[:3]],
        }


def forecast(dataset: Dataset, config: RunConfig, stage: Stages = "all") -> Forecast:
    """Add up what a training will hold.

    Args:
        dataset: encoded data.
        config: the whole configuration.
        stage: what is trained.
    """
    two_stages = bool(config.data.user and config.data.item)
    tables: list[Table] = []
    held = [Holding("data set", _data_bytes(dataset), f"{len(dataset.events):,} events, encoded")]
    seeds, lying = config.ensemble.seeds, Lying.of(config)
    if two_stages and stage != "ranking":
        tower = config.retrieval.tower
        sizes = _tower_sizes(dataset, config)
        copies = seeds * _copies(config.retrieval.fit.metric)
        longer = (tower.similarity == "dot") + (config.retrieval.linear_rank if config.retrieval.linear != 0 else 0)
        tables.append(Table("retrieval", sizes, tower.dim, config.retrieval.optim.table_optimizer, copies, lying))
        vectors = dataset.num_catalogue * (tower.dim + longer) * FLOAT * seeds * lying.processes
        held += [
            _of_table(tables[-1]),
            Holding("item vectors", vectors, f"{dataset.num_catalogue:,} x {tower.dim + longer}"),
        ]
        held += _linear(dataset, config)
        held += _companions(dataset, config)
    if stage != "retrieval" and (config.data.tasks or two_stages):
        held += _trees(dataset, config)
    if stage != "retrieval" and (config.data.tasks or two_stages) and not isinstance(config.ranking.model, TreesConfig):
        ranking = config.ranking
        copies = seeds * _copies(ranking.fit.metric)
        width = ranking.model.input.embedding_dim
        own = {name: rows for name, rows in dataset.layout.sizes.items() if name not in dataset.layout.shared}
        tables.append(Table("ranking", own, width, ranking.optim.table_optimizer, copies, lying))
        held.append(_of_table(tables[-1]))
    remedies = sorted(_remedies(tables, held, dataset, config), key=lambda one: -one.bytes)
    return Forecast(tuple(held), tuple(tables), tuple(one for one in remedies if one.bytes > 0), _free(config))


def refuse_too_large(dataset: Dataset, config: RunConfig, stage: Stages) -> None:
    """Stop before a training that cannot fit in memory.

    Raises:
        RunError: the sentence names the setting that saves most.
    """
    found = forecast(dataset, config, stage)
    if found.fits or found.free is None:
        return
    largest = max(found.holdings[1:], key=lambda one: one.bytes)
    mend = "; use a machine with more memory"
    if found.remedies:
        best = found.remedies[0]
        mend = f"; {best.setting} saves {gigabytes(best.bytes)}, more than any other setting"
    raise RunError(
        f"the training needs {gigabytes(found.training)} of memory beside its data, and {gigabytes(found.free)} are "
        f"free: {gigabytes(largest.bytes)} of it are {largest.name} ({largest.made_of}){mend}"
    )


def _free(config: RunConfig) -> int | None:
    """Bytes where the tables will be: of the GPU if the run names one, else of this machine."""
    if config.runtime.device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return free_memory()


def _copies(metric: str) -> int:
    """What is trained, and the best epoch so far."""
    return 1 + bool(metric)


def _data_bytes(dataset: Dataset) -> int:
    parts = Parts.of(dataset)
    arrays = sum(np.asarray(values).nbytes for values in parts.arrays.values())
    return int(arrays + sum(texts.array.nbytes for texts in parts.texts.values()))


def _tower_sizes(dataset: Dataset, config: RunConfig) -> dict[str, int]:
    """Rows of every vocabulary that the towers embed."""
    tower = config.retrieval.tower
    used = {*tower.event_features} & {*dataset.sides["context"].categorical, *dataset.event_codes}
    for side, chosen in (("item", tower.item_features), ("user", tower.user_features)):
        layout: SideLayout = dataset.sides[side]
        known = {*layout.categorical, *layout.bags}
        used |= known if chosen is None else known & {*chosen}
    sizes, shared = dataset.encoders.tables(used, dataset.encoders.sizes())
    return {name: rows for name, rows in sizes.items() if name not in shared}


def _of_table(table: Table) -> Holding:
    name, rows = max(table.sizes.items(), key=lambda pair: pair[1], default=("", 0))
    times = f", held {table.copies} times" if table.copies > 1 else ""
    made_of = f'{table.rows:,} rows x {table.width} with {table.optimizer}{times}; "{name}" has {rows:,} of the rows'
    return Holding(f"embeddings of {table.stage}", table.bytes(), made_of)


def _companions(dataset: Dataset, config: RunConfig) -> Iterator[Holding]:
    """Baselines that hold a matrix of all pairs of items."""
    size = dataset.num_catalogue
    if "ease" in companion_names(config, dataset):
        yield Holding("the baseline ease", size * size * 20, f"{size:,} x {size:,}, in float64 while it is fitted")


def _trees(dataset: Dataset, config: RunConfig) -> Iterator[Holding]:
    """The rows that boosted trees grow on: as numbers, and as the bins of LightGBM, a byte each."""
    ranking = config.ranking
    settings = ranking.model if isinstance(ranking.model, TreesConfig) else ranking.trees
    if isinstance(settings, TreesConfig) or ranking.trees.enabled or ranking.distil.grows_trees:
        rows = int((dataset.events.parts != Part.PRIOR).sum()) if config.data.tasks else 0
        width = len(Columns.of(dataset.layout, settings).names)
        yield Holding("rows of the trees", rows * width * (FLOAT + 1), f"{rows:,} rows x {width} columns")


def _linear(dataset: Dataset, config: RunConfig) -> Iterator[Holding]:
    """The linear part, and the content of the items, which the vectors no longer hold."""
    section = config.retrieval
    if section.linear == 0:
        return
    items, seeds, rank = dataset.num_catalogue, config.ensemble.seeds, section.linear_rank
    wide = 2 * rank + section.tower.dim + rank
    yield Holding("linear part", items * wide * FLOAT * seeds, f"{items:,} x {wide}")


def _remedies(tables: list[Table], held: list[Holding], dataset: Dataset, config: RunConfig) -> Iterator[Remedy]:
    for one in held:
        if one.name == "linear part":
            yield Remedy("retrieval.linear = 0", one.bytes)
    for table in tables:
        key = "retrieval" if table.stage == "retrieval" else "ranking"
        if table.optimizer == "adam":
            saved = table.bytes() - table.bytes("rowwise_adagrad")
            yield Remedy(f'{key}.optim.table_optimizer = "rowwise_adagrad"', saved)
        width = "retrieval.tower.dim" if key == "retrieval" else "ranking.model.input.embedding_dim"
        if table.width > 1:
            yield Remedy(f"{width} = {table.width // 2}", table.bytes() // 2)
        if table.copies > config.ensemble.seeds:
            yield Remedy(f'{key}.fit.metric = ""', table.bytes() // 2)
    for name in {name for table in tables for name in table.sizes}:
        spec = next((spec for spec in dataset.config.features if spec.name == name), None)
        if spec is None or not _may_shrink(spec):
            continue
        rows = max(table.sizes.get(name, 0) for table in tables)
        fewer = max(rows // 10, 1)
        saved = sum(
            table.bytes(rows=table.sizes[name]) - table.bytes(rows=fewer) for table in tables if name in table.sizes
        )
        key = f"max_rows = {fewer:,}".replace(",", "_")
        yield Remedy(f'{key} of the feature "{name}" (now {rows:,} rows)', saved)
    for one in held:
        if one.name.startswith("the baseline"):
            name, section = one.name.rpartition(" ")[2], config.retrieval
            lists = [key for key in ("baselines", "proposers", "scorers") if name in getattr(section, key)]
            yield Remedy(f'"{name}" taken out of {" and ".join(f"retrieval.{key}" for key in lists)}', one.bytes)
    if config.ensemble.seeds > 1:
        rest = sum(table.bytes() for table in tables)
        yield Remedy("ensemble.seeds = 1", rest - rest // config.ensemble.seeds)


def _may_shrink(spec: FeatureSpec) -> bool:
    return spec.kind in ("categorical", "multi") and not spec.hash_buckets and not spec.pretrained
