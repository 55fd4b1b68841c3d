"""`--launcher ray`: this command again, as the workers of a Ray TorchTrainer, on whatever machines its cluster has.

The workers see one file system: what `recsys train` names is there on every machine, as are checkpoints and the run.
Ray makes the process group and starts all workers again after one was lost; what a worker does is what it does under
torchrun (`processes.run_as_one`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, RunError
from ..base.files import write_whole
from ..base.package import install_hint
from .processes import LAUNCHED, SILENT, run_as_one

BEGAN = "began"
"""File of what a launch keeps: its workers have begun once."""


def run_on_ray(arguments: Sequence[str], processes: int, restarts: int, kept: Path) -> int:
    """Run the command line in workers of a Ray cluster: that of `RAY_ADDRESS`, a running one, or one of its own.

    Args:
        arguments: what follows `recsys`.
        processes: how many workers.
        restarts: how often all are started again from the last checkpoint after one was lost.
        kept: folder for what the launch keeps, which all machines see; gone when this returns.

    Returns:
        The exit code.

    Raises:
        ConfigError: Ray is not installed.
        RunError: workers were lost more often than that.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError(f"--launcher ray needs the package Ray; run {install_hint('ray')}") from error
    place = kept.absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    there = ray.is_initialized()
    if not there:
        ray.init(logging_level="ERROR", runtime_env={"env_vars": _environment()})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"arguments": list(arguments), "folder": str(Path.cwd()), "kept": str(place)},
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=False),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(
            name="recsys", storage_path=str(place), failure_config=FailureConfig(max_failures=restarts)
        ),
    )
    try:
        trainer.fit()
        codes = [int(file.read_text()) for file in place.glob("code-*")]
    except TrainingFailedError as error:
        often = f", after {restarts} restarts" if restarts else ""
        raise RunError(
            f"a worker of {processes} was lost{often}; the checkpoints are whole: start again with --resume"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if not there:
            ray.shutdown()
    return max(0, *codes)


def _environment() -> dict[str, str]:
    """What the workers have of this process's environment."""
    named = ("PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    return {LAUNCHED: "1", **{name: os.environ[name] for name in named if name in os.environ}}


def _worker(settings: Mapping[str, Any]) -> None:
    """What each worker does. It returns where a failure was told in a sentence: Ray repeats what raises."""
    import ray.train

    from ..base import ranks
    from ..base.shares import told

    kept = Path(settings["kept"])
    os.chdir(settings["folder"])
    again = told(str(int((kept / BEGAN).exists()))) == "1"
    if ranks.first():
        write_whole(kept / BEGAN, "")
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(int(again))
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            code = run_as_one(list(settings["arguments"]))
        except SystemExit as end:  # Ray takes an end for one that was meant
            raise RunError(f"this worker ended with code {end.code}, because another one is gone") from None
    write_whole(kept / f"code-{ray.train.get_context().get_world_rank()}", str(0 if code == SILENT else code))
