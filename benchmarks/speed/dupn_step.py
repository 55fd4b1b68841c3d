"""A training step of DUPN's history encoder beside PyTorch's own LSTM at the same sizes.

`torch` is `nn.LSTM` over events and properties side by side, its last state taken: what a recurrent history encoder
cannot do without. `dupn` is the library's encoder: layer norm, dropout, property-gated LSTM, attention over the states.
`window` trains every position, as the retriever does; `last` the final vector, as a ranker does. A step is forward,
backward and fused AdamW on given tensors: no loader and no embedding table on either side. `dupn, fast` runs its
recurrence in bfloat16 where the CPU multiplies that in hardware, which is the default in training; `torch` with the
same switch stands beside it.

`answer` is inference, one user and many: the LSTM's and the encoder's.

    python benchmarks/speed/dupn_step.py --threads 1 --out docs/results/dupn-step.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from recsys.benchmarks.harness.provenance import write_speed
from recsys.nn.precision import bf16_is_fast, recurrent_autocast
from recsys.nn.sequence import SequenceConfig, SequenceEncoder, build_sequence_encoder
from recsys.training.runtime import RuntimeConfig, start_runtime

CPU = torch.device("cpu")


class Sequences:
    """Events, properties, lengths and an upstream gradient."""

    def __init__(self, batch: int, length: int, event: int, properties: int, hidden: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.events = torch.randn(batch, length, event, generator=generator)
        self.properties = torch.randn(batch, length, properties, generator=generator)
        self.lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        self.window_direction = torch.randn(batch, length, hidden, generator=generator)
        self.last_direction = torch.randn(batch, hidden, generator=generator)


class Plain(nn.Module):
    """`nn.LSTM` over [events, properties]."""

    def __init__(self, event: int, properties: int, hidden: int, fast: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(event + properties, hidden, batch_first=True)
        self.fast = fast

    def forward(self, data: Sequences, whole: bool) -> Tensor:
        """All states `[B, L, H]`, or the last valid ones `[B, H]`."""
        with recurrent_autocast(self.fast and self.training, CPU):
            states: Tensor = self.lstm(torch.cat([data.events, data.properties], -1))[0]
        states = states.to(data.events.dtype)
        return states if whole else states[torch.arange(len(states)), data.lengths - 1]


class DUPN(nn.Module):
    """The library's encoder."""

    def __init__(self, event: int, properties: int, hidden: int, fast: bool) -> None:
        super().__init__()
        config = SequenceConfig(encoder="dupn", hidden=hidden, fast=fast)
        self.encoder: SequenceEncoder = build_sequence_encoder(config, event, properties)

    def forward(self, data: Sequences, whole: bool) -> Tensor:
        """As `Plain.forward`, summaries in place of states."""
        if whole:
            found: Tensor = self.encoder(data.events, data.properties)
            return found
        return self.encoder.last(data.events, data.properties, data.lengths)


def step(model: nn.Module, data: Sequences, whole: bool) -> Callable[[], object]:
    """A training step: forward, backward, optimiser."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    data.events.requires_grad_()  # the step of a whole model goes on to the embeddings
    direction = data.window_direction if whole else data.last_direction

    def work() -> None:
        optimizer.zero_grad()
        data.events.grad = None
        (model(data, whole) * direction).sum().backward()
        optimizer.step()

    return work


def answer(model: nn.Module, data: Sequences) -> Callable[[], object]:
    """The last state of every sequence, without gradients."""

    def work() -> Tensor:
        model.eval()
        with torch.inference_mode():
            found: Tensor = model(data, False)
        return found

    return work


def medians(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Name -> milliseconds of a call by the clock and by CPU time: medians of calls taken in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(rounds + 2):
        for name, call in work.items():
            clock, cpu = time.perf_counter(), time.process_time()
            call()
            if turn > 1:  # the first two warm up
                taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    columns = {name: list(zip(*pairs, strict=True)) for name, pairs in taken.items()}
    return {
        name: {"ms": 1e3 * statistics.median(clock), "cpu_ms": 1e3 * statistics.median(cpu)}
        for name, (clock, cpu) in columns.items()
    }


def main() -> None:
    """Parse, time all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lengths", default="50,200", help="of the sequences, comma-separated")
    parser.add_argument("--event", type=int, default=64, help="width of an event's item side")
    parser.add_argument("--properties", type=int, default=16, help="width of its property side")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runtime = start_runtime(RuntimeConfig(threads=options.threads), options.seed)
    # Gradients that fade over hundreds of events end in subnormal numbers, on which the plain LSTM, trained by its last
    # state alone, takes twice the time. Rounding them to zero lets it show what it can do.
    torch.set_flush_denormal(True)
    sizes = options.event, options.properties, options.hidden
    arithmetic = [False, True] if bf16_is_fast() else [False]
    rows = []
    print(f"batch {options.batch}, events {sizes[0]} + {sizes[1]} wide, hidden {sizes[2]}, {runtime.threads} threads")
    print(f"{'what':<16} {'length':>6} {'bfloat16':>9} {'torch, ms':>10} {'dupn, ms':>9} {'ratio':>6} {'by clock':>9}")
    for length in map(int, options.lengths.split(",")):
        data = Sequences(options.batch, length, *sizes, options.seed)
        one = Sequences(1, length, *sizes, options.seed)
        parts: list[tuple[str, bool, dict[str, Callable[[], object]]]] = []
        for fast in arithmetic:
            for whole in (True, False):
                models = {"torch": Plain(*sizes, fast), "dupn": DUPN(*sizes, fast)}
                name = "step, window" if whole else "step, last"
                parts.append((name, fast, {key: step(model, data, whole) for key, model in models.items()}))
        models = {"torch": Plain(*sizes, False), "dupn": DUPN(*sizes, False)}
        parts.append(("answer, one", False, {key: answer(model, one) for key, model in models.items()}))
        parts.append((f"answer, {options.batch}", False, {key: answer(model, data) for key, model in models.items()}))
        for name, fast, work in parts:
            found = medians(work, options.rounds)
            ratio = found["dupn"]["cpu_ms"] / found["torch"]["cpu_ms"]
            clock = found["dupn"]["ms"] / found["torch"]["ms"]
            rows.append({"what": name, "length": length, "bf16": fast, **found, "ratio": ratio, "clock_ratio": clock})
            print(
                f"{name:<16} {length:>6} {'yes' if fast else 'no':>9} {found['torch']['cpu_ms']:>10.2f} "
                f"{found['dupn']['cpu_ms']:>9.2f} {ratio:>6.2f} {clock:>9.2f}"
            )
    if options.out:
        result = {
            "threads": runtime.threads,
            "batch": options.batch,
            "sizes": {"event": sizes[0], "properties": sizes[1], "hidden": sizes[2]},
            "rounds": options.rounds,
            "seed": options.seed,
            "rows": rows,
        }
        write_speed(options.out, "dupn_step", result)


if __name__ == "__main__":
    main()
