"""A data set in shards by user, and the data set again.

The users of a shard are those whose id has a hash that leaves its number when divided by how many shards there are, so
a user's rows, histories and counts lie in one shard, and in the same one every day. What all shards need (items,
vocabularies, counts, cuts: all of it fitted on the whole log before it is taken apart) is written once, beside them.
A shard with it is a data set of its users; all shards together are the data set they came from, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.arrays import I64, AnyArray, Ints
from ..base.counting import tallies
from ..base.errors import ConfigError, RunError
from ..base.files import sha256, visible_files, write_whole
from ..base.ragged import offsets, spans
from .dataset import Dataset
from .hashing import text_hashes
from .parts import Arrays, Parts
from .schema import DataConfig
from .shelf import Shelf
from .store import load_parts, save_parts
from .texts import Texts

SHARDS, COMMON = "shards.json", "common"
VERSION = 1
USER, EVENT = "user", "event"
OWN, OWNERS, ENDS, PTR = "shard/users", "events/users", "sequence_ends/", "sequences/{}/ptr"
EVENT_GROUPS = ("events", "row_query", "row_item", "event_codes", "sequence_ends")
"""Arrays with an entry for each event row."""
USERS = "ids/users"


def save_shards(dataset: Dataset, folder: Path, count: int) -> None:
    """Write a data set as shards into an existing folder; the list of its files, with their hashes, comes last.

    Args:
        dataset: its events name users.
        folder: empty.
        count: number of shards.

    Raises:
        ConfigError: events name no users.
    """
    if not dataset.config.user:
        raise ConfigError("shards are by the hash of the user, and data.user is empty; build without --shards")
    whole, config = Parts.of(dataset), dataset.config
    owner = (text_hashes(dataset.user_ids.array) % np.uint64(count)).astype(np.int64)
    starts = _pointers(whole.arrays, dataset.num_users)
    axes = {name: axis for name in whole.arrays if (axis := _axis(name, config)) is not None}
    common = {name: array for name, array in whole.arrays.items() if name not in axes}
    texts = {name: column for name, column in whole.texts.items() if name != USERS}
    _write(Parts(common, texts, whole.encoders, whole.schema), folder / COMMON)
    for number in range(count):
        users = np.flatnonzero(owner == number)
        ids = Texts(dataset.user_ids.array.take(pa.array(users)))
        _write(
            Parts({OWN: users, **_cut(whole.arrays, axes, starts, users)}, {USERS: ids}, {}, {}),
            folder / _name(number, count),
        )
    files = {name: sha256(folder / name) for name in visible_files(folder)}
    about = {"version": VERSION, "shards": count, "users": dataset.num_users, "events": len(dataset.events)}
    names = {"arrays": list(whole.arrays), "texts": list(whole.texts)}
    write_whole(folder / SHARDS, json.dumps({**about, **names, "files": files}, indent=1))


def load_shard(folder: Path, number: int) -> Dataset:
    """The data set of one shard's users; their rows are numbered anew.

    Args:
        folder: `common` and this shard are enough.
        number: from 0.

    Raises:
        RunError: the folder holds no shards, or a file of these two is missing or changed.
    """
    about = _checked(folder, lambda shards: (COMMON, _name(number, shards)))
    common, own = _read(folder / COMMON), _read(folder / _name(number, about["shards"]))
    return _whole(common, own.arrays, own.texts, about)


def join_shards(folder: Path) -> Dataset:
    """The data set that was taken apart, from all of its shards; its columns lie in files for temporary data.

    Raises:
        RunError: the folder holds no shards, or a file is missing or changed.
    """
    about = _checked(folder, lambda shards: (COMMON, *(_name(number, shards) for number in range(shards))))
    common = _read(folder / COMMON)
    shards = [_read(folder / _name(number, about["shards"])) for number in range(about["shards"])]
    users = [shard.arrays[OWN] for shard in shards]
    order = np.argsort(np.concatenate(users), kind="stable")
    ids = pa.concat_arrays([shard.texts[USERS].array for shard in shards]).take(pa.array(order))
    arrays = _joined([shard.arrays for shard in shards], users, DataConfig.model_validate(common.schema["data"]))
    return _whole(common, arrays, {USERS: Texts(ids)}, about)


def _whole(common: Parts, arrays: Arrays, texts: Mapping[str, Texts], about: Mapping[str, Any]) -> Dataset:
    """What all shards share with what is of users, in the order that it had."""
    every, columns = {**common.arrays, **arrays}, {**common.texts, **texts}
    return Parts(
        {name: every[name] for name in about["arrays"]},
        {name: columns[name] for name in about["texts"]},
        common.encoders,
        common.schema,
    ).dataset()


def _axis(name: str, config: DataConfig) -> str | None:
    """What the entries of an array are of: `user`, `event`, or events of a history by its name; None of what all share.

    Args:
        name: as in `Parts.arrays`.
        config: of the data set.
    """
    group, _, rest = name.partition("/")
    side: str | None = None
    if group == "key_codes":
        side = config.feature(rest).side
    elif group == "derived":
        place, _, number = rest.partition("/")
        side = config.derived[int(place)].sources[int(number)][0]
    if group == "users" or side == "user":
        return USER
    if group in EVENT_GROUPS or side == "context":
        return EVENT
    return rest.rpartition("/")[0] if group == "sequences" else None


def _target(name: str) -> str | None:
    """Among which axis the numbers of an array point, where they do."""
    if name.startswith(ENDS):
        return name.removeprefix(ENDS)
    return EVENT if name.startswith("sequences/") and name.endswith("/rows") else None


def _pointers(arrays: Mapping[str, AnyArray], users: int) -> dict[str, I64]:
    """Of the events and of each history, where each user's begin, int64 [U + 1]."""
    histories = {name.removeprefix(ENDS) for name in arrays if name.startswith(ENDS)}
    found = {name: np.asarray(arrays[f"sequences/{name}/ptr"], dtype=np.int64) for name in histories}
    return {EVENT: offsets(tallies(arrays["events/users"], users)), **found}


def _cut(arrays: Mapping[str, AnyArray], axes: Mapping[str, str], whole: Mapping[str, I64], users: I64) -> Arrays:
    """A shard's own arrays.

    Args:
        arrays: of the whole data set.
        axes: of those that are cut.
        whole: of each axis, where each user begins.
        users: int64 [V] rows of the shard's users, ascending.
    """
    lengths = {axis: np.diff(starts)[users] for axis, starts in whole.items()}
    own = {axis: offsets(of_users) for axis, of_users in lengths.items()}
    found: Arrays = {}
    for name, axis in axes.items():
        if name == PTR.format(axis):
            found[name] = own[axis].astype(arrays[name].dtype)
            continue
        rows = users if axis == USER else spans(whole[axis][users], lengths[axis])[0]
        values = arrays[name].take(rows, axis=0)
        if name == OWNERS:
            values = np.arange(len(users), dtype=values.dtype).repeat(lengths[EVENT])
        elif (target := _target(name)) is not None:
            values = _moved(values, lengths[axis], own[target][:-1] - whole[target][users])
        found[name] = values
    return found


def _joined(shards: Sequence[Mapping[str, AnyArray]], users: Sequence[I64], config: DataConfig) -> Arrays:
    """The arrays that `_cut` cut.

    Args:
        shards: arrays of each shard.
        users: of each shard, int64 [V] the rows of its users in the whole data set.
        config: of the data set.
    """
    own = [_pointers(arrays, len(rows)) for arrays, rows in zip(shards, users, strict=True)]
    whole: dict[str, I64] = {}
    for kind in own[0]:
        lengths = np.zeros(sum(map(len, users)), dtype=np.int64)
        for starts, rows in zip(own, users, strict=True):
            lengths[rows] = np.diff(starts[kind])
        whole[kind] = offsets(lengths)
    shelf, found = Shelf(mapped=True), Arrays()
    for name, one in shards[0].items():
        if name == OWN:
            continue
        axis = _axis(name, config)
        assert axis is not None
        if name == PTR.format(axis):
            found[name] = whole[axis].astype(one.dtype)
            continue
        size = len(whole[EVENT]) - 1 if axis == USER else int(whole[axis][-1])
        found[name] = shelf.empty((size, *one.shape[1:]), one.dtype)
        for arrays, mine, rows in zip(shards, own, users, strict=True):
            values = arrays[name]
            lengths = np.diff(mine[EVENT if axis == USER else axis])
            if name == OWNERS:
                values = rows.astype(values.dtype).repeat(lengths)
            elif (target := _target(name)) is not None:
                values = _moved(values, lengths, whole[target][rows] - mine[target][:-1])
            found[name][rows if axis == USER else spans(whole[axis][rows], lengths)[0]] = values
        shelf.rest(found[name])
    return found


def _moved(values: Ints, lengths: I64, by: I64) -> Ints:
    """Pointers of users' entries moved, -1 where they point nowhere.

    Args:
        values: int [n].
        lengths: int64 [V] entries of each user.
        by: int64 [V] how far.
    """
    moved = values + by.repeat(lengths)
    return np.where(values >= 0, moved, values).astype(values.dtype)


def _name(number: int, count: int) -> str:
    return f"shard-{number:05d}-of-{count:05d}"


def _write(parts: Parts, folder: Path) -> None:
    folder.mkdir()
    save_parts(parts, folder)


def _read(folder: Path) -> Parts:
    return load_parts(folder.joinpath)


def _checked(folder: Path, needed: Callable[[int], Sequence[str]]) -> dict[str, Any]:
    """What `SHARDS` says, where the files of the folders that are needed are what was written.

    Raises:
        RunError: they are not, or there are none.
    """
    file = folder / SHARDS
    if not file.exists():
        raise RunError(f"{folder} holds no shards of a data set: it has no {SHARDS}; write some with recsys data build")
    about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if about["version"] != VERSION:
        raise RunError(f"{file} has version {about['version']}, this recsys reads {VERSION}; build the data set again")
    folders = set(needed(about["shards"]))
    for name, expected in about["files"].items():
        place = folder / name
        if name.partition("/")[0] in folders and (not place.exists() or sha256(place) != expected):
            raise RunError(f"{place} is {'changed' if place.exists() else 'missing'}; copy it again, or build again")
    return about
