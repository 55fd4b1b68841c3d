"""Callbacks that write what happens elsewhere: files of TensorBoard, a server or a database of MLflow.

Nothing is sent anywhere unless `runtime.track` names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.package import install_hint
from .callbacks import Callback, Started
from .log import TrainingLog

LONGEST = 500
"""Characters of a value that MLflow keeps of a parameter."""


class TensorBoardWriter(Callback):
    """Figures of every epoch as scalars `<stage>/<name>` over the steps.

    Args:
        folder: of the event files; a folder for each run is made in it.
        run: name of the run.
        parameters: of the configuration, dotted key -> value.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, run: str, parameters: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f'runtime.track = ["tensorboard:..."] needs TensorBoard; run {install_hint("track")}'
            ) from error
        self._writer = SummaryWriter(str(folder / run))
        rows = [f"| `{key}` | {value} |" for key, value in parameters.items()]
        self._writer.add_text("configuration", "\n".join(["| key | value |", "|---|---|", *rows]))
        self._stage = ""

    def on_start(self, training: Started) -> None:
        """See `Callback`."""
        self._stage = training.stage

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """See `Callback`."""
        for name, value in record.items():
            if name not in ("epoch", "steps"):
                self._writer.add_scalar(f"{self._stage}/{name}", value, int(record["steps"]))
        self._writer.flush()

    def on_end(self, history: TrainingLog) -> None:
        """See `Callback`."""
        self._writer.flush()


class MLflowWriter(Callback):
    """Parameters and figures of every epoch as a run of MLflow, in the experiment `recsys`.

    Args:
        uri: where MLflow keeps its runs: a server's address, or a database such as `sqlite:///mlflow.db`.
        run: name of the run.
        parameters: of the configuration, dotted key -> value.

    Raises:
        ConfigError: MLflow is not installed.
    """

    EXPERIMENT = "recsys"

    def __init__(self, uri: str, run: str, parameters: Mapping[str, Any]) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ConfigError(f'runtime.track = ["mlflow:..."] needs MLflow; run {install_hint("mlflow")}') from error
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(self.EXPERIMENT)
        place = self._client.create_experiment(self.EXPERIMENT) if found is None else found.experiment_id
        self._run = self._client.create_run(place, run_name=run).info.run_id
        for key, value in parameters.items():
            self._client.log_param(self._run, key, str(value)[:LONGEST])
        self._stage = ""

    def on_start(self, training: Started) -> None:
        """See `Callback`."""
        self._stage = training.stage

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """See `Callback`; `@`, which MLflow refuses in a name, becomes `_at_`."""
        for name, value in record.items():
            if name not in ("epoch", "steps") and math.isfinite(value):
                key = f"{self._stage}/{name}".replace("@", "_at_")
                self._client.log_metric(self._run, key, value, step=int(record["steps"]))

    def on_end(self, history: TrainingLog) -> None:
        """See `Callback`; a stage that follows goes on writing into the same run."""
        self._client.set_terminated(self._run)


def trackers(track: Sequence[str], run: str, parameters: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that `runtime.track` names.

    Args:
        track: `tensorboard:FOLDER` or `mlflow:URI` each.
        run: name of the run.
        parameters: of the configuration, dotted key -> value.

    Raises:
        ConfigError: an entry is none of these, or its package is missing.
    """
    found: list[Callback] = []
    for entry in track:
        kind, _, place = entry.partition(":")
        if kind == "tensorboard" and place:
            found.append(TensorBoardWriter(Path(place), run, parameters))
        elif kind == "mlflow" and place:
            found.append(MLflowWriter(place, run, parameters))
        else:
            raise ConfigError(f'runtime.track: "{entry}" is no place; expected tensorboard:DIR or mlflow:URI')
    return found
