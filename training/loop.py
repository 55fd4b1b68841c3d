"""The training loop of both stages: epochs of steps, early stopping by one metric, exact resume.

What a step computes is the caller's: `step(batch)` returns the terms of the loss, and everything that trains goes
through `fit`. Killed at any moment and resumed, it ends with the weights of an undisturbed run, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..base import ranks
from ..base.device import CPU, device_of
from ..base.errors import ConfigError, RunError
from ..base.settings import Settings
from ..data.loader import Loader
from ..nn.embedding import named_rows, take_rows_named
from .best import Best
from .callbacks import Callbacks, Started
from .checkpoint import Checkpointer, Snapshot, capture_rng, restore_rng
from .compiled import compiled_dense
from .engines.choosing import pieces_of, spreads
from .engines.pieces import Pieces
from .log import Record, Totals, TrainingLog
from .optim import Optimizer
from .progress import TrainingBar
from .runtime import Runtime

log = logging.getLogger(__name__)

T = TypeVar("T")
CHECK_EVERY = 50
"""Steps between two looks at the loss where a look makes the host wait for the device."""

Backward = Callable[[dict[str, Tensor]], None]


class Stateful(Protocol):
    """Something besides the model that a training remembers from step to step."""

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, as tensors that share no memory with what goes on."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""


class FitOptions(Settings):
    """How long to train, and by what to stop."""

    epochs: int = Field(default=10, ge=1)
    """Most passes over the training rows."""
    metric: str = ""
    """Validation metric that picks the best epoch, whose weights are kept. Empty: the last epoch's are."""
    greater_is_better: bool | None = None
    """Whether a larger value of `metric` is better; when absent, the name says so: less where it speaks of a loss."""
    patience: int = Field(default=2, ge=0)
    """Epochs in a row without a better `metric` before training stops; 0 never stops early."""

    @property
    def upwards(self) -> bool:
        """Whether `metric` is to grow."""
        return "loss" not in self.metric if self.greater_is_better is None else self.greater_is_better


def fit(
    step: Callable[[Any], dict[str, Tensor]],
    loader: Loader[T],
    optimizer: Optimizer,
    options: FitOptions,
    *,
    prepare: Callable[[T], Any] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    describe: Callable[[], Mapping[str, Any]] | None = None,
    backward: Backward | None = None,
    checkpointer: Checkpointer | None = None,
    runtime: Runtime | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    memories: Mapping[str, Stateful] | None = None,
    description: str = "training",
    stage: str = "",
) -> TrainingLog:
    """Train `optimizer.model`; afterwards it holds the best epoch's weights, or the last one's without a metric.

    Several processes (`base.ranks`) take their steps together, and the first one's metrics decide for all; it alone
    writes checkpoints and keeps the best epoch, unless the tables lie in pieces (`engines.pieces`).

    The optimiser then holds the state of that epoch too, if it keeps one (`OptimConfig.keep_state`).

    Args:
        step: batch -> terms of the loss, scalars by name; `loss` is the one to minimise.
        loader: batches of the training rows.
        optimizer: knows the model, which is in training mode during steps and in evaluation mode during `evaluate`.
        options: see `FitOptions`.
        prepare: batch of the loader -> batch of `step`, on the CPU: everything is drawn there that decides what the
            step learns. What it returns is moved to the runtime's device by its method `to`.
        evaluate: validation metrics by name, called after every epoch without gradients.
        describe: JSON values by name for the history's details, called as `evaluate` is.
        backward: terms -> gradients on the parameters, for balances that weigh the tasks' gradients; by default
            `terms["loss"].backward()`.
        checkpointer: where to keep checkpoints, and whether to resume from one.
        runtime: device and arithmetic of the steps; the CPU and float32 when None. The optimiser's model is moved to
            the device and stays there.
        generators: random generators that `step` or `evaluate` draw from, besides the global ones and those that
            modules hold as `generator`; they are part of the checkpoint.
        memories: what else `step` keeps between calls, by name; part of the checkpoint too.
        description: shown left of the progress bar and in the log.
        stage: what the runtime's callbacks are told is trained.

    Returns:
        The history, earlier epochs of a resumed training included.

    Raises:
        RecsysError: a loss term became NaN or infinite; no checkpoint is written after that.
        ConfigError: `options.metric` is not among the metrics.
        RunError: the checkpoint does not belong to this training.
    """
    if options.metric and evaluate is None:
        raise ConfigError(f'metric = "{options.metric}" needs validation rows, and there are none')
    model = optimizer.model
    device = CPU if runtime is None else runtime.device
    optimizer.to(device)
    drawn_from = {name: m.generator for name, m in model.named_modules() if _has_generator(m)}
    leads = ranks.rank() == 0  # of those that train together: a process that trains alone keeps and tells, too
    keeps = leads or spreads(runtime)
    best = Best(None if checkpointer is None or not keeps else checkpointer.folder)
    training = _Training(loader, optimizer, {**drawn_from, **(generators or {})}, memories or {}, device, best)
    if checkpointer is not None and (snapshot := checkpointer.load()) is not None:
        training.restore(snapshot, keeps)
        log.info("%s: resumed after %d steps", description, optimizer.steps)
    history = training.history
    watching = Callbacks(() if runtime is None or not leads else runtime.callbacks)
    begun = len(loader), optimizer.steps, options.metric, options.upwards
    watching.start(Started(stage, options.epochs, *begun))
    mode = model.training
    dense = nullcontext() if runtime is None or not runtime.compiled else compiled_dense(model)
    try:
        with pieces_of(optimizer, runtime) as training.pieces:
            best.cut(training.pieces)
            ranks.agree(model)
            with dense, TrainingBar(description, options.epochs * len(loader), shown=ranks.first()) as bar:
                while loader.epoch < options.epochs and not history.stopped_early:
                    model.train()
                    _run_epoch(
                        training, prepare, step, backward or _plain_backward, checkpointer, runtime, bar, watching
                    )
                    record = training.close_epoch()
                    if evaluate is not None:
                        with evaluation_mode(model):
                            record.update(ranks.agreed(evaluate()))
                    if describe is not None:
                        with evaluation_mode(model):
                            history.details.append(dict(describe()))
                    if options.metric:
                        training.judge(record, options)
                    log.info("%s: %s", description, " ".join(f"{name} {value:.6g}" for name, value in record.items()))
                    training.save(checkpointer)
                    best.forget_older()
                    watching.epoch(record)
            training.take_best()
            ranks.agree(model)
    finally:
        model.train(mode)
        best.close()
    watching.end(history)
    return history


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; the mode found is put back, whatever happens."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


def _plain_backward(terms: dict[str, Tensor]) -> None:
    terms["loss"].backward()


def _has_generator(module: nn.Module) -> bool:
    return isinstance(getattr(module, "generator", None), torch.Generator)


class _Training:
    """Everything that changes while `fit` runs, so that a checkpoint can hold it."""

    def __init__(
        self,
        loader: Loader[Any],
        optimizer: Optimizer,
        generators: Mapping[str, torch.Generator],
        memories: Mapping[str, Stateful],
        device: torch.device,
        best: Best,
    ) -> None:
        self.device = device
        self.best = best
        self.loader = loader
        self.optimizer = optimizer
        self.model = optimizer.model
        self.generators = generators
        self.memories = memories
        self.pieces = Pieces()
        self.history = TrainingLog()
        self.totals = Totals()

    def weights(self) -> dict[str, Tensor]:
        """What this process holds of the model, vocabulary by vocabulary; not copies."""
        return named_rows(self.model) | {name: piece.own for name, piece in self.pieces.weights.items()}

    def moments(self) -> dict[str, Tensor]:
        """What this process holds of the optimiser's state; copies, but for pieces."""
        return self.optimizer.state_dict() | {name: piece.own for name, piece in self.pieces.slots.items()}

    def take_best(self) -> None:
        """Put the best epoch's weights back, and the optimiser's state where it is kept."""
        if not self.best:
            return
        for own, kept in ((self.pieces.weights, self.best.group("best")), (self.pieces.slots, self._best_moments())):
            for name, piece in own.items():
                if name in kept:
                    piece.own.copy_(kept[name])
        take_rows_named(self.model, self.best.group("best"))
        if state := self._best_moments():
            self.optimizer.load_state_dict(state)

    def _best_moments(self) -> dict[str, Tensor]:
        return self.best.group("best_optimizer")

    def close_epoch(self) -> Record:
        """Append the record of the epoch that just ended and start the next one's sums."""
        totals, self.totals = self.totals, Totals()
        record: Record = {"epoch": self.loader.epoch, "steps": self.optimizer.steps, **totals.means()}
        record["seconds"] = totals.seconds
        record["rows_per_second"] = totals.rows / max(totals.seconds, 1e-9)
        record["lr"] = self.optimizer.lr
        self.history.records.append(record)
        return record

    def judge(self, record: Record, options: FitOptions) -> None:
        """Keep the weights when the epoch is the best so far."""
        if options.metric not in record:
            raise ConfigError(f'metric = "{options.metric}" is not measured; there are: {", ".join(sorted(record))}')
        value = record[options.metric]
        if math.isnan(value):
            log.warning("%s is NaN after epoch %d, which is not taken as the best", options.metric, record["epoch"])
        better = self.history.judge(value, greater_is_better=options.upwards, patience=options.patience)
        if better and (ranks.rank() == 0 or self.pieces):
            state = self.moments() if self.optimizer.config.keep_state else {}
            self.best.keep({"best": self.weights(), "best_optimizer": state})

    def save(self, checkpointer: Checkpointer | None) -> None:
        """Write a checkpoint where there is a place for it; replicas are equal, and pieces are written together."""
        if checkpointer is not None and (ranks.rank() == 0 or self.pieces):
            checkpointer.save(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The whole training, between two steps."""
        snapshot = Snapshot(in_pieces=bool(self.pieces))
        kept = self.best.group if self.pieces else self.best.in_memory
        groups = {"model": self.weights(), "optimizer": self.moments()}
        groups |= {group: kept(group) for group in ("best", "best_optimizer")}
        for group, tensors in groups.items():
            snapshot.add(group, self.pieces.to_save(tensors) if self.pieces else tensors)
        for name, memory in self.memories.items():
            snapshot.add(f"memory/{name}", memory.state_dict())
        rng = capture_rng(self.generators, self.device)
        snapshot.add("rng", rng.tensors)
        snapshot.state = {
            "loader": self.loader.state(),
            "history": asdict(self.history),
            "totals": self.totals.state(),
            "best": self.best.state() if not self.pieces else {"serial": 0, "file": None},
            "rng": rng.state,
        }
        return snapshot

    def restore(self, snapshot: Snapshot, keeps: bool) -> None:
        """Continue where `snapshot` was taken, by whatever number of processes.

        Args:
            snapshot: whole tensors.
            keeps: whether this process keeps the best epoch.
        """
        weights, state = snapshot.group("model"), snapshot.state
        found = {name: list(tensor.shape) for name, tensor in weights.items()}
        expected = {name: list(tensor.shape) for name, tensor in named_rows(self.model).items()}
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if differing:
            name = differing[0]
            raise RunError(
                f"the checkpoint belongs to another model: {len(differing)} tensors differ, such as {name}, which is "
                f"{found.get(name, 'absent')} there and {expected.get(name, 'absent')} here; start without --resume"
            )
        self.loader.restore(state["loader"])
        take_rows_named(self.model, weights)
        self.optimizer.load_state_dict(snapshot.group("optimizer"))
        if keeps:
            kept = {group: snapshot.group(group) for group in ("best", "best_optimizer")}
            self.best.restore(state.get("best", {"serial": 0, "file": None}), kept)
        for name, memory in self.memories.items():
            memory.load_state_dict(snapshot.group(f"memory/{name}"))
        self.totals.restore(**state["totals"], device=device_of(self.model))
        self.history = TrainingLog(**state["history"])
        restore_rng(Snapshot(snapshot.group("rng"), state["rng"]), self.generators, self.device)


def _run_epoch(
    training: _Training,
    prepare: Callable[[T], Any] | None,
    step: Callable[[Any], dict[str, Tensor]],
    backward: Backward,
    checkpointer: Checkpointer | None,
    runtime: Runtime | None,
    bar: TrainingBar,
    watching: Callbacks,
) -> None:
    """The batches left of the current epoch."""
    loader, optimizer, totals = training.loader, training.optimizer, training.totals
    epoch = loader.epoch + 1
    started = time.perf_counter() - totals.seconds
    watched = training.device.type == "cpu"
    for loaded in loader:
        batch = loaded if prepare is None else prepare(loaded)
        if training.device != CPU:
            batch = batch.to(training.device)
        ranks.common_draws(loader.seed, optimizer.steps)
        with nullcontext() if runtime is None else runtime.arithmetic():
            terms = step(batch)
            backward(terms)
        optimizer.step()
        optimizer.zero_grad()
        watching.step(optimizer.steps, terms)
        totals.add(terms, loader.rows_in_batch)
        totals.seconds = time.perf_counter() - started
        if watched or optimizer.steps % CHECK_EVERY == 0:
            totals.check(epoch, optimizer.steps)
            bar.show(optimizer.steps, epoch, float(terms["loss"].detach()), totals.rows / totals.seconds)
        if checkpointer is not None and checkpointer.due(optimizer.steps) and loader.position < len(loader):
            training.save(checkpointer)
    totals.check(epoch, optimizer.steps)
    totals.seconds = time.perf_counter() - started  # a device may have had steps left when the host had none
