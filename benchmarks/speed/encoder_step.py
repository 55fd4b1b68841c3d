"""What a training step of every history encoder costs at one width: CPU milliseconds of forward, backward and AdamW.

A step is over a window of events, every position of which is learned, as in the towers; `bert4rec` fills in a fifth of
them. No loader, no embedding table and no loss: what the softmax costs beside it is in `two_tower_throughput.py`.
CPU time hardly depends on what else the machine does.

    python benchmarks/speed/encoder_step.py --batch 16 --length 200 --width 128
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from recsys.benchmarks.speed.dupn_step import medians
from recsys.nn.sequence import ENCODERS, SequenceConfig, SequenceEncoder, build_sequence_encoder
from recsys.training.runtime import RuntimeConfig, start_runtime

RECURRENT = ("lstm", "dupn", "gru4rec")
"""Encoders timed with one layer; those that attend have two, the means none."""


def training_step(name: str, batch: int, length: int, width: int, timed: bool = True) -> Callable[[], object]:
    """A step of an encoder on given events.

    Args:
        name: of the encoder.
        batch: windows B.
        length: events of each L.
        width: of events and states.
        timed: whether the times of the events are given.
    """
    generator = torch.Generator().manual_seed(1)
    events = torch.randn(batch, length, width, generator=generator).requires_grad_()
    times = torch.rand(batch, length, generator=generator, dtype=torch.float64).mul(1e7).sort(1).values
    hidden = torch.rand(batch, length, generator=generator) < 0.2
    lengths = torch.full((batch,), length)
    layers = 1 if name in RECURRENT else 2
    config = SequenceConfig(encoder=name, hidden=width, layers=layers, max_length=length)
    model: SequenceEncoder = build_sequence_encoder(config, width).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def states() -> Tensor:
        more = {"times": times if timed else None}
        if model.fills:
            return model.filled(events, None, hidden, lengths, **more)
        found: Tensor = model(events, None, lengths, **more)
        return found

    def work() -> None:
        optimizer.zero_grad()
        events.grad = None
        states().sum().backward()
        optimizer.step()

    return work


def main() -> None:
    """Parse, time all in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    start_runtime(RuntimeConfig(threads=1), 1)
    sizes = options.batch, options.length, options.width
    work = {name: training_step(name, *sizes) for name in ENCODERS}
    work["transformer without times"] = training_step("transformer", *sizes, timed=False)
    for name, taken in sorted(medians(work, options.rounds).items(), key=lambda pair: pair[1]["cpu_ms"]):
        print(f"{name:<28} {taken['cpu_ms']:8.1f} CPU ms")


if __name__ == "__main__":
    main()
