"""What may look on while a model is trained: called when a training starts, after steps and epochs, and at its end.

A callback is any object with the methods of `Callback`; a subclass overrides those it needs. Callbacks read and do not
change what is learned: with them and without, a seed gives the same weights. What one of them raises ends the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .log import TrainingLog


@dataclass(frozen=True)
class Started:
    """A training that begins, or goes on.

    Attributes:
        stage: `retrieval` or `ranking`; each seed of an ensemble is a training of its own.
        epochs: most passes over the rows.
        steps: of one epoch.
        done: steps made before, in a training that is resumed.
        metric: that picks the best epoch; empty where none does.
        upwards: whether that metric is to grow.
    """

    stage: str
    epochs: int
    steps: int
    done: int
    metric: str
    upwards: bool


class Callback:
    """Base of callbacks; does nothing."""

    def on_start(self, training: Started) -> None:
        """A training begins."""

    def on_step(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """A step was made.

        Args:
            step: of the training, from 1.
            terms: of the loss, by name: scalars on the training's device. To read one makes the host wait for a GPU.
        """

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """An epoch was closed and judged.

        Args:
            record: `epoch` (from 1), `steps` so far, mean loss terms, `seconds`, `lr` and validation metrics.
        """

    def on_end(self, history: TrainingLog) -> None:
        """A training ended by itself; not called when something was raised."""


class Callbacks:
    """Several callbacks as one.

    Args:
        each: in the order in which they are called.
    """

    def __init__(self, each: Sequence[Callback]) -> None:
        self.each = tuple(each)
        # Nobody pays for steps that nobody looks at.
        self._stepping = [one for one in self.each if type(one).on_step is not Callback.on_step]

    def start(self, training: Started) -> None:
        """See `Callback.on_start`."""
        for one in self.each:
            one.on_start(training)

    def step(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """See `Callback.on_step`."""
        for one in self._stepping:
            one.on_step(step, terms)

    def epoch(self, record: Mapping[str, float]) -> None:
        """See `Callback.on_epoch`."""
        for one in self.each:
            one.on_epoch(dict(record))

    def end(self, history: TrainingLog) -> None:
        """See `Callback.on_end`."""
        for one in self.each:
            one.on_end(history)
