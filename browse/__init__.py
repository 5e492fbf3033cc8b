"""Shows labels: drawn on pictures, in contact sheets, and on the review page. Never loads torch.

`from browse import draw_image`: a record on its picture, as a notebook shows it.
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
