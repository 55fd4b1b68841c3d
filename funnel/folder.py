"""A trained run as files of a run folder, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifacts.folder import Run, RunWriter
from ..artifacts.names import (
    CONFIG,
    FINAL,
    INDEX,
    INDEX_REPORT,
    LOG,
    RANKING_HISTORY,
    RETRIEVAL_HISTORY,
    SCHEMA_NOTES,
    WARM_START,
)
from ..base.arrays import AnyArray
from ..base.device import kept_device, pick_device
from ..base.errors import RunError
from ..configs.run import RunConfig, config_hash, load_kept_config, write_config
from ..data import store, store_v1
from ..data.dataset import Dataset
from ..ranking.blend_search import FoundBlend
from ..ranking.calibrate import Calibrator
from ..ranking.ensemble import build_members
from ..ranking.ranker import Ranker
from ..ranking.trees.forest import written_parts
from ..retrieval.baselines import baseline_from_state
from ..retrieval.baselines.base import Baseline
from ..retrieval.index import BuiltIndex, index_device, load_index
from ..retrieval.retriever import Retriever
from ..retrieval.towers.ensemble import build_tower_members
from ..retrieval.towers.two_tower import EMPTY_WEIGHT, make_room
from ..retrieval.towers.windows import TowerData
from .at_rest import settle, settle_tables, wake_tables
from .run import Stage, TrainedRun, assemble_retriever, companion_names

TOWERS = "retrieval/model.safetensors"
VECTORS = "retrieval/item_vectors.npy"
CONTENT = "retrieval/item_content.npy"
NEIGHBOURS = "retrieval/item_neighbours.npy"
RANKER = "ranking/model.safetensors"
TREES = "ranking/trees"
CALIBRATORS = "ranking/calibrators.json"
BLEND = "ranking/blend.json"
OPTIMIZERS: dict[Stage, str] = {
    "retrieval": "retrieval/optimizer.safetensors",
    "ranking": "ranking/optimizer.safetensors",
}
TRAINING: dict[Stage, str] = {"retrieval": RETRIEVAL_HISTORY, "ranking": RANKING_HISTORY}


def save_run(trained: TrainedRun, path: Path, base: Path = Path()) -> None:
    """Publish a trained run as a run folder, whole or not at all.

    Args:
        trained: the run.
        path: the folder; a run that is there is replaced in one step.
        base: folder that the paths in its configuration are relative to.

    Raises:
        RunError: another process is writing the run, or something that is no run is in its place.
    """
    config, dataset = trained.config, trained.dataset
    settle(config, None if trained.retriever is None else trained.retriever.model, trained.model)
    hashed = config_hash(config)
    with RunWriter(path, seed=config.seed, config_hash=hashed, data_fingerprint=dataset.fingerprint) as writer:
        write_config(config, base, writer.file(CONFIG))
        (writer.folder / "data").mkdir()
        store.save_dataset(dataset, writer.folder / "data")
        if trained.retriever is not None:
            _save_retriever(trained.retriever, writer.folder)
            index = trained.retriever.index
            if isinstance(index, BuiltIndex) and trained.index_report is not None:
                index.save(writer.folder / INDEX)
                _write_json(writer.file(INDEX_REPORT), trained.index_report, indent=1)
        if trained.model is not None:
            _save_ranker(trained, writer.folder)
        for stage, epochs in trained.training.items():
            lines = "".join(f"{json.dumps(epoch)}\n" for epoch in epochs)
            writer.file(TRAINING[stage]).write_text(lines, encoding="utf-8")
        for stage, state in trained.optimizers.items():
            save_tensors(state, writer.file(OPTIMIZERS[stage]))
        if trained.warm_start:
            _write_json(writer.file(WARM_START), trained.warm_start, indent=1)
        if trained.final is not None:
            _write_json(writer.file(FINAL), trained.final, indent=1)
        if trained.log is not None:
            _write_json(writer.file(LOG), trained.log, indent=1)
        if trained.schema_notes:
            _write_json(writer.file(SCHEMA_NOTES), list(trained.schema_notes), indent=1)


def load_run(
    run: Run, *, with_index: bool = True, with_optimizers: bool = False, device: str | None = "cpu"
) -> TrainedRun:
    """Everything a run folder holds, ready to answer.

    Args:
        run: an opened run.
        with_index: search through the index when the run has one; exactly otherwise.
        with_optimizers: also read what a training needs that goes on from the run.
        device: where models answer and the index is searched (`pick_device`); what the run's configuration says when
            None, or the CPU where that is not there.

    Raises:
        ConfigError: `device` is not there.
        RunError: a file belongs to another model.
    """
    config = load_kept_config(run.file(CONFIG))
    where = kept_device(config.runtime.device, "the run") if device is None else pick_device(device)
    reader = store_v1 if f"data/{store_v1.ARRAYS}" in run else store
    dataset = reader.load_dataset(lambda name: run.file(f"data/{name}"))
    retriever = _load_retriever(run, config, dataset, with_index, device) if TOWERS in run else None
    if with_optimizers and retriever is not None:
        wake_tables(retriever.model)
    model: nn.Module | None = None
    ranker: Ranker | None = None
    calibrators: dict[str, Calibrator] = {}
    if RANKER in run:
        selects = retriever is not None and config.ranking.select.enabled
        features = len(retriever.feature_names) if selects and retriever is not None else 0
        seeds = config.seed, config.ensemble.seeds
        model, ranker = build_members(config.ranking, dataset.layout, dataset.config.tasks, features, *seeds)
        settle_tables(model, config.ranking.model.table_dtype)
        load_weights(model, run.file(RANKER))
        _load_texts(run, model)
        if with_optimizers:
            wake_tables(model)
        model.eval()
        state: dict[str, Any] = run.read_json(CALIBRATORS)
        calibrators = {
            task: Calibrator.from_arrays({key: np.asarray(values) for key, values in arrays.items()})
            for task, arrays in state.items()
        }
    return TrainedRun(
        config=config,
        dataset=dataset,
        retriever=retriever,
        model=model,
        ranker=ranker,
        calibrators=calibrators,
        found_blend=FoundBlend(**run.read_json(BLEND)) if BLEND in run else None,
        training={stage: run.read_lines(name) for stage, name in TRAINING.items() if name in run},
        index_report=None if retriever is None or retriever.index is None else run.read_json(INDEX_REPORT),
        optimizers=_load_optimizers(run) if with_optimizers else {},
        warm_start=run.read_json(WARM_START) if WARM_START in run else {},
        final=run.read_json(FINAL) if FINAL in run else None,
        schema_notes=tuple(run.read_json(SCHEMA_NOTES)) if SCHEMA_NOTES in run else (),
        log=run.read_json(LOG) if LOG in run else None,
    ).to(where)


def save_weights(model: nn.Module, file: Path) -> None:
    """Parameters and buffers as safetensors."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, file)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Named tensors, such as an optimiser's state, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)


def load_weights(model: nn.Module, file: Path) -> None:
    """Parameters and buffers from safetensors.

    Raises:
        RunError: the file belongs to another model.
    """
    from safetensors.torch import load_file

    kept = load_file(file)
    make_room(model, kept)
    expected = model.state_dict()
    later = {name: value for name, value in expected.items() if name.rpartition(".")[2] == EMPTY_WEIGHT}
    weights = {**later, **kept}  # a run of an earlier version means what a fresh model starts with
    if weights.keys() != expected.keys() or any(weights[n].shape != expected[n].shape for n in expected):
        odd = sorted(weights.keys() ^ expected.keys()) or [n for n in expected if weights[n].shape != expected[n].shape]
        raise RunError(f"{file} holds weights of another model (first difference: {odd[0]}); train the run again")
    model.load_state_dict(weights)


def _save_retriever(retriever: Retriever, folder: Path) -> None:
    """Towers, companions and the vectors that an index is built from."""
    from safetensors.numpy import save_file

    save_weights(retriever.model, folder / TOWERS)
    np.save(folder / VECTORS, retriever.item_vectors)
    if not retriever.model.vectors_hold_content:
        np.save(folder / CONTENT, retriever.content.numpy())
    if retriever.data.near is not None:
        np.save(folder / NEIGHBOURS, retriever.data.near.numpy())
    for name, companion in retriever.companions.items():
        arrays = {key: np.ascontiguousarray(values) for key, values in companion.state().items()}
        save_file(arrays, folder / companion_file(name))


def companion_file(name: str) -> str:
    """Logical name of a baseline's file."""
    return f"retrieval/baseline-{name}.safetensors"


def _save_ranker(trained: TrainedRun, folder: Path) -> None:
    """Ranker weights, boosted trees, calibrators, and the blend where one was searched."""
    assert trained.model is not None
    save_weights(trained.model, folder / RANKER)
    for place, part in enumerate(written_parts(trained.model)):
        (folder / TREES).mkdir(parents=True, exist_ok=True)
        for name, text in part.texts().items():
            (folder / TREES / f"{place}-{name}").write_text(text, encoding="utf-8")
    state = {
        task: {key: values.tolist() for key, values in calibrator.to_arrays().items()}
        for task, calibrator in trained.calibrators.items()
    }
    _write_json(folder / CALIBRATORS, state)
    if trained.found_blend is not None:
        _write_json(folder / BLEND, trained.found_blend.to_json(), indent=1)


def _load_texts(run: Run, model: nn.Module) -> None:
    """Give the parts that are kept as texts their own."""
    for place, part in enumerate(written_parts(model)):
        folder, mark = run.directory(TREES), f"{place}-"
        files = [file for file in sorted(folder.iterdir()) if file.name.startswith(mark)]
        part.read_texts({file.name.removeprefix(mark): file.read_text(encoding="utf-8") for file in files})


def _load_retriever(run: Run, config: RunConfig, dataset: Dataset, with_index: bool, device: str | None) -> Retriever:
    near = _mapped(run, NEIGHBOURS)
    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive, config.retrieval.seen, near)
    model = build_tower_members(data, config.retrieval.tower, config.seed, config.ensemble.seeds)
    settle_tables(model, config.retrieval.tower.table_dtype)
    load_weights(model, run.file(TOWERS))
    companions: dict[str, Baseline] = {}
    for name in companion_names(config, dataset):
        loaded = baseline_from_state(mapped_arrays(run.file(companion_file(name))))
        any(loaded.adopt(other) for other in companions.values())  # as they were fitted: what is equal is held once
        companions[name] = loaded
    index = None
    if with_index and run.has_directory(INDEX):
        where = index_device(config.index.device, data.num_items) if device is None else pick_device(device)
        index = load_index(run.directory(INDEX), dim=model.width, device=where)
    vectors = np.load(run.file(VECTORS), mmap_mode="c", allow_pickle=False)
    if vectors.shape != (data.num_items, model.width):
        raise RunError(
            f"{run.file(VECTORS)} holds vectors of shape {list(vectors.shape)}, "
            f"expected {[data.num_items, model.width]}; train the run again"
        )
    return assemble_retriever(config, model, data, companions, index, vectors, _mapped(run, CONTENT))


def _mapped(run: Run, name: str) -> torch.Tensor | None:
    """An array of a run, mapped; None where the run has none of that name."""
    return torch.from_numpy(np.load(run.file(name), mmap_mode="c", allow_pickle=False)) if name in run else None


def mapped_arrays(file: Path) -> dict[str, AnyArray]:
    """Arrays of a safetensors file, mapped: processes that answer from the same run share their pages.

    They may be written, in this process's memory alone. The reader for NumPy copies; that for torch maps.
    """
    from safetensors.torch import load_file

    return {name: tensor.numpy() for name, tensor in load_file(file).items()}


def _load_optimizers(run: Run) -> dict[Stage, Mapping[str, Tensor]]:
    from safetensors.torch import load_file

    return {stage: load_file(run.file(name)) for stage, name in OPTIMIZERS.items() if name in run}


def _write_json(file: Path, content: object, indent: int | None = None) -> None:
    file.write_text(json.dumps(content, indent=indent), encoding="utf-8")
