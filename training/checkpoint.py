"""Checkpoints on disk: whole or absent, whatever moment the process is killed at.

A checkpoint is a folder `checkpoint-<serial>` with safetensors and `state.json`. It is written under another
name, forced to disk and renamed; the rename is the moment it begins to exist. Nothing in it is code: no pickle.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import ranks
from ..base.device import CPU
from ..base.errors import RunError
from ..base.files import sync
from .engines.pieces import load_pieces, numbers_among, save_pieces

log = logging.getLogger(__name__)

FORMAT = 1
TENSORS = "tensors.safetensors"
"""All tensors of a checkpoint that one process wrote; one of several pieces has a file for each, named otherwise."""


@dataclass
class Snapshot:
    """What a checkpoint holds.

    Attributes:
        tensors: by slash-separated name.
        state: anything JSON can say.
        in_pieces: whether tensors are parts of which other processes hold the rest (`engines.pieces`).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    in_pieces: bool = False

    def add(self, group: str, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors under `group/`."""
        self.tensors.update({f"{group}/{name}": tensor for name, tensor in tensors.items()})

    def group(self, group: str) -> dict[str, Tensor]:
        """The tensors put under `group/`, by their own names."""
        prefix = f"{group}/"
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


class Checkpointer:
    """Keeps the newest checkpoints of one training in a folder.

    Args:
        folder: of this training alone; made when missing.
        every_steps: also write one every so many steps inside an epoch; 0 writes at the ends of epochs only.
        resume: start from the newest checkpoint found; otherwise those found are removed with the first one written.
        keep: how many are kept.
        fingerprint: of configuration and data; a checkpoint with another one is refused.
    """

    def __init__(
        self, folder: Path, every_steps: int = 0, *, resume: bool = False, keep: int = 2, fingerprint: str = ""
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.keep = keep
        self.fingerprint = fingerprint
        self._own = self._found() if resume else []

    def due(self, steps: int) -> bool:
        """Whether one is to be written after so many steps, inside an epoch."""
        return self.every_steps > 0 and steps % self.every_steps == 0

    def _found(self) -> list[Path]:
        """Whole checkpoints in the folder, oldest first."""
        return sorted(self.folder.glob("checkpoint-*"), key=_serial)

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then remove the ones beyond `keep` and the remains of killed writes; one in pieces is
        written by all processes together.

        Args:
            snapshot: what to keep.

        Returns:
            The checkpoint's folder.
        """
        writes = not snapshot.in_pieces or ranks.first()
        self.folder.mkdir(parents=True, exist_ok=True)
        serial = max(map(_serial, self._found()), default=0) + 1
        if snapshot.in_pieces:
            serial = int(ranks.agreed({"serial": serial})["serial"])
        partial, final = self.folder / f"partial-{serial}", self.folder / f"checkpoint-{serial}"
        if writes:
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
        document = {"format": FORMAT, "fingerprint": self.fingerprint, **snapshot.state}
        if snapshot.in_pieces:
            ranks.wait()
            save_pieces(snapshot.tensors, partial)
            document["numbers"] = numbers_among(snapshot.tensors)
        else:
            from safetensors.torch import save_file  # here: a training without checkpoints needs no such package

            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
            save_file(_unshared(tensors), partial / TENSORS)
        if writes:
            (partial / "state.json").write_text(json.dumps(document))
            for path in (*partial.iterdir(), partial):
                sync(path)
            partial.rename(final)
            sync(self.folder)
        if snapshot.in_pieces:
            ranks.wait()
        self._own = [*self._own, final][-self.keep :]
        for path in [*self._found(), *self.folder.glob("partial-*")] if writes else []:
            if path not in self._own:
                _remove(path)
        return final

    def load(self) -> Snapshot | None:
        """The newest whole checkpoint; None when there is none to resume from.

        Raises:
            RunError: it belongs to another configuration, or every checkpoint is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        damaged = []
        for path in reversed(self._own):
            try:
                state = json.loads((path / "state.json").read_text())
                whole = (path / TENSORS).exists()
                tensors = load_file(path / TENSORS) if whole else load_pieces(path, state["numbers"])
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
                damaged.append(path.name)
                continue
            if state.get("format") != FORMAT:
                raise RunError(f"{path} has format {state.get('format')}, expected {FORMAT}; start without --resume")
            if state.get("fingerprint") != self.fingerprint:
                raise RunError(f"{path} was made with another configuration or other data; start without --resume")
            return Snapshot(tensors, state)
        if damaged:
            raise RunError(f"no checkpoint in {self.folder} can be read ({', '.join(damaged)}); start without --resume")
        return None

    def clear(self) -> None:
        """Remove the folder: the training is over."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._own = []


def _serial(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """Rename first: a checkpoint that is half removed must not look whole."""
    if not path.name.startswith("partial-"):
        path = path.rename(path.with_name(f"partial-removed-{_serial(path)}"))
    shutil.rmtree(path)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those that share memory with an earlier one, which the file format refuses."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return found


def capture_rng(generators: Mapping[str, torch.Generator], device: torch.device = CPU) -> Snapshot:
    """States of torch's, numpy's and Python's global generators, of the GPU's where the training is on one, and of the
    given ones.
    """
    snapshot = Snapshot({"torch": torch.get_rng_state()})
    if device.type == "cuda":
        snapshot.tensors["cuda"] = torch.cuda.get_rng_state(device)
    snapshot.add("own", {name: generator.get_state() for name, generator in generators.items()})
    _, key, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator is meant
    snapshot.state = {
        "numpy": [np.asarray(key).tolist(), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }
    return snapshot


def restore_rng(snapshot: Snapshot, generators: Mapping[str, torch.Generator], device: torch.device = CPU) -> None:
    """Put the generators back to the states captured; a GPU's keeps its own where they were captured on a CPU.

    Raises:
        RunError: a generator was not there when the states were captured.
    """
    torch.set_rng_state(snapshot.tensors["torch"])
    if device.type == "cuda" and "cuda" in snapshot.tensors:
        torch.cuda.set_rng_state(snapshot.tensors["cuda"], device)
    own = snapshot.group("own")
    for name, generator in generators.items():
        if name not in own:
            raise RunError(f'the checkpoint holds no state of generator "{name}"; start without --resume')
        generator.set_state(own[name])
    key, position, has_gauss, gauss = snapshot.state["numpy"]
    np.random.set_state(("MT19937", np.asarray(key, np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = snapshot.state["python"]
    random.setstate((version, tuple(internal), gauss_next))
