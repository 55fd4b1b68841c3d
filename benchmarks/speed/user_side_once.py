"""What computing the user side once is worth: one user against 500 candidates, with every registered ranker.

Both ways run the same model through its own `forward`. `once` is what a request is served as: one query row, 500 item
rows, `owner` in between. `repeated` is the plain way: the query row written 500 times, history included, as a batch of
logged rows would hold it; the writing is timed with it and costs next to nothing. The logits of both must agree to
1e-5 before anything is timed. Times are medians of passes in turn; the ratio is that of the CPU time spent, which
other work on the machine hardly moves, and beside it that of the clock.

The columns are those of KuaiRand without its counts: 34 categories and 5 numbers of user and moment, one history of 50
events, 11 categories and 3 numbers of the video, and how often its id, author and tag stand in the history. Every
ranker has its default widths and is measured with its default history encoder, the mean, and with a learned one.

What to expect: with a mean the user side is one lookup and some columns of the first layer, so all that is saved is
what those columns cost, and what every candidate needs in any case (its own lookup, its share of the first layer,
experts and towers) bounds the ratio. A recurrence or attention over the history is the larger part of a forward pass
by far, and then the ratio is large. Counts are per candidate however one serves, so `--counts` (13 more on the video's
side, 12 on the user's) lowers it.

    python benchmarks/speed/user_side_once.py --threads 1 --out docs/results/user-side-once.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recsys.benchmarks.harness.provenance import write_speed
from recsys.data.batch import Batch, Block, Layout, SequenceField, SideLayout
from recsys.data.schema import TaskSpec
from recsys.ranking.ranker import Ranker, build_ranker, ranker_class, ranker_kinds
from recsys.training.runtime import RuntimeConfig, start_runtime

TASKS = (TaskSpec(name="click"), TaskSpec(name="conversion", where="click"), TaskSpec(name="like"))
USERS, VIDEOS, AUTHORS, TAGS, GAPS = 20_000, 8_000, 5_000, 60, 40
LENGTH = 50
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shape:
    """How many columns each side has beside its ids."""

    user: int = 33
    user_numbers: int = 5
    video: int = 8
    video_numbers: int = 6  # three of them matches with the history

    @staticmethod
    def with_counts() -> Shape:
        """With the statistics of users, videos, authors, tags and pairs: each a number and its bucket."""
        return Shape(33 + 12, 5 + 12, 8 + 13, 6 + 13)

    def layout(self) -> Layout:
        """Columns and vocabulary sizes: ids, history, then small vocabularies."""
        users = tuple(f"user_{i}" for i in range(self.user))
        videos = tuple(f"video_{i}" for i in range(self.video))
        history = SequenceField("recent", ("video_id", "author_id", "tag"), ("recent.gap",), LENGTH)
        ids = {"user_id": USERS, "video_id": VIDEOS, "author_id": AUTHORS, "tag": TAGS, "recent.gap": GAPS}
        return Layout(
            SideLayout(("user_id", *users), tuple(f"un{i}" for i in range(self.user_numbers)), sequences=(history,)),
            SideLayout(("video_id", "author_id", "tag", *videos), tuple(f"vn{i}" for i in range(self.video_numbers))),
            {**ids, **dict.fromkeys(users, 16), **dict.fromkeys(videos, 16)},
        )


def request(layout: Layout, candidates: int, seed: int) -> Batch:
    """One user with a full history, and the candidates."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count: int, names: tuple[str, ...]) -> torch.Tensor:
        columns = [torch.randint(1, layout.sizes[name], (count,), generator=generator) for name in names]
        return torch.stack(columns, dim=1)

    field = layout.query.sequences[0]
    events = rows(field.length, (*field.of, *field.properties)).unsqueeze(0)
    query = Block(
        rows(1, layout.query.categorical),
        torch.randn(1, len(layout.query.numeric), generator=generator),
        sequences=(events,),
    )
    item = Block(
        rows(candidates, layout.item.categorical),
        torch.randn(candidates, len(layout.item.numeric), generator=generator),
    )
    return Batch(query=query, item=item, owner=torch.zeros(candidates, dtype=torch.int64))


def repeat(batch: Batch) -> Batch:
    """The same rows with the user's written out for every candidate."""
    assert batch.owner is not None
    return replace(batch, query=batch.query.select(batch.owner), owner=None)


def build(kind: str, layout: Layout, history: str, seed: int) -> Ranker:
    """A ranker with its default widths, and its default history encoder unless one is named."""
    keys: dict[str, Any] = {"kind": kind}
    if history:
        keys["input"] = {"history": {"encoder": history}}
    config = ranker_class(kind).Config.model_validate(keys)
    return build_ranker(config, layout, TASKS, seed).eval()


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of one call, by the clock and of this process's CPU time."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - cpu)


@torch.inference_mode()
def measure(model: Ranker, request: Batch, rounds: int) -> dict[str, float]:
    """Check that both ways agree, then time them in turn.

    Raises:
        SystemExit: they do not agree.
    """
    a, b = model(request), model(repeat(request))
    apart = max(float((a[task] - b[task]).abs().max()) for task in a)
    if not apart <= TOLERANCE:
        raise SystemExit(f"{model.kind}: the two ways differ by {apart:.2e}, more than {TOLERANCE}")
    pairs = [(*cost(lambda: model(request)), *cost(lambda: model(repeat(request)))) for _ in range(rounds)]
    once, once_cpu, repeated, repeated_cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "once_ms": once,
        "repeated_ms": repeated,
        "clock_ratio": repeated / once,
        "once_cpu_ms": once_cpu,
        "repeated_cpu_ms": repeated_cpu,
        "ratio": repeated_cpu / once_cpu,
        "largest_difference": apart,
    }


def main() -> None:
    """Parse, measure every ranker, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--kinds", default="", help="comma-separated; all rankers when empty")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--history", default="default,dupn", help="encoders of the history, comma-separated")
    parser.add_argument("--counts", action="store_true", help="with statistics on both sides")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runtime = start_runtime(RuntimeConfig(threads=options.threads), options.seed)
    shape = Shape.with_counts() if options.counts else Shape()
    layout = shape.layout()
    asked = request(layout, options.candidates, options.seed)
    kinds = options.kinds.split(",") if options.kinds else list(ranker_kinds())
    columns = len(layout.query.categorical) + 3, len(layout.item.categorical)
    print(
        f"one user, {options.candidates} candidates; {columns[0]} fields of user and moment, {columns[1]} of the video"
    )
    print(f"{'ranker':<14} {'history':<12} {'once, ms':>9} {'repeated, ms':>13} {'ratio':>7} {'by clock':>9}")
    rows = []
    for kind in kinds:
        measured: set[str] = set()
        for history in options.history.split(","):
            model = build(kind, layout, "" if history == "default" else history, options.seed)
            encoder = model.config.input.history.encoder
            if encoder in measured:
                continue
            measured.add(encoder)
            found = measure(model, asked, options.rounds)
            rows.append({"ranker": kind, "history": encoder, **found})
            print(
                f"{kind:<14} {encoder:<12} {found['once_cpu_ms']:>9.2f} {found['repeated_cpu_ms']:>13.2f} "
                f"{found['ratio']:>7.1f} {found['clock_ratio']:>9.1f}"
            )
    if options.out:
        result = {
            "threads": runtime.threads,
            "candidates": options.candidates,
            "history_length": LENGTH,
            "columns": {
                "query": {"categorical": len(layout.query.categorical), "numeric": len(layout.query.numeric)},
                "item": {"categorical": len(layout.item.categorical), "numeric": len(layout.item.numeric)},
            },
            "counts": options.counts,
            "tasks": len(TASKS),
            "tolerance": TOLERANCE,
            "rounds": options.rounds,
            "seed": options.seed,
            "rows": rows,
        }
        write_speed(options.out, "user_side_once", result)


if __name__ == "__main__":
    main()
