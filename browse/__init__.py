"""Displays labels: drawn on images, in contact sheets, and in the review page. Never imports torch.

`from browse import draw_image` draws a record on its image, for notebooks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from browse.draw import draw_image

__all__ = ["draw_image"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("browse.draw"), name)
