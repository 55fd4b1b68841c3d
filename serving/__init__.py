"""A run as a service: HTTP over the engine of `live`, workers and their supervisor, publishing, keys, metrics.

Imported by `recsys serve` alone; needs the extra `serve`.
"""

from __future__ import annotations
