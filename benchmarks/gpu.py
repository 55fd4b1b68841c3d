"""How fast a GPU is at what the library does on it, beside what its memory and multipliers allow, and beside the CPU.

    python benchmarks/gpu.py                      # on a machine with a GPU, less than five minutes
    python benchmarks/gpu.py --device cpu --small # whether the script works

Needs torch, numpy, pyarrow, scipy and pydantic, and no installation of the library: it is found beside this script.
Every row makes its own data, is checked before it is timed (against float64, with outputs that held other numbers
before), and is the median of several runs by the device's own clock. Two ceilings come first, and floors are computed
from them. The result is one JSON file, with where it comes from, and a table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("recsys") is None:  # a checkout of any name is the package
    spec = importlib.util.spec_from_file_location(
        "recsys", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["recsys"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["recsys"])

import torch  # noqa: E402

from recsys.base.device import device_name, pick_device  # noqa: E402
from recsys.benchmarks.gpu_rows import Bench, Row, crossover, loader, mmoe, softmax, sparse, topk, towers  # noqa: E402
from recsys.benchmarks.harness.provenance import provenance  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]
ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "sparse": sparse,
    "softmax": softmax,
    "mmoe": mmoe,
    "towers": towers,
    "loader": loader,
    "topk": topk,
    "crossover": crossover,
}


def ceilings(bench: Bench) -> list[Row]:
    """Bytes a second of a copy, read and written ones counted, and operations a second of a product."""
    large = bench.size(1 << 28, 1 << 20)
    source = torch.rand(large, device=bench.device)
    target = torch.full_like(source, 7.0)
    target.copy_(source)
    bench.check("copy", bool((target == source).all()), 0.0)
    seconds = bench.seconds(lambda: target.copy_(source))
    bench.bytes_a_second = 8 * large / seconds
    side = bench.size(8192, 256)
    kind = torch.bfloat16 if bench.gpu else torch.float32
    one, other = (torch.randn(side, side, device=bench.device).to(kind) for _ in range(2))
    out = torch.full_like(one, 7.0)
    torch.mm(one, other, out=out)
    exact = one[:8].double() @ other.double()
    bench.check(
        "product", bool(torch.isfinite(out).all()), float((out[:8] - exact).abs().max() / exact.abs().max()), 1e-2
    )
    seconds_mm = bench.seconds(lambda: torch.mm(one, other, out=out))
    bench.operations_a_second = 2 * side**3 / seconds_mm
    return [
        Row("copy", f"{large:,} float32", seconds, f"{bench.bytes_a_second / 1e9:,.0f} GB/s"),
        Row("product", f"{side}^3 {kind}", seconds_mm, f"{bench.operations_a_second / 1e12:,.1f} TFLOP/s"),
    ]


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | shape | ms | floor, ms | times floor | |", "|---|---|---|---|---|---|"]
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor * 1e3:.3f}"
        times = "" if row.floor is None else f"{row.seconds / row.floor:.1f}"
        lines.append(f"| {row.what} | {row.shape} | {row.seconds * 1e3:.3f} | {floor} | {times} | {row.says} |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """The crossover: milliseconds of a search over the catalogue's size, one line a batch and engine (matplotlib)."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(7, 4.5))
    axes: Axes = figure.add_subplot()
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.what == "crossover":
            lines.setdefault(str(row.more["line"]), []).append((float(row.more["items"]), row.seconds * 1e3))
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="items", ylabel="milliseconds a batch")
    axes.legend()
    figure.savefig(path)


def main(argv: list[str] | None = None) -> Json:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="sizes that show only whether the script works")
    parser.add_argument("--rows", default=",".join(ROWS), help="which of them, separated by commas")
    kept = ROOT / "docs" / "results" / "speed-gpu.json"
    parser.add_argument("--out", type=Path, help=f"the JSON file; {kept.relative_to(ROOT)} unless --small")
    parser.add_argument("--plot", type=Path, help="also draw the crossover into this picture")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    started = time.perf_counter()
    bench = Bench(pick_device(options.device), options.small)
    rows = ceilings(bench)
    for name in options.rows.split(","):
        begun = time.perf_counter()
        rows += ROWS[name](bench)
        print(f"{name}: {time.perf_counter() - begun:.1f} s", file=sys.stderr)
    result: Json = {
        "benchmark": "gpu",
        "command": " ".join(["python", "benchmarks/gpu.py", *(sys.argv[1:] if argv is None else argv)]),
        **provenance(),
        "device": device_name(bench.device),
        "small": options.small,
        "seconds": round(time.perf_counter() - started, 1),
        "checks": bench.checks,
        "rows": [row.to_json() for row in rows],
    }
    if out := options.out or (None if options.small else kept):
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(rows, options.plot)
    print(table(rows))
    return result


if __name__ == "__main__":
    main()
