"""A data set that is built once: whole or joined from shards the same files, and a training from it the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.files import visible_files
from recsys.cli.main import main
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TINY, TinyRun

SHORT = (*TINY, "retrieval.fit.epochs=1")
SET = [word for key in SHORT for word in ("--set", key)]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in visible_files(folder)}


@pytest.fixture(scope="module")
def built(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    assert main(["data", "build", str(tiny_run.config_file), *SET, "--out", str(folder / "whole")]) == 0
    sharded = ["--out", str(folder / "shards"), "--shards", "2", "--json"]
    assert main(["data", "build", str(tiny_run.config_file), *SET, *sharded]) == 0
    assert main(["data", "join", str(folder / "shards"), "--out", str(folder / "joined")]) == 0
    return folder


def test_shards_joined_are_what_one_build_writes(built: Path) -> None:
    assert contents(built / "joined") == contents(built / "whole")
    parts = sorted(path.name for path in (built / "shards").iterdir())
    assert parts == ["built.json", "common", "shard-00000-of-00002", "shard-00001-of-00002", "shards.json"]


@pytest.mark.parametrize("kind", ["whole", "shards"])
def test_a_training_from_it_reads_no_table_and_is_the_same(
    tiny_run: TinyRun, built: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(run: Path) -> dict[str, bytes]:
        opened = open_run(run)
        return {name: opened.file(name).read_bytes() for name in opened.manifest.files if name.endswith("safetensors")}

    keys = {"settings": list(SHORT), "stage": "retrieval"}
    recsys.train(config=tiny_run.config_file, run=tmp_path / "tables", **keys)
    with monkeypatch.context() as patch:
        patch.setattr("recsys.pipeline.encoded.read_configured", lambda *_, **__: pytest.fail("a table was read"))
        recsys.train(config=tiny_run.config_file, run=tmp_path / "built", data=built / kind, **keys)
    assert weights(tmp_path / "built") == dict(nonempty(weights(tmp_path / "tables").items()))


def test_what_it_was_not_built_for_is_one_sentence(tiny_run: TinyRun, built: Path, tmp_path: Path) -> None:
    def refused(
        kind: type[Exception], sentence: str, *settings: str, data: Path = built / "whole", **keys: Path
    ) -> None:
        with pytest.raises(kind, match=sentence):
            recsys.train(
                config=tiny_run.config_file, settings=[*SHORT, *settings], run=tmp_path / "no", data=data, **keys
            )

    refused(recsys.RunError, r"was built with another \[data\] section", 'data.split.kind="leave_last"')
    refused(recsys.RunError, "was built with another seed", "seed=9")
    refused(recsys.RunError, "is no data set that was built", data=tmp_path)
    refused(recsys.ConfigError, "going on from a run encodes its own", source=tiny_run.folder)
    refused(recsys.ConfigError, 'set it to "none", or train without --data', 'final.rows="valid"')
    with pytest.raises(recsys.ConfigError, match="name the run with run="):
        recsys.train(config=tiny_run.config_file, settings=list(SHORT), data=built / "whole")
    assert not (tmp_path / "no").exists()


def test_another_folder_is_not_overwritten_and_a_changed_shard_is_found(
    tiny_run: TinyRun, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["data", "build", str(tiny_run.config_file), *SET, "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert json.loads((built / "whole" / "built.json").read_text())["seed"] == 1
    assert main(["data", "join", str(built / "whole"), "--out", str(tmp_path / "x")]) == 1
    assert "holds no shards" in capsys.readouterr().err
