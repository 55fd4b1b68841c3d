"""What a service is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import ConfigError
from ..live.log import on_a_server
from .config import ServeConfig
from .keys import read_keys
from .split import check_split

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `recsys serve` was given.

    Attributes:
        runs: name -> run folder; `main` is among them.
        config: limits and times.
        state: folder of what outlives the service, or address of a log that several machines share; None keeps
            nothing.
        rules: TOML file, instead of the runs' own last stage.
        host: address to bind.
        port: to bind; any free one when 0.
        workers: processes.
        keys: file of API keys; None lets anybody ask, on loopback only.
        watch: whether a changed run folder is served by itself.
        metrics_port: on which the supervisor tells metrics on loopback, without a key; None for nowhere.
        tls: certificate and private key, PEM files.
    """

    runs: dict[str, Path]
    config: ServeConfig = field(default_factory=ServeConfig)
    state: str | None = None
    rules: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    keys: Path | None = None
    watch: bool = False
    metrics_port: int | None = None
    tls: tuple[Path | None, Path | None] = (None, None)

    @property
    def folder(self) -> Path | None:
        """The state, where it is a folder."""
        return None if self.state is None or on_a_server(self.state) else Path(self.state)

    @property
    def versions(self) -> Path | None:
        """Where versions outlive the service; None where they do not."""
        if self.config.versions:
            return Path(self.config.versions)
        return None if self.folder is None else self.folder / "versions"

    def check(self) -> None:
        """Refuse what cannot be served, before anything is started.

        Raises:
            ConfigError: no keys beside a public address, or a split of runs that are not served.
        """
        if self.keys is None and self.host not in LOOPBACK:
            raise ConfigError(
                f"--host {self.host} can be reached from outside, and without --api-key-file anybody may ask; make a "
                "key with `recsys serve-key NAME --scope read --file keys.toml`, or bind 127.0.0.1"
            )
        if self.keys is not None:
            read_keys(self.keys)
        if (self.tls[0] is None) != (self.tls[1] is None):
            raise ConfigError("--tls-cert and --tls-key belong together; give both or neither")
        check_split(self.config.split, list(self.runs))
