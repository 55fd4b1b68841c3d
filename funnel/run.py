"""The trained stages as files of a run, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..artifacts.folder import Run
from ..artifacts.names import CONFIG, INDEX
from ..base.errors import RunError
from ..configs.run import RunConfig, load_kept_config
from ..data import store
from ..data.dataset import Dataset
from ..ranking.blend_search import FoundBlend
from ..ranking.calibrate import Calibrator
from ..ranking.ranker import Ranker
from ..ranking.train import TrainedRanker, build_model
from ..retrieval.baselines import baseline_from_state
from ..retrieval.baselines.base import Baseline
from ..retrieval.baselines.segment import SEGMENT_POPULARITY, segment_traits
from ..retrieval.index import load_index
from ..retrieval.index.base import CandidateIndex
from ..retrieval.retriever import TOWER, Retriever
from ..retrieval.towers.train import build_two_tower
from ..retrieval.towers.two_tower import TwoTower
from ..retrieval.towers.windows import TowerData

TOWERS = "retrieval/model.safetensors"
VECTORS = "retrieval/item_vectors.npy"
ITEM_IDS = "retrieval/item_ids.json"
RANKER = "ranking/model.safetensors"
CALIBRATORS = "ranking/calibrators.json"
BLEND = "ranking/blend.json"
TOWER_STATE = "retrieval/optimizer.safetensors"
RANKER_STATE = "ranking/optimizer.safetensors"
DATA = {part: f"data/{part}" for part in (store.ARRAYS, store.ENCODERS, store.IDS, store.SCHEMA)}


@dataclass(frozen=True)
class Stages:
    """A run in memory.

    Attributes:
        config: resolved configuration.
        dataset: encoded data.
        retriever: first stage, None for a ranking-only run.
        model: second stage as it answers requests, None for a retrieval-only run.
        ranker: the ranker inside `model`.
        calibrators: per binary task.
        found_blend: weights found by search on the validation part, if the run has them.
    """

    config: RunConfig
    dataset: Dataset
    retriever: Retriever | None
    model: nn.Module | None
    ranker: Ranker | None
    calibrators: Mapping[str, Calibrator]
    found_blend: FoundBlend | None = None


def save_weights(model: nn.Module, file: Path) -> None:
    """Parameters and buffers as safetensors."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)


def save_state(state: Mapping[str, Tensor], file: Path) -> None:
    """An optimiser's state as safetensors."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, file)


def load_weights(model: nn.Module, file: Path) -> None:
    """Parameters and buffers from safetensors.

    Raises:
        RunError: the file belongs to another model.
    """
    from safetensors.torch import load_file

    weights = load_file(file)
    expected = model.state_dict()
    if weights.keys() != expected.keys() or any(weights[n].shape != expected[n].shape for n in expected):
        odd = sorted(weights.keys() ^ expected.keys()) or [n for n in expected if weights[n].shape != expected[n].shape]
        raise RunError(f"{file} holds weights of another model (first difference: {odd[0]}); train the run again")
    model.load_state_dict(weights)


def save_retriever(retriever: Retriever, dataset: Dataset, folder: Path) -> None:
    """Towers, companions and the vectors that an index is built from."""
    from safetensors.numpy import save_file

    save_weights(retriever.model, folder / TOWERS)
    np.save(folder / VECTORS, retriever.item_vectors)
    ids = list(dataset.item_ids[: dataset.num_catalogue])
    (folder / ITEM_IDS).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    for name, companion in retriever.companions.items():
        arrays = {key: np.ascontiguousarray(values) for key, values in companion.state().items()}
        save_file(arrays, folder / companion_file(name))


def companion_file(name: str) -> str:
    """Logical name of a baseline's file."""
    return f"retrieval/baseline-{name}.safetensors"


def save_ranker(trained: TrainedRanker, folder: Path) -> None:
    """Ranker weights, calibrators, and the blend where one was searched."""
    save_weights(trained.model, folder / RANKER)
    state = {
        task: {key: values.tolist() for key, values in calibrator.to_arrays().items()}
        for task, calibrator in trained.calibrators.items()
    }
    (folder / CALIBRATORS).write_text(json.dumps(state), encoding="utf-8")
    if trained.blend is not None:
        (folder / BLEND).write_text(json.dumps(trained.blend.to_json(), indent=1), encoding="utf-8")


def load_stages(run: Run, with_index: bool = True) -> Stages:
    """Everything a run holds, ready to answer.

    Args:
        run: an opened run.
        with_index: search through the index when the run has one; exactly otherwise.
    """
    config = load_kept_config(run.file(CONFIG))
    dataset = store.load_dataset_files(*(run.file(name) for name in DATA.values()))
    retriever = _load_retriever(run, config, dataset, with_index) if TOWERS in run else None
    model: nn.Module | None = None
    ranker: Ranker | None = None
    calibrators: dict[str, Calibrator] = {}
    if RANKER in run:
        selects = retriever is not None and config.ranking.select.enabled
        features = len(retriever.feature_names) if selects and retriever is not None else 0
        model, ranker = build_model(config.ranking, dataset.layout, dataset.config.tasks, features, config.seed)
        load_weights(model, run.file(RANKER))
        model.eval()
        state: dict[str, Any] = run.read_json(CALIBRATORS)
        calibrators = {
            task: Calibrator.from_arrays({key: np.asarray(values) for key, values in arrays.items()})
            for task, arrays in state.items()
        }
    found = FoundBlend(**run.read_json(BLEND)) if BLEND in run else None
    return Stages(config, dataset, retriever, model, ranker, calibrators, found)


def _load_retriever(run: Run, config: RunConfig, dataset: Dataset, with_index: bool) -> Retriever:
    from safetensors.numpy import load_file

    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
    model = build_two_tower(data, config.retrieval.tower, config.seed)
    load_weights(model, run.file(TOWERS))
    companions: dict[str, Baseline] = {}
    for name in companion_names(config, dataset):
        companions[name] = baseline_from_state(load_file(run.file(companion_file(name))))
    index = None
    if with_index and run.has_directory(INDEX):
        index = load_index(run.directory(INDEX), dim=model.width)
    return assemble_retriever(config, model, data, companions, index)


def assemble_retriever(
    config: RunConfig,
    model: TwoTower,
    data: TowerData,
    companions: Mapping[str, Baseline],
    index: CandidateIndex | None = None,
) -> Retriever:
    """The first stage as the configuration wants it, of trained parts."""
    wanted = config.retrieval
    return Retriever(
        model, data, companions, wanted.proposers, usable_scorers(config, companions), index, wanted.places
    )


def companion_names(config: RunConfig, dataset: Dataset) -> tuple[str, ...]:
    """Baselines a run fits: those in its tables, its proposers and its scorers, and what new users get; no EASE for a
    large catalogue.
    """
    retrieval = config.retrieval
    ladder = ("popularity", *((SEGMENT_POPULARITY,) if segment_traits(dataset, retrieval.segments) else ()))
    wanted = dict.fromkeys((*ladder, *retrieval.baselines, *retrieval.proposers, *retrieval.scorers))
    large = dataset.num_catalogue > retrieval.baseline_items
    kinds = {name: str(retrieval.baseline_options.get(name, {}).get("model", name)) for name in wanted}
    return tuple(name for name in wanted if name != TOWER and not (kinds[name] == "ease" and large))


def usable_scorers(config: RunConfig, companions: Mapping[str, Baseline]) -> tuple[str, ...]:
    """The configured scorers that were fitted."""
    return tuple(name for name in config.retrieval.scorers if name in companions)
