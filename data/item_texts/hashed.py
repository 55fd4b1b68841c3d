"""Vectors of texts without a model: hashed tf-idf of words and parts of words, reduced by a truncated SVD.

A text is the bag of its words and of their runs of three letters, each known by its hash. Each weighs
`(1 + log tf) log((1 + N) / (1 + df))` in the text's row, which has length 1 (Salton and Buckley 1988), and the first
right singular vectors of these rows are the axes (latent semantic analysis, Deerwester et al. 1990). What is fitted is
which columns there are, how often they occur, and the axes: it is kept, so that texts of later items get vectors in the
same space.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F32, I64, AnyArray
from ...base.errors import DataError
from ...base.files import replacing
from ..hashing import U64, text_hashes

FORMAT = "recsys hashed texts 1"
BREAKS = r"[^\p{L}\p{N}]+"
"""Between two words: anything but letters and digits."""
RUN = 3
"""Letters of a part of a word; its ends are letters too."""
BLOCK = 65_536
"""Texts at once."""


@dataclass(frozen=True)
class HashedTexts:
    """What was learned from some texts.

    Attributes:
        columns: ascending uint64 [F] hashes of the words and parts that occur in at least two texts.
        weights: float32 [F] their inverse document frequency.
        axes: float32 [F, d]; a text's vector is its row times the axes, brought to length 1.
    """

    columns: U64
    weights: F32
    axes: F32

    @property
    def width(self) -> int:
        """d."""
        return int(self.axes.shape[1])

    @classmethod
    def fit(cls, texts: pa.Array, width: int, seed: int = 0) -> HashedTexts:
        """Learn columns, weights and axes.

        Args:
            texts: of the items that may be looked at; nulls and texts without a word count for nothing.
            width: d; fewer where the texts are too few or too alike.
            seed: of the start of the decomposition, which ends at the same axes for all but rounding.

        Raises:
            DataError: fewer than two columns or texts are left.
        """
        from scipy.sparse.linalg import svds

        found = list(_blocks(texts))
        every = np.concatenate([hashes for _, hashes, _ in found]) if found else np.zeros(0, np.uint64)
        columns, document_frequency = np.unique(every, return_counts=True)
        shared = document_frequency > 1  # what one text alone has says nothing of another
        columns, document_frequency = columns[shared], document_frequency[shared]
        known = len(texts) - texts.null_count
        weights = np.log((1 + known) / (1 + document_frequency)).astype(np.float32)
        kept = weights > 0  # and neither does what every text has
        columns, weights = columns[kept], weights[kept]
        rows = cls(columns, weights, np.zeros((len(columns), 0), np.float32))._rows(texts)
        rank = min(width, min(rows.shape) - 1)
        if rank < 1:
            raise DataError(
                f"{known} texts have {len(columns)} words or parts of words in common, too few to be compared; embed "
                "more texts, or other columns"
            )
        start = np.random.default_rng(seed).standard_normal(min(rows.shape))
        _, strengths, axes = svds(rows.astype(np.float64), k=rank, v0=start)
        order = np.argsort(-strengths, kind="stable")
        axes, strengths = axes[order], strengths[order]
        axes = axes[strengths > 1e-6 * strengths[0]]
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # a decomposition leaves them open
        return cls(columns, weights, np.ascontiguousarray((axes * signs[:, None]).T, dtype=np.float32))

    def vectors(self, texts: pa.Array) -> F32:
        """Float32 [n, d] of length 1; zero for a text of which no word is known."""
        made: F32 = np.asarray(self._rows(texts) @ self.axes, dtype=np.float32)
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), np.float32(1e-12))
        return made

    def _rows(self, texts: pa.Array) -> Any:
        """Texts as sparse rows of length 1, [n, F]."""
        from scipy.sparse import csr_array

        parts: list[tuple[I64, I64, F32]] = []
        for rows, hashes, counts in _blocks(texts):
            place = np.searchsorted(self.columns, hashes)
            place = np.minimum(place, max(len(self.columns) - 1, 0))
            known = self.columns[place] == hashes if len(self.columns) else np.zeros(len(hashes), bool)
            values = (1 + np.log(counts[known])).astype(np.float32) * self.weights[place[known]]
            parts.append((rows[known], place[known], values))
        owner, column, values = (
            (np.concatenate(part) for part in zip(*parts, strict=True))
            if parts
            else (
                np.zeros(0, np.int64),
                np.zeros(0, np.int64),
                np.zeros(0, np.float32),
            )
        )
        squares = np.bincount(owner, values.astype(np.float64) ** 2, minlength=len(texts))
        lengths = np.sqrt(np.maximum(squares, 1e-24)).astype(np.float32)
        return csr_array((values / lengths[owner], (owner, column)), shape=(len(texts), len(self.columns)))

    def save(self, file: Path) -> None:
        """Write it as safetensors, whole or not at all."""
        from safetensors.numpy import save_file

        # safetensors knows no uint64 everywhere: the same bits as int64
        arrays: dict[str, AnyArray] = {
            "columns": self.columns.view(np.int64),
            "weights": self.weights,
            "axes": self.axes,
        }
        with replacing(file) as partial:
            save_file(arrays, partial, {"recsys": json.dumps({"format": FORMAT})})

    @classmethod
    def load(cls, file: Path) -> HashedTexts:
        """What `save` wrote.

        Raises:
            DataError: it is no such file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "numpy") as stored:
                about = (stored.metadata() or {}).get("recsys", "{}")
                if json.loads(about).get("format") != FORMAT:
                    raise DataError(f"{file} holds no fitted texts; name one that `recsys embed` wrote")
                arrays = {name: stored.get_tensor(name) for name in ("columns", "weights", "axes")}
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read as fitted texts ({error}); embed the items again") from error
        return cls(arrays["columns"].view(np.uint64), arrays["weights"], arrays["axes"])


def _blocks(texts: pa.Array) -> Iterator[tuple[I64, U64, I64]]:
    """Row, hash and count of every word and part of a word in a text, a block of texts at a time."""
    for start in range(0, len(texts), BLOCK):
        block = pc.utf8_lower(pc.fill_null(texts.slice(start, BLOCK).cast(pa.string()), ""))
        lists = pc.split_pattern_regex(block, BREAKS)
        words = pc.list_flatten(lists)
        owner = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        coded = words.dictionary_encode()
        hashes, lengths = _hashed(coded.dictionary.to_pylist())
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        ptr = np.concatenate([[0], np.cumsum(lengths)])
        size = lengths[codes]
        first = np.repeat(ptr[codes] - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
        of = hashes[first + np.arange(int(size.sum()))]
        rows = np.repeat(owner, size)
        order = np.lexsort((of, rows))
        rows, of = rows[order], of[order]
        begins = np.ones(len(rows), bool)
        begins[1:] = (rows[1:] != rows[:-1]) | (of[1:] != of[:-1])
        counts = np.diff(np.append(np.flatnonzero(begins), len(rows)))
        yield rows[begins] + start, of[begins], counts


def _hashed(words: list[str]) -> tuple[U64, I64]:
    """Hashes of each distinct word and its parts, one word behind the other, and how many each word has."""
    pieces: list[str] = []
    lengths = np.zeros(len(words), np.int64)
    for place, word in enumerate(words):
        if not word:
            continue
        marked = f"<{word}>"
        # the marks keep a whole word apart from a part that reads alike
        own = [marked, *(f"~{marked[at : at + RUN]}" for at in range(len(marked) - RUN + 1))]
        pieces += own
        lengths[place] = len(own)
    return text_hashes(pa.array(pieces, pa.string())), lengths
