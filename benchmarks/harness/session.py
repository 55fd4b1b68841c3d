"""What the quality scripts share: their command line, the choice of variants, progress on stderr."""

from __future__ import annotations

import argparse
import fnmatch
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recsys.base.errors import RecsysError
from recsys.benchmarks.harness.provenance import RESULTS, ROOT
from recsys.training.runtime import Runtime, RuntimeConfig, start_runtime

CACHE = ROOT / "runs" / "quality"


def parser(description: str, data: Sequence[str], seeds: str = "1,2,3") -> argparse.ArgumentParser:
    """A command line with the options that every script has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        found.add_argument("--data", choices=list(data), default=data[0], help="which data set (default: %(default)s)")
    found.add_argument("--variants", default="all", help="names, groups or patterns with *, separated by commas")
    found.add_argument("--seeds", default=seeds, help="of weights, order and draws (default: %(default)s)")
    found.add_argument("--shard", default="0/1", help="i/n: only every n-th variant, from the i-th (0 is the first)")
    found.add_argument("--again", action="store_true", help="measure also what has been measured")
    found.add_argument("--list", action="store_true", help="print the variants and stop")
    found.add_argument("--threads", type=int, default=1, help="of one operation (default: %(default)s)")
    found.add_argument("--bf16", default="auto", choices=("auto", "on", "off"), help="of training products")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    found.add_argument("--cache", type=Path, default=CACHE, help="folder of predictions of finished seeds")
    found.add_argument("--smoke", action="store_true", help="tiny, into runs/quality/smoke: does the script work?")
    return found


@dataclass(frozen=True)
class Session:
    """A parsed command line, applied to the process."""

    args: argparse.Namespace
    seeds: tuple[int, ...]
    command: str

    def command_of(self, variant: str) -> str:
        """The command that measures one variant."""
        return f"{self.command} --variants {variant} --seeds {','.join(map(str, self.seeds))}"

    @property
    def smoke(self) -> bool:
        """Whether this is only a check that the script works."""
        return bool(self.args.smoke)

    def runtime(self, seed: int) -> Runtime:
        """Seed the process for one training."""
        return start_runtime(RuntimeConfig.model_validate({"threads": self.args.threads, "bf16": self.args.bf16}), seed)


def start(found: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Session:
    """Parse the command line and set threads, logging and folders."""
    args = found.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    if args.smoke:
        args.out = args.cache = CACHE / "smoke"
    words = list(sys.argv[1:] if argv is None else argv)
    script = Path(sys.argv[0]).name
    command = " ".join(["python", f"benchmarks/quality/{script}", *_plain(words)])
    return Session(args, _numbers(args.seeds), command)


def _numbers(text: str) -> tuple[int, ...]:
    """`1,2,5-8` as (1, 2, 5, 6, 7, 8)."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _plain(words: Sequence[str]) -> list[str]:
    """The command line without what does not change a number, and without variants and seeds."""
    valued, plain = ("--shard", "--out", "--cache", "--variants", "--seeds"), ("--again", "--compare", "--list")
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in valued:
            skip = True
        elif word not in plain and not word.startswith(tuple(f"{name}=" for name in valued)):
            kept.append(word)
    return kept


def pick(groups: Mapping[str, str], patterns: str, shard: str) -> list[str]:
    """Variants chosen on the command line.

    Args:
        groups: variant -> group, in order.
        patterns: `all`, names, groups, or patterns, separated by commas.
        shard: `i/n`.
    """
    wanted = patterns.split(",")
    chosen = []
    for name, group in groups.items():
        if any(w in ("all", group) or fnmatch.fnmatchcase(name, w) for w in wanted):
            chosen.append(name)
    if not chosen:
        say(f"no variant matches {patterns}; there are: {', '.join(groups)}; groups: {', '.join(set(groups.values()))}")
        raise SystemExit(2)
    index, count = (int(part) for part in shard.split("/"))
    return chosen[index::count]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an error a user can mend is one sentence."""
    try:
        main()
    except RecsysError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
