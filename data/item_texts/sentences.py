"""Vectors of texts by a model of sentence-transformers, which is imported here and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...base.arrays import F32
from ...base.errors import ConfigError
from ...base.files import sha256, visible_files
from ...base.package import install_hint

BATCH = 64
"""Texts that the model reads at once."""


class Sentences:
    """A model by the name of its folder, or by a name that sentence-transformers downloads.

    Args:
        name: folder or name.
        device: of the model; its own choice when None.

    Raises:
        ConfigError: sentence-transformers is not installed, or has no such model.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                f'"{name}" is a model of sentence-transformers, which is not installed; run {install_hint("texts")}, '
                "or take --model hashed, which needs none"
            ) from error
        try:
            self._model: Any = SentenceTransformer(name, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f'sentence-transformers finds no model "{name}" ({str(error).splitlines()[0]}); name a folder or a '
                "model that it knows"
            ) from error
        self.identity = identity_of(name)

    def vectors(self, texts: Sequence[str], batch: int = BATCH) -> F32:
        """Float32 [n, d] of length 1."""
        made = self._model.encode(
            list(texts),
            batch_size=batch,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(made, dtype=np.float32)


def identity_of(name: str) -> str:
    """What a model is known by: the hash of its folder's files, or its name where it is not a folder."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digests = [f"{file} {sha256(folder / file)}" for file in sorted(visible_files(folder))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
