"""The doctor finds what is wrong with a run, and says what to do."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recsys.artifacts.folder import RunWriter
from recsys.artifacts.names import CONFIG, EVALUATION
from recsys.base.finding import Finding
from recsys.base.package import install_hint
from recsys.base.pairs import torchrec_finding
from recsys.cli.health import environment, run_health
from recsys.configs.file import dump_toml
from recsys.configs.run import RunConfig, with_settings
from recsys.data.schema import DataConfig

GOOD: dict[str, Any] = {
    "retrieval": {"two_tower": {"ndcg@10": 0.2}, "popularity": {"ndcg@10": 0.1}},
    "index": {"ann_recall@100": 0.99, "target_recall": 0.98},
    "ranking": {"click": {"auc": 0.75}},
    "funnel": {"ndcg@10": 0.25},
    "findings": [],
}


def a_run(folder: Path, *, weight: float = 1.0, collapsed: bool = False, metrics: dict[str, Any] | None = None) -> Path:
    """A small run with one of everything the doctor looks at."""
    vectors = np.random.default_rng(0).normal(size=(200, 9)).astype(np.float32)
    vectors[:, -1] += 50  # the item bias, which makes no two items alike
    if collapsed:
        vectors = 0.01 * vectors + 1
    config = RunConfig(name="small", data=DataConfig(events="events.csv", user="user", item="item"))
    config = with_settings(config, ["retrieval.tower.dim=8"])
    with RunWriter(folder, seed=0, config_hash="") as writer:
        save_file({"w": torch.tensor([1.0, weight])}, writer.file("ranking/model.safetensors"))
        np.save(writer.file("retrieval/item_vectors.npy"), vectors)
        writer.file(CONFIG).write_text(dump_toml(config))
        if metrics is not None:
            writer.file(EVALUATION).write_text(json.dumps(metrics))
    return folder


def complaints(run: Path) -> dict[str, str]:
    return {fault.about: fault.sentence for fault in run_health(run) if fault.level in ("warning", "problem")}


def test_a_healthy_run_has_no_complaints(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", metrics=GOOD)
    assert complaints(run) == {}
    assert {finding.about for finding in run_health(run)} >= {"files", "index", "retriever", "funnel"}


def test_a_run_not_yet_evaluated_is_told_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    assert complaints(run) == {}
    assert any("not evaluated yet; run `recsys evaluate" in finding.sentence for finding in run_health(run))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_found(tmp_path: Path, weight: float) -> None:
    assert "NaN or infinity in w" in complaints(a_run(tmp_path / "a", weight=weight))["ranking/model.safetensors"]


def test_collapsed_embeddings_are_found(tmp_path: Path) -> None:
    assert "cosine" in complaints(a_run(tmp_path / "a", collapsed=True))["retrieval/item_vectors.npy"]


@pytest.mark.parametrize(
    ("section", "change", "subject", "sentence"),
    [
        ("retrieval", {"two_tower": {"ndcg@10": 0.1}, "popularity": {"ndcg@10": 0.1}}, "retriever", "of popularity"),
        ("funnel", {"ndcg@10": 0.15}, "funnel", "makes lists worse"),
        ("index", {"ann_recall@100": 0.9, "target_recall": 0.98}, "index", "below the target 0.98"),
        ("ranking", {"click": {"auc": 0.999}}, "task click", "label leakage suspected"),
        ("ranking", {"click": {"auc": 0.49}}, "task click", "no better than chance"),
        ("findings", [{"severity": "error", "name": "bad_index", "sentence": "It is off."}], "bad index", "It is off."),
    ],
)
def test_bad_numbers_are_found(tmp_path: Path, section: str, change: Any, subject: str, sentence: str) -> None:
    found = complaints(a_run(tmp_path / "a", metrics={**GOOD, section: change}))
    assert list(found) == [subject]
    assert sentence in found[subject]


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    (run / "retrieval/item_vectors.npy").write_bytes(b"short")
    assert "item_vectors.npy is truncated" in complaints(run)["files"]


def test_the_environment_of_the_tests_is_fine(tmp_path: Path) -> None:
    found = list(environment(tmp_path))
    assert [finding for finding in found if finding.level == "problem"] == []
    assert {"python", "faiss", "threads", "disk"} <= {finding.about for finding in found}


PACKAGES = {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}


@pytest.mark.parametrize(
    ("installed", "level", "sentence"),
    [
        ((), "note", f"not installed, so every search is exact; {install_hint('cpu')} for large catalogues"),
        (("faiss-cpu",), "problem", "faiss-cpu 1.15.1 cannot be imported"),
        (
            ("faiss-cpu", "faiss-gpu"),
            "problem",
            "overwrite each other's files; run `pip uninstall faiss-cpu faiss-gpu`",
        ),
    ],
)
def test_faiss_is_missing_broken_or_there_twice(
    installed: tuple[str, ...], level: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return PACKAGES[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now fails
    [finding] = [finding for finding in environment(tmp_path) if finding.about == "faiss"]
    assert finding.level == level
    assert sentence in finding.sentence


def test_a_missing_package_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["no-such-package>=2", "x>=1; extra == 'dev'"])
    found = [finding for finding in environment(tmp_path) if finding.level == "problem"]
    assert found == [
        Finding(
            "problem",
            "no-such-package",
            "is not installed, expected no-such-package>=2; run `pip install 'no-such-package>=2'`",
        )
    ]


@pytest.mark.parametrize(
    ("torch_version", "fbgemm", "torchrec", "level", "sentence"),
    [
        ("2.13.0+cpu", None, None, "note", "FBGEMM absent, TorchRec absent; needed only for runtime.engine"),
        ("2.13.0+cpu", "1.8.0", "1.8.0", "ok", "torch 2.13.0+cpu, FBGEMM 1.8.0, TorchRec 1.8.0 fit together"),
        ("2.13.0", "1.9.0", "1.8.0", "warning", "torch 2.13 with FBGEMM 1.8.0 and TorchRec 1.8.0 is: run `make torch"),
        ("2.14.0", "1.8.0", "1.8.0", "warning", "were not tried together"),
        ("2.13.0", "1.8.0", None, "warning", "TorchRec absent were not tried together"),
    ],
)
def test_packages_that_fit_only_together_are_named_with_the_mend(
    torch_version: str, fbgemm: str | None, torchrec: str | None, level: str, sentence: str, monkeypatch: Any
) -> None:
    versions = {"torch": torch_version, "fbgemm-gpu-cpu": fbgemm, "fbgemm-gpu": None, "torchrec": torchrec}
    monkeypatch.setattr("recsys.base.pairs.installed", lambda name: versions.get(name, "1.0"))
    found = torchrec_finding()
    assert (found.level, found.about) == (level, "torchrec")
    assert sentence in found.sentence


def test_torchrec_without_what_it_imports_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0", "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.8.0", "pyvers": None}
    monkeypatch.setattr("recsys.base.pairs.installed", lambda name: versions.get(name, "1.0"))
    assert "TorchRec 1.8.0, without pyvers: run `make torchrec`" in torchrec_finding().sentence
