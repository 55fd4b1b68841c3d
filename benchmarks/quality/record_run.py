"""Keep the numbers of an evaluated run.

`python benchmarks/quality/record_run.py runs/NAME --command "recsys train configs/NAME.toml"`

Writes docs/results/run-NAME.json: the metrics and intervals of `recsys evaluate`, and what is needed to get them again.
Of the folder of `recsys evaluate --folds --run DIR --json > FOLDS.json`, `--folds FOLDS.json` keeps the folds instead,
in docs/results/folds-NAME.json, NAME being the folder's without `-folds`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from recsys.artifacts.folder import open_run
from recsys.artifacts.names import EVALUATION
from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import RESULTS

LONG = ("config", "all_slices", "examples", "gates", "title")
"""Parts of an evaluation that belong on its page and not into a record."""


def shortened(value: Any) -> Any:
    """Numbers to five digits, without curves."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items() if not key.startswith(("reliability", "curve"))}
    if isinstance(value, list):
        return [shortened(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> None:
    """Read a run, write its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="an evaluated run folder")
    parser.add_argument("--command", required=True, help="the command that trained it")
    parser.add_argument("--folds", type=Path, help="what the evaluation over folds printed; RUN is then their folder")
    options = parser.parse_args()
    folds: Path | None = options.folds
    run = open_run(options.run if folds is None else sorted(options.run.glob("fold-*"))[-1])
    read = run.read_json(EVALUATION) if folds is None else json.loads(folds.read_text(encoding="utf-8"))
    evaluation = {key: value for key, value in read.items() if key not in LONG}
    manifest = run.manifest
    indexed = ["recsys build-index"] if "retrieval" in evaluation else []
    record = {
        "command": options.command if folds else " && ".join([options.command, *indexed, "recsys evaluate"]),
        "seed": manifest.seed,
        "commit": manifest.git_commit,
        "config_sha256": manifest.config_hash,
        "data_sha256": manifest.data_fingerprint,
        "machine": manifest.machine,
        "date": manifest.created[:10],
        **shortened(evaluation),
    }
    out = RESULTS / (
        f"run-{options.run.name}.json" if folds is None else f"folds-{options.run.name.removesuffix('-folds')}.json"
    )
    write_whole(out, json.dumps(record, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
