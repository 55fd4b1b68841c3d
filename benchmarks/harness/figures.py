"""Pictures beside the results, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def panels(
    file: Path,
    count: int,
    size: tuple[float, float],
    *,
    title: str = "",
    dpi: int = 130,
    tight: bool = False,
    sharey: bool = False,
) -> Iterator[list[Any]]:
    """Panels beside each other to draw on (matplotlib axes); the picture is written when the block ends.

    Args:
        file: PNG; its folder is made.
        count: panels.
        size: width and height, inches.
        title: above all panels.
        dpi: dots per inch.
        tight: lay out by `tight_layout` and not by the constrained layout, which leaves more room between panels.
        sharey: one y axis for all panels.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    layout = None if tight else "constrained"
    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, sharey=sharey, layout=layout)
    yield list(axes[0])
    if title:
        figure.suptitle(title, fontsize=10)
    if tight:
        figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=dpi)
    plt.close(figure)
