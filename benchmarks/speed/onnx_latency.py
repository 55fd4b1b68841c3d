"""The ranker eager, recorded and in ONNX Runtime, and what each makes of a whole request: one thread, the same run.

    python benchmarks/speed/onnx_latency.py --run runs/latest
    python benchmarks/speed/onnx_latency.py --run runs/latest --candidates 200 --out docs/results/onnx.json

Parity comes first: the three answers to the same requests must agree to 1e-5. Then they are timed in turns, requests in
a new order each round, as CPU milliseconds of the process (a busy machine hardly moves them) and wall time. Blocks of
eight users are one pass in torch; the exported ranker takes one request, so it runs eight times.

The rule for a service: ONNX Runtime answers where a whole request costs at most 0.85 of the CPU time alone, and a
request in blocks of eight not more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import recsys
from recsys.data.dataset import NOW
from recsys.funnel.export.networks import as_arrays
from recsys.funnel.export.parts import Parts
from recsys.funnel.export.write import write_onnx
from recsys.ranking.answering import AnsweringModel
from recsys.ranking.requests import RequestBatch, request_batch

Ask = Callable[[Any], Any]
USERS = 32


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--run", default=None, help="run folder or name; the newest by default")
    options.add_argument("--candidates", type=int, default=200)
    options.add_argument("--rounds", type=int, default=20, help="rounds over the requests")
    options.add_argument("--out", type=Path, default=None, help="keep the figures as JSON")
    return options


class Ranked:
    """The ranker of a run in three ways, on requests of random users.

    Args:
        run: the run folder.
        candidates: of each request, at most.
        folder: for the exported network.
    """

    def __init__(self, run: str | None, candidates: int, folder: Path) -> None:
        self.recommender = recsys.load(run, device="cpu")
        self.funnel = self.recommender.funnel
        parts = Parts(self.recommender.trained)
        assert parts.ranker is not None
        self.part = parts.ranker
        write_onnx(self.part.network, folder / "ranker.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "ranker.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.used = {one.name for one in self.session.get_inputs()}
        self.model = self.recommender.trained.model
        assert self.model is not None
        self.recorded = AnsweringModel(self.model)
        data = self.funnel.retriever.data
        rng = np.random.default_rng(0)
        self.users = rng.choice(len(data.history.ptr) - 1, USERS, replace=len(data.history.ptr) <= USERS)
        self.width = min(candidates, data.num_items)

    def request(self, users: Any) -> RequestBatch:
        """A request of some users with as many candidates each."""
        found = self.funnel.retriever.candidates(users, NOW, self.width)
        rows = np.maximum(found.rows, 0)
        return request_batch(self.funnel.dataset, NOW, users, rows, found.features, found.prior)

    def eager(self, request: RequestBatch) -> dict[str, Any]:
        """By torch, operation by operation."""
        assert self.model is not None
        with torch.inference_mode():
            found = self.model(request if self.part.selects else request.batch)
        return {name: values.numpy() for name, values in found.items()}

    def by_record(self, request: RequestBatch) -> dict[str, Any]:
        """By torch, as recorded."""
        return {name: values.numpy() for name, values in self.recorded.logits(request).items()}

    def onnx(self, request: RequestBatch) -> dict[str, Any]:
        """By ONNX Runtime."""
        arrays = as_arrays(self.part.network, self.part.tensors(request))
        found = self.session.run(None, {name: values for name, values in arrays.items() if name in self.used})
        return {name.partition(".")[2]: v for name, v in zip(self.part.network.outputs, found, strict=True)}


def timed(ways: dict[str, Ask], asked: list[Any], rounds: int) -> dict[str, dict[str, float]]:
    """CPU and wall milliseconds of each way: the median over rounds of the mean of a round, ways in turns."""
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name in sorted(ways, key=lambda name: hash((number, name))):
            started, clock = time.process_time(), time.perf_counter()
            for one in asked:
                ways[name](one)
            if number >= 2:  # the first rounds set up and record
                cpu[name].append(1e3 * (time.process_time() - started) / len(asked))
                wall[name].append(1e3 * (time.perf_counter() - clock) / len(asked))
    return {name: {"cpu_ms": statistics.median(cpu[name]), "wall_ms": statistics.median(wall[name])} for name in ways}


def whole_requests(ranked: Ranked, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """A whole request of `size` users, the funnel's own ranker taken for another one: milliseconds per user."""
    funnel = ranked.funnel
    answering: Any = funnel.answering  # its `logits` is what takes turns
    own = answering.logits

    def by_onnx(requests: RequestBatch) -> dict[str, torch.Tensor]:
        blocks = [ranked.onnx(one) for one in each_request(requests)]
        return {name: torch.from_numpy(np.concatenate([block[name] for block in blocks])) for name in blocks[0]}

    def eager(requests: RequestBatch) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values) for name, values in ranked.eager(requests).items()}

    def ask(logits: Ask, users: list[str]) -> None:
        answering.logits = logits
        funnel.recommend(users, 10)

    ids = [funnel.dataset.user_ids[user] for user in ranked.users]
    asked = [ids[start : start + size] for start in range(0, len(ids), size)]
    ways: dict[str, Ask] = {"eager": partial(ask, eager), "recorded": partial(ask, own), "onnx": partial(ask, by_onnx)}
    try:
        found = timed(ways, asked, rounds)
    finally:
        answering.logits = own
    return {name: {key: value / size for key, value in row.items()} for name, row in found.items()}


def each_request(requests: RequestBatch) -> list[RequestBatch]:
    """Requests of several users one by one."""
    batch = requests.batch
    queries, owner = batch.query.rows, batch.owner
    assert owner is not None
    if queries == 1:
        return [requests]
    found = []
    for query in range(queries):
        rows = torch.nonzero(owner == query).squeeze(1)
        one = batch.select(rows)
        single = type(batch)(
            query=batch.query.select(torch.tensor([query])), item=one.item, owner=torch.zeros_like(rows)
        )
        features, prior = requests.features[rows], requests.prior[rows]
        found.append(RequestBatch(single, features, prior, requests.taken[rows]))
    return found


def main() -> None:
    """Check, measure, print, keep."""
    given = parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ranked = Ranked(given.run, given.candidates, Path(folder))
        asked = [ranked.request(np.array([user])) for user in ranked.users]
        worst = 0.0
        for one in asked:
            wanted = ranked.eager(one)
            for found in (ranked.by_record(one), ranked.onnx(one)):
                worst = max(worst, *(float(np.abs(found[name] - wanted[name]).max()) for name in wanted))
        assert worst < 1e-5, f"the three do not agree: {worst}"
        ways: dict[str, Ask] = {"eager": ranked.eager, "recorded": ranked.by_record, "onnx": ranked.onnx}
        result: dict[str, Any] = {
            "ranker": ranked.recommender.config.ranking.model.kind,
            "items": ranked.funnel.retriever.data.num_items,
            "candidates": ranked.width,
            "largest_difference": worst,
            "ranker_alone": timed(ways, asked, given.rounds),
            "whole_request": whole_requests(ranked, 1, given.rounds),
            "whole_request_in_blocks_of_8": whole_requests(ranked, 8, given.rounds),
        }
    for name in ("ranker_alone", "whole_request", "whole_request_in_blocks_of_8"):
        print(name)
        for way, row in result[name].items():
            share = row["cpu_ms"] / result[name]["recorded"]["cpu_ms"]
            print(f"  {way:9} {row['cpu_ms']:7.3f} ms CPU  {row['wall_ms']:7.3f} ms wall  {share:5.2f} of recorded")
    print(f"largest difference {worst:.1e}; {ranked.width} candidates; ranker {result['ranker']}")
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
