"""Keep the numbers of an evaluated run.

`python benchmarks/quality/record_run.py runs/NAME --command "recsys train configs/NAME.toml"`

Writes docs/results/run-NAME.json: the metrics and intervals of `recsys evaluate`, and what is needed to get them again.
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
    options = parser.parse_args()
    run = open_run(options.run)
    evaluation = {key: value for key, value in run.read_json(EVALUATION).items() if key not in LONG}
    manifest = run.manifest
    indexed = ["recsys build-index"] if "retrieval" in evaluation else []
    record = {
        "command": " && ".join([options.command, *indexed, "recsys evaluate"]),
        "seed": manifest.seed,
        "commit": manifest.git_commit,
        "config_sha256": manifest.config_hash,
        "data_sha256": manifest.data_fingerprint,
        "machine": manifest.machine,
        "date": manifest.created[:10],
        **shortened(evaluation),
    }
    out = RESULTS / f"run-{options.run.name}.json"
    write_whole(out, json.dumps(record, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
