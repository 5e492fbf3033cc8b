"""What the reference metrics were given and answered, tests/golden/eval."""

from __future__ import annotations

import json
from typing import Any

from formats.record import Box
from tests.paths import GOLDEN

EVAL = GOLDEN / "eval"


def golden(name: str) -> Any:
    """The content of a JSON file."""
    return json.loads((EVAL / name).read_text())


def corners(box: list[float]) -> Box:
    """COCO's x, y, width, height as x1, y1, x2, y2."""
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height
