"""The GPU benchmark runs through without a GPU, also where little is installed, and refuses to time what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.benchmarks.gpu import ROOT, ROWS, ceilings, main
from recsys.benchmarks.gpu_rows import Bench
from recsys.tests.devices.probe import NAME, probe
from recsys.tests.support.nonempty import nonempty

ABSENT = ("faiss", "polars", "rich", "pandas", "matplotlib", "tomli_w", "safetensors", "typer", "jinja2")
NEEDED = {"recsys.training.loop", "recsys.ranking.train", "recsys.retrieval.towers.train", "recsys.pipeline.train"}
BARE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_row_but_the_last_keeps_to_its_device() -> None:
    """On the probe a tensor in the wrong place raises; the checks against the CPU and float64 hold there too."""
    with probe():
        bench = Bench(torch.device(NAME, 0), small=True)
        ceilings(bench)
        for name in nonempty([name for name in ROWS if name != "crossover"]):
            assert all(row.seconds > 0 for row in ROWS[name](bench))
    assert {"copy", "sparse adam", "softmax", "mmoe", "towers", "loader", "top-k"} <= bench.checks.keys()


def test_the_file_says_where_its_rows_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    main(["--device", "cpu", "--small", "--rows", "softmax,loader", "--out", str(out)])
    kept = json.loads(out.read_text())
    assert {"commit", "machine", "date", "device", "checks", "command"} <= kept.keys()
    assert [row["what"] for row in kept["rows"]][:2] == ["copy", "product"]
    assert "| full softmax, float32 | 128 x 500 x 128 |" in capsys.readouterr().out


def test_what_is_wrong_is_not_timed() -> None:
    bench = Bench(torch.device("cpu"), small=True)
    with pytest.raises(RuntimeError, match=r"softmax is wrong, and not timed: largest error 0\.5, allowed 0\.1"):
        bench.check("softmax", True, 0.5, 0.1)
    with pytest.raises(RuntimeError, match="nan"):
        bench.check("softmax", True, float("nan"), 0.1)


def test_a_training_and_the_script_need_none_of_what_is_for_people_and_tables() -> None:
    """In one process without these packages: what a training imports, and the script from beginning to end."""
    script = ROOT / "benchmarks" / "gpu.py"
    modules = "".join(f"import {module}\n" for module in sorted(NEEDED))
    code = (
        f"{BARE}{modules}import runpy\nsys.argv = ['gpu.py', '--device', 'cpu', '--small', '--rows', 'sparse,topk']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}runpy.run_path({str(script)!r}, run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sparse step, adam" in done.stdout
