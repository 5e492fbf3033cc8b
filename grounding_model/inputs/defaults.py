"""Default settings of a detector, in a module of their own so that other packages can import them cheaply."""

from __future__ import annotations

WEIGHTS = "glyph-tiny"  # embedded in the package, so that everything works offline
PHOTO_WEIGHTS = "photo-tiny"  # embedded too; its backbone comes with groundhog[photos]
MAX_PER_IMAGE = 300  # boxes kept per image, as in the reference
DTYPE = "float32"  # the number format of the reference and of all published numbers
DTYPES = ("auto", "float32", "bfloat16")
SCORE_THRESHOLD = 0.3  # 0..1; boxes at or below it are not shown, as in the reference's demo
