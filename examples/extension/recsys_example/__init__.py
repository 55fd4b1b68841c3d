"""An extension of recsys with one of everything that can be added; importing it is what registers them.

Each is a file of its own, as in the library. `tests/examples/test_extension.py` trains a run with all of them and asks
of each what `recsys.testing` asks of the built-in ones.
"""

from . import baseline, deep_crossing, jsonl, losses, pooling, weighting

__all__ = ["baseline", "deep_crossing", "jsonl", "losses", "pooling", "weighting"]
