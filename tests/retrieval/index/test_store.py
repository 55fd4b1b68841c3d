from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from recsys.base.errors import RunError
from recsys.retrieval.index import ExactIndex, FaissIndex, fingerprint, load_index


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def saved(tmp_path: Path, vectors: np.ndarray) -> Path:
    index = FaissIndex.build(vectors, "IVF8,SQ8")
    index.delete([4])
    index.save(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    sidecar = folder / "index.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))


def test_what_is_saved_comes_back(saved: Path, vectors: np.ndarray) -> None:
    loaded = load_index(saved, dim=8, normalised=True, vectors_sha256=fingerprint(vectors))
    assert (loaded.size, loaded.num_rows, loaded.dim) == (499, 500, 8)
    assert 4 not in loaded.search(vectors[4:5], 400).rows
    assert {file.name.split("-")[0] for file in saved.iterdir()} == {"index.json", "index", "slots"}


def test_a_file_that_lost_its_end_or_was_changed_is_named(saved: Path) -> None:
    for pattern in ("index-*.faiss", "slots-*.i64"):
        file = next(saved.glob(pattern))
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        with pytest.raises(RunError, match=rf"{file.name} has {len(whole) - 5} bytes, expected {len(whole)}"):
            load_index(saved)
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(RunError, match=rf"{file.name} is not the file that index.json describes"):
            load_index(saved)
        file.unlink()
        with pytest.raises(RunError, match=rf"{file.name} cannot be read"):
            load_index(saved)
        file.write_bytes(whole)


def test_a_missing_or_broken_sidecar_is_named(saved: Path) -> None:
    with pytest.raises(RunError, match="holds no index"):
        load_index(saved / "nowhere")
    edit(saved, dim="wide")
    with pytest.raises(RunError, match=r"index.json is damaged at 'dim'"):
        load_index(saved)
    edit(saved, format_version=99)
    with pytest.raises(RunError, match="format version 99, this release reads 1"):
        load_index(saved)
    (saved / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"index.json is no readable JSON"):
        load_index(saved)


def test_an_index_of_another_metric_width_or_length_is_refused(saved: Path, vectors: np.ndarray) -> None:
    with pytest.raises(RunError, match="width 8, the model makes 16"):
        load_index(saved, dim=16)
    with pytest.raises(RunError, match="indexes unit vectors, the model makes other ones"):
        load_index(saved, normalised=False)
    FaissIndex.build(vectors, "Flat").save(saved)
    with pytest.raises(RunError, match="built from other item vectors"):
        load_index(saved, vectors_sha256=fingerprint(vectors[::-1]))
    edit(saved, metric="l2")
    with pytest.raises(RunError, match=r"metric 'l2'.*'inner_product'"):
        load_index(saved)


def test_an_l2_file_behind_a_truthful_sidecar_is_refused(saved: Path, vectors: np.ndarray) -> None:
    index = FaissIndex.build(vectors, "Flat")
    index._index = faiss.IndexFlatL2(8)
    index._index.add(vectors)
    index.save(saved)
    with pytest.raises(RunError, match=r"\.faiss measures FAISS metric 1"):
        load_index(saved)


def test_a_sidecar_cannot_reach_outside_its_folder(saved: Path) -> None:
    files = json.loads((saved / "index.json").read_text())["files"]
    files["index"]["name"] = "../" + files["index"]["name"]
    edit(saved, files=files)
    with pytest.raises(RunError, match="outside its folder"):
        load_index(saved)


def test_saving_again_leaves_only_the_new_files(saved: Path, vectors: np.ndarray) -> None:
    ExactIndex(vectors).save(saved)
    assert {file.name.split("-")[0] for file in saved.iterdir()} == {"index.json", "vectors"}
    assert isinstance(load_index(saved), ExactIndex)


def test_a_save_that_is_killed_at_any_rename_leaves_the_former_index(saved: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from recsys.retrieval.index import FaissIndex, load_index
        index = FaissIndex.build(np.ones((600, 8), dtype=np.float32), "Flat")
        index.delete([1])
        rename = os.replace
        for moment in (1, 2, 3, 4):
            left = [moment]
            def killing(source, target):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return rename(source, target)
            child = os.fork()
            if child == 0:
                os.replace = killing
                index.save(Path(sys.argv[1]))
                os._exit(0)
            print(os.waitpid(child, 0)[1], load_index(Path(sys.argv[1])).num_rows)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(saved)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    killed = f"{int(signal.SIGKILL)} 500"
    assert child.stdout.splitlines() == [killed, killed, killed, "0 600"]
