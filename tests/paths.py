"""Where the reference numbers lie."""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
