"""Going on from an earlier run: its weights, its optimiser's moments, and new rows for what it had never met.

The data set has been built on the earlier run's (`data/encoding/carry`), so every known value stands in the row it had.
What was learned is therefore put back as it was, row by row and moment by moment; new are the rows behind, and those
that values of a full vocabulary have left (`data/encoding/eviction`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..artifacts.folder import open_run
from ..base.arrays import I64
from ..base.errors import RunError
from ..configs.run import RunConfig
from ..data.dataset import Dataset
from ..data.texts import Texts
from ..data.vocabulary import FIRST, UNKNOWN, Vocabulary
from ..funnel.folder import OPTIMIZERS, RANKER, TOWERS, load_run
from ..funnel.neighbours import new_rows, start_new_rows
from ..funnel.run import Stage, TrainedRun, companion_names
from ..nn.embedding import copy_beside_tables, tables_of
from ..ranking.train import build_model
from ..training.optim import Optimizer
from .warm_start import Copied

log = logging.getLogger(__name__)

MEND = "train without --from, or set the configuration back"


@dataclass(frozen=True)
class Learned:
    """A trained stage to go on from.

    Attributes:
        model: towers, or the ranker as it answers requests.
        dataset: whose vocabularies it was built on.
        state: what `remember` gave; empty when the run did not keep it.
    """

    model: nn.Module
    dataset: Dataset
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SourceRun:
    """A run to go on from.

    Attributes:
        trained: the run, with the state of its optimisers.
        name: how reports call it.
        identity: hash of all that a training takes from it, for checkpoints; empty for a run that is in memory only.
    """

    trained: TrainedRun
    name: str
    identity: str = ""

    @classmethod
    def open(cls, folder: Path) -> SourceRun:
        """Read a run folder."""
        run = open_run(folder)
        data = sorted(name for name in run.manifest.files if name.startswith("data/"))
        names = (*data, TOWERS, RANKER, *OPTIMIZERS.values())
        entries = [f"{name} {run.manifest.files[name].sha256}" for name in names if name in run]
        identity = hashlib.sha256("\n".join(entries).encode()).hexdigest()
        return cls(load_run(run, with_index=False, with_optimizers=True), folder.name, identity)

    def towers(self) -> Learned | None:
        """The first stage, if it has one."""
        retriever = self.trained.retriever
        return None if retriever is None else self._learned(retriever.model, "retrieval")

    def ranker(self) -> Learned | None:
        """The second stage, if it has one."""
        return None if self.trained.model is None else self._learned(self.trained.model, "ranking")

    def _learned(self, model: nn.Module, stage: Stage) -> Learned:
        return Learned(model, self.trained.dataset, self.trained.optimizers.get(stage, {}))

    def refuse_other_ranker(self, config: RunConfig, dataset: Dataset) -> None:
        """Stop before the towers are trained when the ranker could not go on afterwards.

        Raises:
            RunError: the two rankers differ.
        """
        learned, old = self.ranker(), self.trained.retriever
        if learned is None:
            return
        features = 0
        if config.ranking.select.enabled and config.data.user and config.data.item and old is not None:
            features = len(old.feature_names)
            scorers = tuple(n for n in config.retrieval.scorers if n in companion_names(config, dataset))
            if scorers != old.scorers:
                raise RunError(
                    f"the ranker of the source run reads the opinions of {', '.join(old.scorers)}, here there are "
                    f"{', '.join(scorers)}; {MEND}"
                )
        model, _ = build_model(config.ranking, dataset.layout, dataset.config.tasks, features, config.seed)
        refuse_difference(model, dataset, learned)


def remember(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What a later training needs besides the model's weights: moments, and the parameters of helpers.

    Args:
        optimizer: after a training.
        model: the part of `optimizer.model` that is kept by itself.
    """
    own = {id(parameter) for parameter in model.parameters()}
    helpers = {f"weight/{name}": p.detach().clone() for name, p in optimizer.dense.items() if id(p) not in own}
    return {name: tensor.cpu() for name, tensor in (optimizer.state_dict() | helpers).items()}


def take_up(model: nn.Module, optimizer: Optimizer, dataset: Dataset, learned: Learned) -> list[Copied]:
    """Put a fresh model and its optimiser where an earlier training ended, and start rows for what is new.

    Args:
        model: built on `dataset`; the optimiser's model or a part of it.
        optimizer: which has made no step yet; it begins a schedule of its own.
        dataset: built on `learned.dataset`.
        learned: what to go on from.

    Returns:
        One entry per table and vocabulary of raw values.

    Raises:
        RunError: the earlier model is another one, or `dataset` was not built on its data.
    """
    prefix = next(name for name, module in optimizer.model.named_modules() if module is model)
    report = take_weights(model, dataset, learned, prefix)
    with torch.no_grad():
        for name, parameter in optimizer.dense.items():
            helper = learned.state.get(f"weight/{name}")
            if helper is not None and helper.shape == parameter.shape:
                parameter.copy_(helper)
    if learned.state:
        optimizer.warm_start(_without_freed_rows(learned.state, optimizer.model, dataset))
    else:
        log.info("the source run kept no optimiser state: moments begin at zero")
    return report


def take_weights(model: nn.Module, dataset: Dataset, learned: Learned, prefix: str = "") -> list[Copied]:
    """Put a fresh model where an earlier training ended, and start rows for what is new.

    Args:
        model: built on `dataset`.
        dataset: built on `learned.dataset`.
        learned: the earlier model.
        prefix: the model's name in what its optimiser trained.

    Returns:
        One entry per table and vocabulary of raw values.

    Raises:
        RunError: the earlier model is another one, or `dataset` was not built on its data.
    """
    refuse_difference(model, dataset, learned)
    here, there = (tables_of(owner) for owner in (model, learned.model))
    old_values = learned.dataset.encoders.vocabularies
    report = []
    copy_beside_tables(model, learned.model)
    with torch.no_grad():
        for name, table in here.items():
            for vocabulary in table.sizes:
                theirs = there[name].rows_of(vocabulary)
                known, size = len(theirs), table.sizes[vocabulary]
                new = new_rows(dataset, vocabulary, known, size)
                table.rows_of(vocabulary)[~new] = theirs[~new[:known]]
                if vocabulary in old_values:
                    trained = learned.state.get(f"table/{'.'.join(filter(None, (prefix, name)))}/{vocabulary}/square")
                    moved = trained is not None and bool(trained[UNKNOWN].any())
                    near = start_new_rows(table, vocabulary, known, dataset, moved)
                    count = int(new.sum())
                    kept, dropped = size - FIRST - count, known - size + count
                    report.append(Copied(vocabulary=vocabulary, kept=kept, new=count, dropped=dropped, neighbours=near))
    return report


def _without_freed_rows(state: Mapping[str, Tensor], model: nn.Module, dataset: Dataset) -> dict[str, Tensor]:
    """An optimiser's state with zeros in the rows that stand for new values."""
    found = dict(state)
    for name, table in tables_of(model).items():
        for vocabulary in table.sizes.keys() & dataset.freed.keys():
            for key in [key for key in state if key.startswith(f"table/{name}/{vocabulary}/")]:
                found[key] = state[key].clone()
                found[key][torch.from_numpy(dataset.freed[vocabulary])] = 0.0
    return found


def refuse_difference(model: nn.Module, dataset: Dataset, learned: Learned) -> None:
    """Stop where an earlier model is not the same but for grown vocabularies.

    Raises:
        RunError: the sentence names the first difference.
    """
    here, there = tables_of(model), tables_of(learned.model)
    shapes: list[dict[str, object]] = [
        {n: list(p.shape) for n, p in owner.named_parameters() if n.removesuffix(".weight") not in tables}
        for owner, tables in ((model, here), (learned.model, there))
    ]
    for name, table in here.items():
        if name in there and there[name].dim != table.dim:
            raise RunError(
                f"embeddings are {there[name].dim} wide in the source run and {table.dim} here ({name}); {MEND}"
            )
    if here.keys() != there.keys() or shapes[0] != shapes[1]:
        names = {**dict.fromkeys(here, "a table"), **shapes[0]}, {**dict.fromkeys(there, "a table"), **shapes[1]}
        odd = next(n for n in [*names[0], *names[1]] if names[0].get(n) != names[1].get(n))
        raise RunError(
            f'the source run has another model: "{odd}" is {names[1].get(odd, "absent")} there and '
            f"{names[0].get(odd, 'absent')} here; {MEND}"
        )
    mine, theirs = dataset.encoders.vocabularies, learned.dataset.encoders.vocabularies
    for name, table in here.items():
        before = there[name].sizes
        odd_ones = sorted(table.sizes.keys() ^ before.keys())
        if odd_ones:
            place = "here" if odd_ones[0] in table.sizes else "in the source run"
            raise RunError(f'"{odd_ones[0]}" is embedded only {place} ({name}); {MEND}')
        for vocabulary, size in table.sizes.items():
            same = size == before[vocabulary]
            if vocabulary in mine:
                same = _goes_on(mine[vocabulary], theirs[vocabulary], dataset.freed.get(vocabulary))
            if not same:
                raise RunError(f'the rows of "{vocabulary}" stand for other values than in the source run; {MEND}')


def _goes_on(vocabulary: Vocabulary, before: Vocabulary, freed: I64 | None) -> bool:
    """Whether earlier values stand in the rows they had, all or all but the freed rows."""
    if freed is None or not len(freed):
        return vocabulary.values[: len(before.values)] == before.values
    kept = np.delete(np.arange(len(before.values)), freed - FIRST)
    fits = len(vocabulary.values) >= len(before.values) and int(freed[-1]) < len(before)
    return fits and Texts(vocabulary.values.array.take(kept)) == Texts(before.values.array.take(kept))
