"""Exact resume: a training that is killed and resumed ends as one that was left alone, bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.base.errors import RunError
from recsys.data.loader import Loader
from recsys.nn.dropout import FastDropout
from recsys.nn.embedding import EmbeddingTable
from recsys.training import best, checkpoint
from recsys.training.checkpoint import Checkpointer, Snapshot, capture_rng, restore_rng
from recsys.training.log import TrainingLog
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import OptimConfig, Optimizer

EPOCHS, STEPS_PER_EPOCH = 3, 8


class Clicks:
    """200 rows of two ids and a label."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.rows = torch.stack(
            [torch.randint(1, 20, (200,), generator=generator), torch.randint(21, 60, (200,), generator=generator)], 1
        )
        self.labels = torch.rand(200, generator=generator).round()

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows[rows], self.labels[rows]


class Net(nn.Module):
    """Every source of randomness a model here can have: two kinds of dropout and a generator of its own."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.table = EmbeddingTable({"user": 20, "item": 40}, 4, std=0.3)
        self.layers = nn.Sequential(
            nn.Linear(8, hidden),
            nn.ReLU(),
            FastDropout(0.3, torch.Generator().manual_seed(8)),
            nn.Dropout(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.layers(self.table(rows).flatten(1)).squeeze(1)
        return out


def train(
    folder: Path | None,
    *,
    resume: bool = False,
    kill_at: int = 0,
    epochs: int = EPOCHS,
    hidden: int = 8,
    first_is_best: bool = False,
    optimizers: list[Optimizer] | None = None,
) -> tuple[Net, TrainingLog]:
    """A small training that keeps the last epoch's weights as its best, or the first's.

    It kills its own process in the middle of step `kill_at`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)  # noqa: NPY002
    model = Net(hidden)
    loader = Loader(Clicks(), torch.arange(200), 25, seed=2)
    optimizer = Optimizer(
        model, OptimConfig(lr=0.01, schedule="cosine", clip_norm=1.0, weight_decay=0.01), EPOCHS * len(loader)
    )
    if optimizers is not None:
        optimizers.append(optimizer)
    noise = torch.Generator().manual_seed(6)

    def step(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if kill_at and optimizer.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        labels = batch[1] * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))  # noqa: NPY002
        labels = labels + 0.1 * torch.rand(len(labels), generator=noise)
        loss = nn.functional.mse_loss(model(batch[0]), labels)
        return {"loss": loss, "half": loss / 2}

    def evaluate() -> dict[str, float]:
        return {"loss/valid": float(nn.functional.mse_loss(model(Clicks().rows), Clicks().labels))}

    checkpointer = None if folder is None else Checkpointer(folder, every_steps=3, resume=resume, fingerprint="clicks")
    options = FitOptions(epochs=epochs, metric="loss/valid", greater_is_better=first_is_best, patience=0)
    history = fit(
        step, loader, optimizer, options, evaluate=evaluate, checkpointer=checkpointer, generators={"noise": noise}
    )
    return model, history


def numbers(history: TrainingLog) -> list[dict[str, float]]:
    """The records without what a clock says."""
    return [{k: v for k, v in record.items() if k not in ("seconds", "rows_per_second")} for record in history.records]


def assert_same(one: tuple[Net, TrainingLog], other: tuple[Net, TrainingLog]) -> None:
    assert numbers(one[1]) == numbers(other[1])
    assert (one[1].best_epoch, one[1].best) == (other[1].best_epoch, other[1].best)
    state = other[0].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one[0].state_dict().items())


def kill_in_call(module: object, name: str, call: int) -> None:
    """Make the process die on entering a function for the n-th time."""
    original, calls = getattr(module, name), itertools.count(1)

    def deadly(*arguments: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(module, name, deadly)


def train_and_die(moment: str, folder: Path) -> None:
    """Train until a moment of `KILLS`."""
    place = KILLS[moment]
    if isinstance(place, int):
        train(folder, kill_at=place)
    else:
        kill_in_call(*place)
        train(folder)


def resume_and_keep(folder: Path) -> None:
    """Resume, and write what the training came to for another process to read."""
    model, history = train(folder, resume=True)
    save_file(model.state_dict(), folder / "weights.safetensors")
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(epoch)}\n" for epoch in history.epochs()))


KILLS: dict[str, int | tuple[object, str, int]] = {
    "between epochs": STEPS_PER_EPOCH,
    "in the middle of an epoch": STEPS_PER_EPOCH + 3,
    "half-way through writing": (checkpoint, "sync", 14),
    "while removing an old one": (shutil, "rmtree", 2),
}
SCRIPT = """
import os, pathlib, shutil, sys
sys.path.insert(0, sys.argv[1])
import test_checkpoint as tests

def run(work, *arguments):  # in a process of its own, without paying for the imports again
    child = os.fork()
    if child == 0:
        work(*arguments)
        os._exit(0)
    return os.waitpid(child, 0)[1]

root = pathlib.Path(sys.argv[2])
for moment in tests.KILLS:
    assert run(tests.train_and_die, moment, root / moment) == tests.signal.SIGKILL, moment
shutil.copytree(root / "in the middle of an epoch", root / "resumed")
assert run(tests.resume_and_keep, root / "resumed") == 0
"""


@pytest.fixture(scope="module", autouse=True)
def _threads_as_found() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Net, TrainingLog]:
    return train(None)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints for each moment at which a training process was killed, and one that was resumed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def test_a_new_process_continues_a_killed_one(killed: Path, undisturbed: tuple[Net, TrainingLog]) -> None:
    lines = (killed / "resumed" / "history.jsonl").read_text().splitlines()
    model = Net()
    model.load_state_dict(load_file(killed / "resumed" / "weights.safetensors"))
    assert_same((model, replace(undisturbed[1], records=[json.loads(line) for line in lines])), undisturbed)


@pytest.mark.parametrize("moment", KILLS)
def test_killed_and_resumed_is_undisturbed(moment: str, killed: Path, undisturbed: tuple[Net, TrainingLog]) -> None:
    whole = sorted((killed / moment).glob("checkpoint-*"))
    assert 1 <= len(whole) <= 3
    assert_same(train(killed / moment, resume=True), undisturbed)


def test_a_stopped_training_takes_up_more_epochs(tmp_path: Path, undisturbed: tuple[Net, TrainingLog]) -> None:
    train(tmp_path, epochs=1)
    assert_same(train(tmp_path, epochs=EPOCHS, resume=True), undisturbed)


@pytest.mark.parametrize("in_memory", [best.IN_MEMORY, 0])
def test_the_best_weights_are_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(best, "IN_MEMORY", in_memory)
    alone = train(None, first_is_best=True)
    assert alone[1].best_epoch == 1
    train(tmp_path, epochs=2, first_is_best=True)
    assert_same(train(tmp_path, resume=True, first_is_best=True), alone)


def test_the_optimiser_ends_where_the_kept_weights_do(tmp_path: Path) -> None:
    """A later training takes up both: moments of another epoch would push the weights where they had already been."""
    used: list[Optimizer] = []
    train(None, first_is_best=True, optimizers=used)
    train(None, epochs=1, optimizers=used)
    train(tmp_path, epochs=2, first_is_best=True)
    train(tmp_path, resume=True, first_is_best=True, optimizers=used)
    whole, first, resumed = (optimizer.state_dict() for optimizer in used)
    assert int(first["steps"]) == STEPS_PER_EPOCH
    for name, value in first.items():
        assert torch.equal(whole[name], value), name
        assert torch.equal(resumed[name], value), name


def test_the_generators_matter(
    tmp_path: Path, undisturbed: tuple[Net, TrainingLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would notice a generator that is not put back."""
    train(tmp_path, epochs=1)
    monkeypatch.setattr("recsys.training.loop.restore_rng", lambda *_: None)
    with pytest.raises(AssertionError):
        assert_same(train(tmp_path, resume=True), undisturbed)


def test_a_finished_training_resumes_to_itself(tmp_path: Path, undisturbed: tuple[Net, TrainingLog]) -> None:
    assert_same(train(tmp_path), undisturbed)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert_same(train(tmp_path, resume=True), undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(names) == 2


def test_without_resume_training_starts_anew(tmp_path: Path, undisturbed: tuple[Net, TrainingLog]) -> None:
    train(tmp_path, epochs=2)
    assert_same(train(tmp_path), undisturbed)


def test_another_model_or_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    with pytest.raises(RunError, match=r"another model: 3 tensors differ, such as layers.0.bias, which is \[8\] there"):
        train(tmp_path, resume=True, hidden=9)
    other = Checkpointer(tmp_path, resume=True, fingerprint="views")
    with pytest.raises(RunError, match="another configuration or other data"):
        other.load()


def save(checkpointer: Checkpointer, number: int) -> None:
    checkpointer.save(Snapshot({"a/x": torch.tensor([number])}, {"number": number}))


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    for number in range(12):
        save(checkpointer, number)
        assert len(list(tmp_path.iterdir())) == min(2, number + 1)
    found = Checkpointer(tmp_path, resume=True).load()
    assert found is not None
    assert found.state["number"] == 11
    assert found.group("a")["x"].item() == 11
    assert Checkpointer(tmp_path).load() is None
    checkpointer.clear()
    assert not tmp_path.exists()


@pytest.mark.parametrize("damage", ["truncated tensors", "missing tensors", "truncated state"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1)
    save(checkpointer, 2)
    file = tmp_path / "checkpoint-2" / ("state.json" if damage == "truncated state" else "tensors.safetensors")
    if damage == "missing tensors":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    found = Checkpointer(tmp_path, resume=True).load()
    assert found is not None
    assert found.state["number"] == 1
    (tmp_path / "checkpoint-1" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read \(checkpoint-2, checkpoint-1\)"):
        Checkpointer(tmp_path, resume=True).load()


def test_another_format_is_refused(tmp_path: Path) -> None:
    save(Checkpointer(tmp_path), 1)
    file = tmp_path / "checkpoint-1" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(RunError, match="format 99, expected 1"):
        Checkpointer(tmp_path, resume=True).load()


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    Checkpointer(tmp_path).save(
        Snapshot({"whole": whole, "same": whole, "part": whole[2:4], "turned": whole.view(2, 3).t()})
    )
    found = Checkpointer(tmp_path, resume=True).load()
    assert found is not None
    assert found.tensors["part"].tolist() == [2.0, 3.0]
    assert found.tensors["turned"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_random_states_survive_json_and_disk(tmp_path: Path) -> None:
    own = torch.Generator().manual_seed(1)

    def draw() -> list[float]:
        numpy_draw = float(np.random.randn())  # noqa: NPY002
        torch_draws = [float(torch.rand(())), float(torch.rand((), generator=own))]
        return [random.random(), random.gauss(), numpy_draw, *torch_draws]

    draw()
    captured = capture_rng({"own": own})
    Checkpointer(tmp_path).save(captured)
    expected = [draw(), draw()]
    found = Checkpointer(tmp_path, resume=True).load()
    assert found is not None
    restore_rng(found, {"own": own})
    assert [draw(), draw()] == expected
    with pytest.raises(RunError, match='no state of generator "other"'):
        restore_rng(found, {"other": own})


def test_files_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    final = tmp_path / "checkpoint-1"
    monkeypatch.setattr(checkpoint, "sync", lambda path: seen.append((path.name, final.exists())))
    save(Checkpointer(tmp_path), 1)
    before = [("tensors.safetensors", False), ("state.json", False), ("partial-1", False)]
    assert seen == [*before, (tmp_path.name, True)]
