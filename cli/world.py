"""The embedded world as files with a configuration beside them, ready to train on."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

CONFIG = "demo.toml"


def write_world(out: Path, **sizes: int) -> Path:
    """Simulate into the folder `out`, and put the demo's configuration there.

    Args:
        out: folder to write; new, empty, or an earlier world.
        sizes: fields of `data.simulate.SimulateConfig`.

    Returns:
        The configuration file, written last: where it is, the world is complete.

    Raises:
        ConfigError: sizes that do not fit together.
        DataError: `out` holds something else.
    """
    from pydantic import ValidationError

    from ..base.errors import ConfigError
    from ..data.world.simulate import SimulateConfig, simulate

    try:
        config = SimulateConfig(**sizes)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        ) from error
    simulate(config, out)
    text = importlib.resources.files("recsys.configs").joinpath(CONFIG).read_text(encoding="utf-8")
    (out / CONFIG).write_text(text, encoding="utf-8")
    return out / CONFIG
