"""Quarantined images: those that cannot be labelled are recorded with a reason in labels, candidates and summary.

A quarantined line is {"filename", "height", "width", "quarantined": reason}; with a caption, also "grounding" without
regions. Unknown values are null. Our readers skip such lines; other readers find the fields they expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.candidates import ImageProblem
from formats.io.errors import InputError
from formats.io.plurals import first_lines
from formats.odvg_lines import QUARANTINED

MAX_LISTED = 20  # problems listed at the end of a run; a file has them all


def reason_of(error: Exception, image_root: str | Path) -> str:
    """The reason for a quarantine, without the image folder, so that files do not depend on where they are made."""
    reason = error.what if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return reason.replace(f"{image_root}/", "")


def quarantined_line(
    reason: str, filename: str, height: int | None = None, width: int | None = None, caption: str | None = None
) -> dict[str, Any]:
    """The line of an image that could not be labelled."""
    line: dict[str, Any] = {"filename": filename, "height": height, "width": width}
    if caption is not None:
        line["grounding"] = {"caption": caption, "regions": []}
    return line | {QUARANTINED: reason}


def requarantined_line(reason: str, text: str) -> dict[str, Any]:
    """The quarantined line for a line of a file, with those of its fields that can be read."""
    entries = _object(text)
    height, width = (value if type(value) is int else None for value in (entries.get("height"), entries.get("width")))
    grounding = entries.get("grounding")
    caption = grounding.get("caption") if isinstance(grounding, Mapping) else None
    return quarantined_line(reason, filename_in(text), height, width, caption if isinstance(caption, str) else None)


def filename_in(text: str) -> str:
    """The filename in a line that may be invalid; "" if it cannot be read."""
    filename = _object(text).get("filename")
    return filename if isinstance(filename, str) else ""


def quarantine_summary(problems: Sequence[ImageProblem], rest: str | Path | None = None) -> str:
    """One line per problem; "" for none. rest: the file with those that are not listed."""
    if not problems:
        return ""
    texts = [f"line {line + 1}: {filename or 'no filename'}: {reason}" for line, filename, reason in problems]
    lines = [f"{len(problems)} quarantined:", *first_lines(texts, MAX_LISTED)]
    if rest and len(problems) > MAX_LISTED:
        lines[-1] += f": {rest}"
    return "\n".join(lines)


def _object(text: str) -> Mapping[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        return {}
    return entries if isinstance(entries, dict) else {}
