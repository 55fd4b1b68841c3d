"""A run is complete or absent: whenever a writer dies, whatever happens to a file."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from recsys.artifacts.folder import RunWriter, open_run
from recsys.artifacts.locate import find_run, point_latest
from recsys.artifacts.manifest import MANIFEST, RunManifest
from recsys.base.errors import RunError

NAMES = ("config.toml", "retrieval/model.safetensors", "retrieval/index.faiss", "ranking/model.safetensors")


def write(path: Path, generation: int, names: tuple[str, ...] = NAMES) -> None:
    """A run all of whose files hold the same number, so that a mixture of two runs shows."""
    with RunWriter(path, seed=generation, config_hash="c", data_fingerprint="d") as writer:
        for name in names:
            writer.file(name).write_text(f"generation {generation}\n" * 500)


def generation(path: Path) -> int:
    """The number all files of the run at `path` hold."""
    run = open_run(path)
    numbers = {int(run.file(name).read_text().split()[1]) for name in run.manifest.files}
    assert len(numbers) == 1, f"files of several runs: {numbers}"
    return numbers.pop()


def generation_of(file: Path) -> int:
    """The number one file holds."""
    return int(file.read_text().split()[1])


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.artifacts.folder.git_commit", lambda: "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "runs/a", 0)
    return tmp_path / "runs/a"


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a forked process; the process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a process that kills itself before its `step`-th change on disk; whether it died."""
    counter = itertools.count(1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(counter) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def child() -> None:
        for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        work()

    _, status = os.waitpid(in_child(child), 0)
    return os.WIFSIGNALED(status)


def test_a_run_comes_back_as_written(run: Path) -> None:
    opened = open_run(run)
    assert set(opened.manifest.files) == set(NAMES)
    assert generation(run) == 0
    assert opened.manifest.seed == 0
    assert (opened.manifest.config_hash, opened.manifest.data_fingerprint) == ("c", "d")
    assert "torch" in opened.manifest.machine
    assert os.uname().nodename not in opened.manifest.dumps()
    assert sorted(os.listdir(run.parent)) == ["a"]


def test_a_failed_writer_leaves_nothing_behind(run: Path) -> None:
    def fail(path: Path) -> NoReturn:
        with RunWriter(path, seed=1, config_hash="") as writer:
            writer.file("config.toml").write_text("half")
            raise KeyboardInterrupt

    for path in (run, run.parent / "b"):
        with pytest.raises(KeyboardInterrupt):
            fail(path)
    assert generation(run) == 0
    assert sorted(os.listdir(run.parent)) == ["a"]


def test_replacing_a_run_drops_the_files_it_no_longer_has(run: Path) -> None:
    write(run, 1, NAMES[:2])
    assert set(open_run(run).manifest.files) == set(NAMES[:2])
    assert generation(run) == 1
    assert sum(path.is_file() and not path.is_symlink() for path in run.rglob("*")) == 3


def test_killed_before_any_change_on_disk_a_writer_leaves_the_last_whole_run(run: Path) -> None:
    for step in itertools.count(1):
        write(run, 0)
        died = dies_at(step, lambda: write(run, 1))
        assert generation(run) in ((0, 1) if died else (1,))
        if not died:
            break
        write(run, 2)  # whatever was left over is in nobody's way
        assert generation(run) == 2
        assert sorted(os.listdir(run.parent)) == ["a"]
    assert step > 20


def test_killed_before_any_change_on_disk_a_first_writer_leaves_a_whole_run_or_none(tmp_path: Path) -> None:
    for step in itertools.count(1):
        path = tmp_path / str(step) / "a"
        died = dies_at(step, lambda path=path: write(path, 1))  # type: ignore[misc]
        if path.exists():
            assert generation(path) == 1
        else:
            assert died
            with pytest.raises(RunError, match="there is no run"):
                find_run(None, path.parent)
        if not died:
            break
    assert step > 10


def test_killed_while_adding_files_a_run_keeps_its_state(run: Path) -> None:
    def add() -> None:
        with open_run(run).add_files(remove=["retrieval/"]) as folder:
            for name in ("config.toml", "ranking/model.safetensors", "retrieval/ann/a/b"):
                (folder / name).parent.mkdir(exist_ok=True, parents=True)
                (folder / name).write_text("generation 1\n")

    for step in itertools.count(1):
        write(run, 0)
        died = dies_at(step, add)
        assert generation(run) in ((0, 1) if died else (1,))
        if not died:
            break
    assert set(open_run(run).manifest.files) == {"config.toml", "ranking/model.safetensors", "retrieval/ann/a/b"}
    assert not (run / "retrieval/index.faiss").exists()
    assert step > 10


def test_a_folder_in_a_run_is_replaced_as_a_whole_and_keeps_its_own_names(run: Path) -> None:
    def put(**files: str) -> None:
        with open_run(run).add_files() as folder:
            (folder / "retrieval/ann/parts").mkdir(parents=True)
            for name, text in files.items():
                (folder / "retrieval/ann/parts" / name).write_text(text)

    for _ in range(2):  # the same content twice must not lose it
        put(manifest="1", vectors="1")
        ann = open_run(run).directory("retrieval/ann")
        assert sorted(path.name for path in (ann / "parts").iterdir()) == ["manifest", "vectors"]
    put(manifest="2")
    opened = open_run(run)
    assert [path.name for path in (opened.directory("retrieval/ann") / "parts").iterdir()] == ["manifest"]
    assert opened.file("retrieval/ann/parts/manifest").read_text() == "2"
    assert len(list((run / "retrieval").glob("ann*"))) == 1
    with pytest.raises(RunError, match="has no retrieval/other; build it"):
        opened.directory("retrieval/other", mend="build it")


def test_killed_while_writing_the_same_again_a_run_keeps_it(run: Path) -> None:
    def add() -> None:
        with open_run(run).add_files() as folder:
            (folder / "retrieval/ann").mkdir(parents=True)
            (folder / "retrieval/ann/vectors").write_text("generation 0\n")

    add()
    for step in itertools.count(1):
        died = dies_at(step, add)
        assert generation(run) == 0
        assert "retrieval/ann/vectors" in open_run(run)
        if not died:
            break
    assert step > 5


def test_killed_twenty_times_at_random_moments_the_last_run_still_loads(run: Path) -> None:
    chance = random.Random(0)
    reader, told = os.pipe()

    def keep_writing() -> None:
        for number in itertools.count(last + 1):
            write(run, number)
            os.write(told, number.to_bytes(4, "big"))
            with open_run(run).add_files() as folder:
                (folder / "report.json").write_text(f"generation {number}\n")

    last = 0
    for _ in range(20):
        child = in_child(keep_writing)
        assert select.select([reader], [], [], 60)[0]  # it has written at least one run
        select.select([], [], [], chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while select.select([reader], [], [], 0)[0]:
            last = int.from_bytes(os.read(reader, 4), "big")
        found = generation(run)
        assert found in (last, last + 1)
        last = found
    assert last >= 20


def test_two_writers_of_one_run_do_not_meet(run: Path) -> None:
    for path in (run, run.parent / "b"):
        with RunWriter(path, seed=1, config_hash="") as writer:
            writer.file("config.toml").write_text("first")
            with pytest.raises(RunError, match=r"another process is writing .*; let it end"):
                write(path, 2)
        assert open_run(path).file("config.toml").read_text() == "first"
    opened = open_run(run)
    with opened.add_files() as folder:
        (folder / "config.toml").write_text("changed")
        with pytest.raises(RunError, match="another process is writing"), open_run(run).add_files():
            pass
        with pytest.raises(RunError, match="another process is writing"):
            write(run, 3)
    assert opened.file("config.toml").read_text() == "changed"


def test_a_writer_waits_for_nobody_after_the_other_died(run: Path) -> None:
    def hold() -> None:
        with RunWriter(run, seed=1, config_hash="") as writer:
            writer.file("config.toml").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(hold), 0)
    assert (run.parent / ".a.writing/config.toml").exists()
    write(run, 2)
    assert generation(run) == 2


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    with pytest.raises(RunError, match="photos exists and is no run; choose another --run"):
        write(tmp_path / "photos", 1)
    assert os.listdir(tmp_path / "photos") == ["cat.jpg"]


def test_a_file_that_people_open_keeps_its_name_however_often_it_is_replaced(run: Path) -> None:
    for number in (1, 2):
        write(run, number)
        assert (run / "config.toml").read_text() == open_run(run).file("config.toml").read_text()
        assert (run / "config.toml").read_text().startswith(f"generation {number}\n")
    opened = open_run(run)
    with opened.add_files() as folder:
        (folder / "metrics").mkdir()
        (folder / "metrics/evaluation.json").write_text("{}")
    assert generation_of(run / "config.toml") == 2
    assert {path.name for path in run.glob("config*")} == {"config.toml", opened.manifest.files["config.toml"].path}


def test_files_a_user_put_into_a_run_stay(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    write(run, 1)
    assert (run / "notes.txt").read_text() == "mine"
    assert "notes.txt" not in open_run(run)


def faults() -> dict[str, tuple[Callable[[Path], object], str]]:
    index = "retrieval/index.faiss"

    def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return {
        "missing": (lambda r: (r / index).unlink(), r"index.faiss is missing, though the manifest lists it"),
        "truncated": (
            lambda r: os.truncate(r / index, 100),
            r"index.faiss is truncated: found 100 bytes, expected 6500",
        ),
        "longer": (
            lambda r: (r / index).write_text("x" * 9999),
            r"index.faiss is longer than it was written: found 9999 bytes",
        ),
        "tampered": (
            lambda r: (r / index).write_bytes((r / index).read_bytes().replace(b"0", b"1", 1)),
            r"index.faiss was changed after it was written",
        ),
        "no manifest": (lambda r: (r / MANIFEST).unlink(), r"a has no manifest.json: it is no run"),
        "half a manifest": (lambda r: os.truncate(r / MANIFEST, 200), r"manifest.json is truncated or damaged"),
        "another version": (
            lambda r: edit(r / MANIFEST, lambda m: m.update(format_version=99)),
            r"manifest.json has format version 99, this recsys \S+ reads versions 1 to 2; train the run again",
        ),
        "manifest of something else": (
            lambda r: (r / MANIFEST).write_text('{"name": "my-app"}'),
            r'is no run manifest: found no "format": "recsys-run"',
        ),
        "manifest changed": (
            lambda r: edit(r / MANIFEST, lambda m: m.update(seed=7)),
            r"manifest.json was changed after it was written",
        ),
    }


@pytest.mark.parametrize("fault", list(faults()))
def test_a_damaged_run_says_which_file_is_at_fault(run: Path, fault: str) -> None:
    damage, sentence = faults()[fault]
    damage(run)
    with pytest.raises(RunError, match=sentence) as caught:
        open_run(run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_the_run_lacks_is_named_with_its_mend(run: Path) -> None:
    with pytest.raises(RunError, match=r"a has no metrics/funnel.json; run `recsys evaluate`"):
        open_run(run).read_json("metrics/funnel.json", mend="run `recsys evaluate`")


def test_the_manifest_survives_its_text_form(run: Path) -> None:
    manifest = open_run(run).manifest
    assert RunManifest.loads(manifest.dumps(), run / MANIFEST) == manifest


def test_latest_follows_the_newest_run(run: Path) -> None:
    base = run.parent
    write(base / "b", 1)
    assert find_run(None, base).name == "b"  # no pointer yet: by date
    point_latest(run, base)
    assert find_run(None, base) == base / "a"
    point_latest(base / "b", base)
    assert find_run(None, base) == base / "b"
    assert find_run(base / "latest", base) == base / "b"
    assert find_run(Path("a"), base) == base / "a"
    assert find_run(run, base) == run


def test_latest_is_a_text_file_where_links_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("links are not allowed here")

    write(run.parent / "b", 1)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    point_latest(run, run.parent)
    assert (run.parent / "latest").read_text() == "a\n"
    assert find_run(None, run.parent) == run


def test_a_dangling_pointer_falls_back_to_the_newest_whole_run(run: Path) -> None:
    point_latest(run.parent / "gone", run.parent)
    (run.parent / "half").mkdir()
    assert find_run(None, run.parent) == run


def test_no_run_is_said_plainly(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"there is no run in .*; train one with `recsys train CONFIG`"):
        find_run(None, tmp_path / "nothing")
    with pytest.raises(RunError, match=r"there is no run at missing; runs in .*: a$"):
        find_run(Path("missing"), run.parent)
    with pytest.raises(RunError, match=r"has no manifest.json: it is no run"):
        find_run(tmp_path, run.parent)
