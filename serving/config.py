"""What `serve.toml` may say; every key has a default, unknown ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..base.settings import Settings
from ..configs.file import load_settings

Many = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0.0)]


class Limits(Settings):
    """The most that one request, or all at once, may ask for."""

    body_bytes: Many = 1 << 20
    """Of a body."""

    bulk_bytes: Many = 8 << 20
    """Of a body of events or items."""

    header_bytes: Many = 16 << 10
    """Of the request line and all headers."""

    depth: Many = 32
    """Lists and objects inside one another."""

    id_bytes: Many = 256
    """Of an id, in UTF-8."""

    condition_bytes: Many = 4096
    """Of a condition, in UTF-8."""

    condition_tests: Many = 20
    """Tests in a condition."""

    k: Many = 1000
    """Items of an answer."""

    history: Many = 1000
    """Events that a request brings."""

    listed: Many = 10_000
    """Ids in `allow` or `exclude`."""

    seeds: Many = 20
    """Items that similar ones are asked for."""

    scored: Many = 1000
    """Items to score."""

    batch: Many = 256
    """Requests of a batch."""

    bulk: Many = 1000
    """Events or items told at once."""

    lookup: Many = 1000
    """Users, or events of a user, of one listing."""

    request_id: Many = 64
    """Characters of a request's own id."""

    timeout_ms: Many = 5000
    """Milliseconds that an answer may take; also for requests that name no deadline."""

    queue: Many = 256
    """Requests that wait, a worker."""

    connections: Many = 1024
    """Open connections, a worker."""


class GateConfig(Settings):
    """What a new version must show before it is served."""

    requests: Annotated[int, Field(ge=1, le=1000)] = 32
    """Requests that both versions answer."""

    min_overlap: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Least mean share of items that the lists of both versions have in common; 0 accepts any."""


class RetentionConfig(Settings):
    """When rows of the log go that every version which may be served has learned from an export.

    The newest row of each item and user stays. Of a log on a server, which several machines share, `recsys state trim`
    lets rows go.
    """

    trim: bool = True
    """Whether they go by themselves."""

    keep_days: Annotated[float, Field(ge=0.0)] = 30.0
    """Days for which they stay all the same."""

    every_hours: Seconds = 1.0
    """Hours between two looks."""


class ServeConfig(Settings):
    """The whole file."""

    limits: Limits = Limits()
    """The most that may be asked."""

    gate: GateConfig = GateConfig()
    """What a new version must show."""

    split: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """Name of a run -> its share of the users who name no run; all go to `main` when empty."""

    read_seconds: Seconds = 10.0
    """In which headers, and then the body, must arrive."""

    keep_alive_seconds: Many = 65
    """That an idle connection stays open."""

    drain_seconds: Annotated[float, Field(ge=0.0)] = 2.0
    """Between not being ready and refusing new connections, at the end."""

    finish_seconds: Many = 10
    """That running requests get at the end."""

    durability: Literal["disk", "process"] = "disk"
    """When what is told is acknowledged: synced to disk, which outlives the loss of power, or written to the file,
    which outlives the process."""

    versions: str = ""
    """Folder where the files of the two last versions stay; in the state's folder when empty, and beside the runs,
    until the service ends, where the state is none."""

    fresh_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    """Of a log on a server: for so long an answer to the question what is new may be old; every request asks when 0."""

    lag_seconds: Seconds = 5.0
    """A worker that has lacked acknowledged events for so long is not ready."""

    retention: RetentionConfig = RetentionConfig()
    """When rows of the log go."""

    log_requests: Literal["all", "failures", "none"] = "all"
    """Which requests are logged, one JSON line each."""

    page: bool = False
    """Show a page at `/` on which people ask; it asks with a key where keys are asked for."""

    origins: tuple[str, ...] = ()
    """Origins that pages may ask from (CORS); none by default."""

    proxies: tuple[str, ...] = ()
    """Addresses whose forwarded headers are trusted."""


def load_serve_config(file: Path | None) -> ServeConfig:
    """The settings in a TOML file; the defaults without one.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    return ServeConfig() if file is None else load_settings(ServeConfig, file)
