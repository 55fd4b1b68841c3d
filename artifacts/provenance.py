"""Which program wrote a run: the commit of its checkout (its version: `base.package`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git_commit() -> str:
    """Commit of the checkout this package runs from, with `+changes` if it was edited; empty outside a checkout."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
        return commit + ("+changes" if commit and _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout it refuses to read
        return ""


def _git(*arguments: str) -> str:
    finished = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
    )
    return finished.stdout.strip()
