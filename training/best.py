"""The weights of the best epoch, kept aside while the training goes on: in memory, or on disk where they are large.

A copy of the weights, and of Adam's moments beside them, would make the memory of a training with large tables two and
a half times what it is. Beyond `IN_MEMORY` bytes they are written instead and read back once, at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import RunError
from ..base.files import sync
from .engines.pieces import Pieces

IN_MEMORY = 1 << 30
"""Bytes of the largest weights and moments that are kept in memory."""


class Best:
    """Tensors of the best epoch so far, on the CPU or on disk.

    Args:
        folder: of the training's checkpoints, which then name the file; a temporary one when None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._file: Path | None = None
        self._lasting = folder
        self._temporary: Path | None = None
        self._serial = 0

    def __bool__(self) -> bool:
        return bool(self._tensors) or self._file is not None

    def keep(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take these tensors, as `group/name`, in place of the ones before; they may change afterwards."""
        found = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) <= IN_MEMORY:
            self._tensors, self._file = {name: _copied(tensor) for name, tensor in found.items()}, None
            return
        from safetensors.torch import save_file

        self._serial += 1
        if self._lasting is None and self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="recsys-best-"))
        folder = self._lasting or self._temporary
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"best-{self._serial}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}, file)
        sync(file)
        # The file before stays until a checkpoint names this one: killed in between, a resumed training needs it.
        self._tensors, self._file = {}, file

    def cut(self, pieces: Pieces) -> None:
        """Hold from here on what lies in this process alone, where tables lie in pieces."""
        if not pieces:
            return
        kept = {group: pieces.cut(self.group(group)) for group in ("best", "best_optimizer")}
        self._lasting = None  # a checkpoint of pieces holds the best epoch's as well
        if kept["best"]:
            self.keep(kept)

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group, read back where they are on disk."""
        tensors = self._tensors
        if self._file is not None:
            from safetensors.torch import load_file

            tensors = load_file(self._file)
        prefix = f"{name}/"
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    def in_memory(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group, for a checkpoint; none where they are on disk."""
        return {} if self._file is not None else self.group(name)

    def state(self) -> dict[str, Any]:
        """What a checkpoint says of them besides the tensors."""
        return {"serial": self._serial, "file": None if self._file is None else self._file.name}

    def restore(self, state: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take up what a checkpoint holds.

        Raises:
            RunError: the file that it names is gone.
        """
        self._serial = int(state["serial"])
        self._tensors = {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}
        self._file = None
        if state["file"] is not None:
            assert self._lasting is not None
            self._file = self._lasting / str(state["file"])
            if not self._file.exists():
                raise RunError(f"{self._file}, the best epoch of the checkpoint, is gone; start without --resume")

    def forget_older(self) -> None:
        """Remove the files of earlier epochs, once a checkpoint names the newest."""
        for folder in (self._lasting, self._temporary):
            for file in [] if folder is None else folder.glob("best-*.safetensors"):
                if file != self._file:
                    file.unlink()

    def close(self) -> None:
        """Remove what is on disk for this training alone."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU, sharing no memory."""
    return tensor.detach().clone() if tensor.device == torch.device("cpu") else tensor.detach().cpu()
