"""The data set of a training: encoded from tables, or built once in a folder that trainings start from.

A folder that was built holds the data set that a training of the same configuration would encode, byte for byte: whole,
or in shards by user (`data.shards`) for machines that cannot take all of it at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base import ranks
from ..base.errors import ConfigError, RunError
from ..base.files import replacing_folder, write_whole
from ..base.package import package_version
from ..configs.run import RunConfig, config_hash
from ..data.build import build_dataset
from ..data.dataset import Dataset
from ..data.reading.keys import read_configured
from ..data.reading.readers import Source
from ..data.reading.tables import BadRows
from ..data.schema import DataConfig
from ..data.shards import SHARDS, join_shards, save_shards
from ..data.split import Part
from ..data.store import load_dataset, save_dataset

log = logging.getLogger(__name__)

Json = dict[str, Any]
BUILT = "built.json"
"""Of a folder that was built: what it was built for, written last."""


def encode(
    config: RunConfig,
    base: Path,
    bad: BadRows,
    tables: Mapping[str, Source] | None = None,
    source: Dataset | None = None,
    learned: Part = Part.TRAIN,
) -> Dataset:
    """The data set of a training; what a reader of its results has to know is logged.

    Arguments as of `publish.train_run`; rows of the parts up to `learned` are training rows.
    """
    raw = read_configured(config.data, base, bad, tables, stored=True)
    return _told(build_dataset(raw, config.data, config.seed, bad, source, learned))


def encode_again(
    config: RunConfig, base: Path, tables: Mapping[str, Source] | None, grown: Dataset, learned: Part
) -> Dataset:
    """The data set of a last fit: the same tables on the vocabularies of `grown`, rows of the parts up to `learned` as
    training rows. Bad rows were told of when the tables were read first.
    """
    return encode(config, base, BadRows(config.data.on_bad_rows), tables, grown, learned)


def _told(dataset: Dataset) -> Dataset:
    for note in dataset.notes:
        log.warning("%s", note)
    return dataset


def list_bad(bad: BadRows, path: Path) -> None:
    """List the rows that were left out, if any, in a file beside what was made of the others."""
    if bad.count():
        rejected = path.with_name(f"{path.name}.bad-rows.csv")
        bad.write(rejected)
        log.warning("%d bad rows were left out; they are listed in %s", bad.count(), rejected)


def meant(data: DataConfig) -> DataConfig:
    """A `[data]` section without where its tables lie and what building them may take."""
    return data.relocated(lambda _: "").model_copy(update={"memory": "", "workers": 0})


def build_data(config: RunConfig, base: Path, out: Path, shards: int = 0) -> Json:
    """Encode the data set of a configuration into a folder, whole or not at all.

    Args:
        config: the whole configuration.
        base: folder that its paths start from.
        out: new, empty, or an earlier such folder, which is replaced.
        shards: parts by the hash of the user; 0 writes the data set as one.

    Returns:
        `folder`, `events`, `users`, `items`, and `shards` where there are any.

    Raises:
        ConfigError: the data set cannot be built beforehand, or `out` holds something else.
        DataError: a table is not what the schema says.
    """
    _refuse_starts(config)
    _check_place(out)
    bad = BadRows(config.data.on_bad_rows)
    dataset = encode(config, base, bad)
    list_bad(bad, out)
    about = {
        "recsys": package_version(),
        "data": config_hash(meant(config.data)),
        "seed": config.seed,
        "fingerprint": dataset.fingerprint,
    }
    return {**_write(dataset, out, shards, about), **({"shards": shards} if shards else {})}


def join_data(folder: Path, out: Path) -> Json:
    """Make one data set again of one that was built in shards: the files that building it as one would have written.

    Args:
        folder: with all of its shards.
        out: as of `build_data`.

    Raises:
        ConfigError: `out` holds something else.
        RunError: the folder was not built in shards, or a file is missing or changed.
    """
    _check_place(out)
    return _write(join_shards(folder), out, 0, _about(folder))


def _write(dataset: Dataset, out: Path, shards: int, about: Json) -> Json:
    with replacing_folder(out) as staging:
        if shards:
            save_shards(dataset, staging, shards)
        else:
            save_dataset(dataset, staging)
        write_whole(staging / BUILT, json.dumps(about, indent=1))
    counted = {"events": len(dataset.events), "users": dataset.num_users, "items": len(dataset.item_ids)}
    return {"folder": str(out), **counted}


def built_dataset(folder: Path, config: RunConfig) -> Dataset:
    """The data set that was built in a folder for a configuration.

    Raises:
        RunError: it was built for another configuration, by another version, or is not whole.
    """
    about = _about(folder)
    wanted = {"recsys": package_version(), "data": config_hash(meant(config.data)), "seed": config.seed}
    words = {"recsys": "another version of recsys", "data": "another [data] section", "seed": "another seed"}
    if odd := [words[name] for name, value in wanted.items() if about.get(name) != value]:
        raise RunError(f"{folder} was built with {' and '.join(odd)}; build it again with recsys data build")
    if (folder / SHARDS).exists():
        if ranks.world() > 1:
            raise RunError(f"{folder} holds shards, which each process would join; join them once: recsys data join")
        return _told(join_shards(folder))
    return _told(load_dataset(folder.joinpath))


def refuse_built(data: Path | None, config: RunConfig, *, goes_on: bool, given: bool) -> None:
    """Refuse what a training from a built data set (None: it has none) cannot do, before anything is read.

    Args:
        data: the folder.
        config: the whole configuration.
        goes_on: whether another run is carried on.
        given: whether tables are given.

    Raises:
        ConfigError: a setting or argument asks for it.
    """
    if data is None:
        return
    if goes_on or given:
        asked = "going on from a run encodes" if goes_on else "tables that are given are encoded for"
        raise ConfigError(f"a data set that was built is taken as it is, and {asked} its own; leave one of them out")
    if config.final.is_made:
        raise ConfigError(
            f'final.rows = "{config.final.rows}" encodes the tables anew for the last fit; '
            'set it to "none", or train without --data'
        )
    _refuse_starts(config)


def _refuse_starts(config: RunConfig) -> None:
    """Vectors that embeddings start from are read with the tables, and no data set keeps them."""
    if named := [spec.name for spec in config.data.features if spec.pretrained and spec.kind != "vector"]:
        raise ConfigError(
            f'feature "{named[0]}" starts from pretrained vectors, which a data set in a folder does not keep; '
            "train from the tables, or leave pretrained out"
        )


def _about(folder: Path) -> Json:
    file = folder / BUILT
    if not file.exists():
        raise RunError(f"{folder} is no data set that was built: it has no {BUILT}; write one with recsys data build")
    about: Json = json.loads(file.read_text(encoding="utf-8"))
    return about


def _check_place(out: Path) -> None:
    if out.exists() and not (out / BUILT).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something else; name a new folder with --out, or an earlier data set")
