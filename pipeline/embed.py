"""Item texts as a file of vectors, which a `vector` feature reads by `pretrained`.

Nothing but the texts is looked at: no event, no label, no moment. What is fitted (of `hashed`: which words there are,
how rare they are, and the axes) is fitted on the texts of the table, or on those of the items that `fit_on` names, and
is kept beside the vectors, so that the texts of items that come later get vectors of the same space.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..artifacts.tables import write_table
from ..base.arrays import F32
from ..base.errors import ConfigError, DataError
from ..base.files import replacing
from ..data.item_texts.hashed import HashedTexts
from ..data.item_texts.sentences import BATCH, Sentences, identity_of
from ..data.reading.readers import Source, read
from ..training.progress import track

HASHED = "hashed"
FITTED = ".texts.safetensors"
"""Suffix of what `hashed` was fitted to, beside the vectors."""
BLOCK = 1024
"""Texts that a model is given at once; what it made of them is kept."""
WIDTH = 64


@dataclass(frozen=True)
class EmbedReport:
    """What was written.

    Attributes:
        file: of the vectors: the item's id and a list of `width` numbers.
        model: that made them.
        items: that have a vector.
        without: items without a text, which have none and count as zero.
        width: d.
        kept: of the vectors, those that an earlier call had made of the same texts.
        fitted: file with what `hashed` learned; empty for a model.
        fitted_on: items whose texts it learned from.
        feature: the lines of a configuration that read the file.
        seconds: that it took.
    """

    file: str
    model: str
    items: int
    without: int
    width: int
    kept: int
    fitted: str
    fitted_on: int
    feature: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return asdict(self)


def embed_items(
    items: Source,
    out: str | Path,
    columns: Sequence[str],
    model: str = HASHED,
    *,
    id_column: str = "item_id",
    width: int = WIDTH,
    fit_on: Collection[str] | None = None,
    device: str | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> EmbedReport:
    """Make a vector of every item's text and write them for `pretrained`.

    Called again with the same texts and model it makes nothing anew. Of a changed table a model of
    sentence-transformers reads only the texts that it has not read; `hashed` is fitted again, and all vectors with it,
    since the axes move.

    Args:
        items: the item table: a file, a folder of Parquet files or a frame.
        out: Parquet file to write.
        columns: whose texts are put one behind the other.
        model: `hashed`; a file that `hashed` fitted earlier (`*.texts.safetensors`), whose space is kept; a folder with
            a model of sentence-transformers; or a name that it downloads.
        id_column: of the item ids.
        width: numbers of a vector of `hashed`; a model has its own.
        fit_on: ids that `hashed` may learn from, such as those of the training part; all when None.
        device: of a model.
        batch: texts that a model reads at once.
        seed: of the decomposition's start.

    Raises:
        ConfigError: no column, no such model, or a package that is missing; or `out` is no Parquet file.
        DataError: a column is missing, an id stands twice, or the texts are too few to be compared.
    """
    started = time.perf_counter()
    out = Path(out)
    if not columns:
        raise ConfigError("no column of texts is named; give one or more, e.g. --column title")
    if out.suffix != ".parquet":
        raise ConfigError(f"{out}: vectors are written as Parquet; name a file that ends with .parquet")
    if width < 1:
        raise ConfigError(f"width = {width}; a vector needs 1 number or more")
    ids, texts = item_texts(items, id_column, columns)
    if model != HASHED and fit_on is not None:
        raise ConfigError(f'fit_on is for "{HASHED}"; "{model}" has learned already, leave it out')
    given = pc.not_equal(texts, "")
    without = int(len(ids) - pc.sum(given).as_py()) if len(ids) else 0
    ids, texts = ids.filter(given), texts.filter(given)
    beside = out.with_name(out.stem + FITTED)
    about: dict[str, Any] = {"model": model, "columns": list(columns), "texts": _digest(ids, texts)}
    kept, fitted, fitted_on = 0, "", 0
    if model == HASHED or model.endswith(FITTED):
        if model == HASHED:
            chosen = texts if fit_on is None else texts.filter(pc.is_in(ids, pa.array(sorted(fit_on), pa.string())))
            about |= {"width": width, "seed": seed, "fitted_on": _digest(chosen, chosen)}
            fitted, fitted_on = str(beside), len(chosen)
        else:
            about["model"] = identity_of_file(Path(model))
        if _already(out, about) and (not fitted or beside.exists()):
            written = pq.read_schema(out).field(1).type.list_size
            return _report(out, model, len(ids), without, written, len(ids), fitted, fitted_on, id_column, started)
        learned = HashedTexts.load(Path(model)) if model != HASHED else HashedTexts.fit(chosen, width, seed)
        vectors = learned.vectors(texts)
        if fitted:
            learned.save(beside)
    else:
        vectors, kept = _of_model(texts, model, out, device, batch)
    _write(out, id_column, ids, vectors, about)
    return _report(out, model, len(ids), without, vectors.shape[1], kept, fitted, fitted_on, id_column, started)


def item_texts(items: Source, id_column: str, columns: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Ids and texts of a table, one behind the other with a full stop between two columns; lists as their values.

    Raises:
        DataError: a column is missing, or an id is missing or stands twice.
    """
    table = read(items, [id_column, *dict.fromkeys(columns)], table="items").table
    ids = table.column(id_column).combine_chunks().cast(pa.string())
    if ids.null_count or len(pc.unique(ids)) < len(ids):
        raise DataError(f'column "{id_column}" of the items names nothing or one item twice; give every item one row')
    parts = [_plain(table.column(name).combine_chunks()) for name in columns]
    joined = parts[0]
    for part in parts[1:]:
        joined = pc.coalesce(pc.binary_join_element_wise(joined, part, ". "), joined, part)
    return ids, pc.fill_null(pc.utf8_trim_whitespace(joined), "")


def _plain(column: pa.Array) -> pa.Array:
    """A column as text; null where nothing stands, so that nothing is joined to it."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), " ")
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), None, text)


def _digest(*columns: pa.Array) -> str:
    """sha256 of columns of text, value by value."""
    found = hashlib.sha256()
    for column in columns:
        for start in range(0, len(column), BLOCK):
            found.update(json.dumps(column.slice(start, BLOCK).to_pylist()).encode())
    return found.hexdigest()


def identity_of_file(file: Path) -> str:
    """sha256 of a file.

    Raises:
        DataError: there is none.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}; name what an earlier `recsys embed` wrote beside its vectors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _already(out: Path, about: dict[str, Any]) -> bool:
    """Whether the file holds what would be made."""
    if not out.is_file():
        return False
    try:
        metadata = pq.read_schema(out).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return False
    return bool(metadata.get(b"recsys", b"") == json.dumps(about).encode())


def _of_model(texts: pa.Array, model: str, out: Path, device: str | None, batch: int) -> tuple[F32, int]:
    """Vectors of texts by a model, and how many of them an earlier call had made: they are kept by the text's hash."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts.to_pylist()]
    place = hashlib.sha256(identity_of(model).encode()).hexdigest()[:16]
    file = out.parent / ".embedded" / f"{place}.parquet"
    known = _read_kept(file)
    missing = [at for at, digest in enumerate(digests) if digest not in known]
    kept = len(digests) - len(missing)
    if missing:
        sentences = Sentences(model, device)
        file.parent.mkdir(parents=True, exist_ok=True)
        for start in track(range(0, len(missing), BLOCK), "embedding texts", -(-len(missing) // BLOCK)):
            rows = missing[start : start + BLOCK]
            made = sentences.vectors(texts.take(pa.array(rows)).to_pylist(), batch)
            known |= {digests[row]: vector for row, vector in zip(rows, made, strict=True)}
            _write_kept(file, known)  # a call that is killed goes on here
    return np.stack([known[digest] for digest in digests]) if digests else np.zeros((0, 1), np.float32), kept


def _read_kept(file: Path) -> dict[bytes, F32]:
    if not file.is_file():
        return {}
    table = pq.read_table(file)
    vectors = table.column("vector").combine_chunks()
    numbers = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    return dict(zip(table.column("text").to_pylist(), numbers, strict=True))


def _write_kept(file: Path, known: dict[bytes, F32]) -> None:
    vectors = np.stack(list(known.values()))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    with replacing(file) as partial:
        pq.write_table(pa.table({"text": pa.array(list(known), pa.binary()), "vector": lists}), partial)


def _write(out: Path, id_column: str, ids: pa.Array, vectors: F32, about: dict[str, Any]) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    fields = [(id_column, ids.type), ("vector", lists.type)]
    schema = pa.schema(fields, {"recsys": json.dumps(about)})
    write_table(out, schema, [pa.Table.from_arrays([ids, lists], schema=schema)])


def _report(
    out: Path,
    model: str,
    items: int,
    without: int,
    width: int,
    kept: int,
    fitted: str,
    fitted_on: int,
    id_column: str,
    started: float,
) -> EmbedReport:
    feature = "\n".join(
        [
            "[[data.features]]",
            'name = "text"',
            f'column = "{id_column}"',
            'side = "item"',
            'kind = "vector"',
            f'pretrained = "{out.as_posix()}"',
        ]
    )
    seconds = time.perf_counter() - started
    return EmbedReport(str(out), model, items, without, width, kept, fitted, fitted_on, feature, seconds)
