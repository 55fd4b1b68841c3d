"""A trained run at work: `TrainedRun` in memory, `Funnel` answers requests, `save_run` and `load_run` keep it.

Answers are `Recommendations`, arrays that become JSON or a data frame. Nothing here trains or evaluates.
"""

from __future__ import annotations

from .folder import load_run, save_run
from .funnel import Funnel
from .recommendations import Recommendations
from .run import TrainedRun

__all__ = ["Funnel", "Recommendations", "TrainedRun", "load_run", "save_run"]
