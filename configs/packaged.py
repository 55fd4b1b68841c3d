"""Configurations by name: `recsys train movielens-1m` finds the one that is installed with the package."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import ConfigError

if TYPE_CHECKING:
    from ..data.schema import DataConfig
    from .run import RunConfig

FOLDER = Path(__file__).resolve().parent


def packaged_names() -> list[str]:
    """Names of the configurations in the package, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def open_config(given: Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, Path]:
    """A configuration by its file, or by its name in the package.

    Args:
        given: a TOML file, or, where there is no such file, a packaged name without folder and suffix.
        overrides: `a.b.c=VALUE` each, as after `--set`.

    Returns:
        The configuration and the folder that its relative paths start from: a file's own folder; for a packaged name
        the present folder, in which the paths in the overrides were typed.

    Raises:
        ConfigError: there is neither such a file nor such a name, a key is wrong, or the data set of a packaged
            configuration is not where the configuration says.
    """
    from .file import parse_override
    from .run import load_config

    if given.suffix or len(given.parts) > 1 or given.is_file():
        return load_config(given, overrides), given.parent
    name, names = str(given), packaged_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"there is no file {name} and no packaged configuration of that name; "
            + (f"did you mean {close[0]}?" if close else f"the packaged ones are {', '.join(names)}")
        )
    file = FOLDER / f"{name}.toml"
    shipped: dict[str, str] = {}

    def note(path: str) -> str:
        return shipped.setdefault(path, os.path.normpath(FOLDER / path))

    load_config(file).data.relocated(note)
    config = load_config(file, overrides)
    typed = {str(path) for override in overrides for path in _listed(parse_override(override).value)}
    # a typed path starts from the present folder, though the package may name its own file alike
    data = config.data.relocated(lambda path: path if path in typed else shipped.get(path, path))
    _refuse_absent(name, data, {path for path in shipped.values() if not Path(path).exists()})
    return config.model_copy(update={"data": data}), Path()


def _listed(value: object) -> list[object]:
    """A list as it is, anything else as the list of itself."""
    return value if isinstance(value, list) else [value]


def _refuse_absent(name: str, data: DataConfig, absent: Set[str]) -> None:
    """Raise when `data` names an absent file: the data sets are not part of the package."""
    from ..data.reading.sources import official

    if data.source != "files":
        if data.path in absent:
            raise ConfigError(
                f"the packaged configuration {name} reads {official(data.source)}, which is not in the package; "
                "download it and say where it is with --set data.path=PATH"
            )
        return
    events = (data.events,) if isinstance(data.events, str) else data.events
    options = [
        f"--set 'data.{key}={_toml(files)}'"
        for key, files in (("events", events), ("users", (data.users,)), ("items", (data.items,)))
        if absent & set(files)
    ]
    if options:
        raise ConfigError(
            f"the packaged configuration {name} reads tables that are not in the package; say where they are with "
            + " ".join(options)
        )


def _toml(files: Sequence[str]) -> str:
    """Files by their names in a folder yet to be named, as a TOML value."""
    quoted = [f'"FOLDER/{Path(file).name}"' for file in files]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"
