"""Keys open what they may, are stored as hashes, and are let pass so many times a second."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from pathlib import Path
from types import SimpleNamespace

import pytest

from recsys.base.errors import ConfigError
from recsys.cli.main import main
from recsys.serving.config import ServeConfig
from recsys.serving.keys import Bucket, KeyFile, Keys, add_key, read_keys
from recsys.serving.options import Options
from recsys.serving.problems import ProblemError


def test_a_key_is_shown_once_and_stored_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.toml"
    assert main(["serve-key", "shop", "--scope", "read", "--scope", "write", "--rate", "5", "--file", str(file)]) == 0
    key = capsys.readouterr().out.strip()
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    keys = Keys(read_keys(file))
    assert keys.admit(key, "write") == "shop"
    with pytest.raises(ProblemError, match="no scope admin"):
        keys.admit(key, "admin")
    for wrong in (None, "", key[:-1], key + "x", key.upper()):
        with pytest.raises(ProblemError) as caught:
            keys.admit(wrong, "read")
        assert caught.value.slug == "no-key"


def test_a_key_is_compared_with_every_entry_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is a hash, by `hmac.compare_digest`, and no entry is left out: time tells nothing of a key."""
    made = [add_key(tmp_path / "keys.toml", f"key{place}", ("read",)) for place in range(3)]
    keys = Keys(read_keys(tmp_path / "keys.toml"))
    compared: list[tuple[bytes, bytes]] = []

    def digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("recsys.serving.keys.hmac", SimpleNamespace(compare_digest=digest))
    for given in (*made, made[1][:-1], "x", None):
        compared.clear()
        with contextlib.suppress(ProblemError):
            keys.admit(given, "read")
        assert [other for _, other in compared] == [entry.sha256.encode() for entry in keys.entries]
        assert {one for one, _ in compared} == {hashlib.sha256((given or "").encode()).hexdigest().encode()}


def test_key_files_that_are_not_safe_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "a", ("read",))
    with pytest.raises(ConfigError, match="already"):
        add_key(file, "a", ("read",))
    with pytest.raises(ConfigError, match="name of a key"):
        add_key(file, "../a", ("read",))
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(file)
    with pytest.raises(ConfigError, match="serve-key"):
        read_keys(tmp_path / "none.toml")
    assert main(["serve-key", "b", "--scope", "nonsense", "--file", str(tmp_path / "x.toml")]) == 2


def test_a_bucket_lets_its_rate_pass() -> None:
    bucket = Bucket(10.0)
    start = bucket.at
    assert [bucket.wait(start) for _ in range(10)] == [0.0] * 10
    assert bucket.wait(start) == pytest.approx(0.1)
    assert bucket.wait(start + 0.101) == 0.0
    passed = sum(bucket.wait(start + 0.101 + step / 1000) == 0.0 for step in range(3000))
    assert passed == pytest.approx(30, abs=1)


def test_a_rate_is_shared_among_workers(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "slow", ("read",), rate=4.0)
    keys = Keys(read_keys(tmp_path / "keys.toml"), workers=2)
    assert [keys.admit(key, "read") for _ in range(2)] == ["slow", "slow"]
    with pytest.raises(ProblemError) as caught:
        keys.admit(key, "read")
    assert (caught.value.slug, caught.value.headers["Retry-After"]) == ("rate", "1")


def test_without_keys_only_this_machine_may_ask() -> None:
    Options(runs={"main": Path("runs/a")}).check()
    for host in ("0.0.0.0", "192.168.1.4", "::"):
        with pytest.raises(ConfigError, match="--api-key-file"):
            Options(runs={"main": Path("runs/a")}, host=host).check()
    with pytest.raises(ConfigError, match="--also b=DIR"):
        Options(runs={"main": Path("runs/a")}, config=ServeConfig(split={"b": 1.0})).check()
    assert KeyFile().key == ()
