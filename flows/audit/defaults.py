"""Defaults of an audit, in a module that is fast to import for the command line."""

from __future__ import annotations

IOU = 0.5  # minimum IoU of a correct label with an object, as in PASCAL VOC
REVIEWS = 60  # images in a sample; docs/auditing.md has the widths of intervals at this size
PRECISION = 0.9  # precision for which a score threshold is searched
HALF_WIDTH = 0.05  # half width of the interval for which the number of further reviews is estimated
