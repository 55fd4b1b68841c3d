"""What people read of an evaluation: `Report` as text, in a notebook, as a frame or a page; and the data report.

`evaluation` and `data_check` choose the tables, `terminal` prints them, `page` and its templates draw them as HTML.
"""

from .report import Report

__all__ = ["Report"]
