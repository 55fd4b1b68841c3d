"""The project as a package: its name on the package index, its version, the Pythons it is tested on, install hints."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "recsys-funnel"
"""What `pip install` calls the project. The import and the command are `recsys`; on the package index that name belongs
to another project, so no hint may say `pip install recsys`."""
PYTHONS = ("3.11", "3.12", "3.13")
"""Versions of Python that the test suite runs on."""


def package_version() -> str:
    """Version of the installed package, `0+unknown` for a checkout that is on the path and not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def install_hint(*extras: str) -> str:
    """The command that installs the package with one of these extras: `` `pip install 'recsys-funnel[cpu]'` ``."""
    return " or ".join(f"`pip install '{DISTRIBUTION}[{extra}]'`" for extra in extras)
