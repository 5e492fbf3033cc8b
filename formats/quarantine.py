"""Images that cannot be used are quarantined with a reason: in the labels, in the candidates and in the summary.

A quarantined line is {"filename", "height", "width", "quarantined": reason}, and where it has a caption "grounding"
without a region. Unknown values are null. Our readers skip it; a reader that does not know the key finds the
fields it expects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.candidates import ImageProblem
from formats.io.errors import InputError
from formats.odvg_lines import QUARANTINED

NAMED = 20  # this many are listed at the end of a run; a file has all


def reason_of(error: Exception, image_root: str | Path) -> str:
    """Why something is quarantined: without the folder, so that files are equal wherever they are made."""
    reason = error.what if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return reason.replace(f"{image_root}/", "")


def quarantined_line(
    reason: str, filename: str, height: int | None = None, width: int | None = None, caption: str | None = None
) -> dict[str, Any]:
    """The line that stands for an image which is not labelled."""
    line: dict[str, Any] = {"filename": filename, "height": height, "width": width}
    if caption is not None:
        line["grounding"] = {"caption": caption, "regions": []}
    return line | {QUARANTINED: reason}


def requarantined_line(reason: str, text: str) -> dict[str, Any]:
    """The same for a line of a file, with the fields that can still be read; the source has the whole line."""
    entries = _object(text)
    height, width = (value if type(value) is int else None for value in (entries.get("height"), entries.get("width")))
    grounding = entries.get("grounding")
    caption = grounding.get("caption") if isinstance(grounding, Mapping) else None
    return quarantined_line(reason, filename_in(text), height, width, caption if isinstance(caption, str) else None)


def filename_in(text: str) -> str:
    """The filename, if it can still be read from a broken line; else ""."""
    filename = _object(text).get("filename")
    return filename if isinstance(filename, str) else ""


def quarantine_summary(problems: Sequence[ImageProblem], rest: str | Path | None = None) -> str:
    """One line per problem, "" for none. rest: the file that has those that are not listed."""
    if not problems:
        return ""
    lines = [f"{len(problems)} quarantined:"]
    for line, filename, reason in problems[:NAMED]:
        lines.append(f"  line {line + 1}: {filename or 'no filename'}: {reason}")
    if len(problems) > NAMED:
        lines.append(f"  and {len(problems) - NAMED} more" + (f": {rest}" if rest else ""))
    return "\n".join(lines)


def _object(text: str) -> Mapping[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):  # the latter: brackets without end
        return {}
    return entries if isinstance(entries, dict) else {}
