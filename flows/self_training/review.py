"""A person's input to a round: corrected lines (formats.reviewed), and the approval that lets a loop continue.

The filter replaces the model's lines with the corrected ones, so that a resumed run makes the same labels again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.labelling.corrections import check_corrections
from flows.labelling.manifest import Manifest
from formats.dataset_names import label_map_beside, reviewed_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json
from formats.review_journal import locked_corrections
from formats.reviewed import (
    Correction,
    key_of,
    marked,
    read_corrections,
    reviewed_text,
    withdrawn_text,
    write_corrections,
)

APPROVAL_NAME = "approval.json"


def add_corrections(manifest: Manifest, file: str | Path, number: int) -> int:
    """Stores the reviewed lines of a file beside the source of a plan, for this and later rounds; returns their number.

    file: ODVG lines; those with `"reviewed": true` are taken, or all if none has it.
    Raises InputError for a line that the source does not have, and for a label that its label map does not have.
    """
    corrections = marked(list(read_corrections(file)))
    if not corrections:
        raise InputError(file, "contains no lines", "expected ODVG lines that a person has corrected")
    check_corrections(manifest, corrections)
    path = reviewed_path(manifest.source)
    with locked_corrections(path):  # a review page may be open
        before = marked(list(read_corrections(path))) if path.is_file() else []
        known = {(key_of(each.record), max(1, each.since)): each for each in before}
        known |= {(key_of(each.record), number): each for each in corrections}
        lines = sorted(known.items(), key=lambda item: (item[0][1], item[0][0][0], item[0][0][1] or ""))
        write_corrections(path, (_text(each, since) for (_, since), each in lines))
    return len(corrections)


def _text(correction: Correction, since: int) -> str:
    return (withdrawn_text if correction.withdrawn else reviewed_text)(correction.record, since)


def browse_command(labels: Path, images: Path, label_map: Path | None = None) -> str:
    """The command that opens the labels in the review page."""
    inside = images.resolve().is_relative_to(labels.parent.resolve())
    folder = images.resolve().relative_to(labels.parent.resolve()) if inside else images.resolve()
    words = ["groundhog", "browse", "serve", str(labels.parent), labels.name, str(folder)]
    if label_map is not None and label_map.resolve() != label_map_beside(labels).resolve():
        words += ["-m", str(label_map.resolve())]
    return shlex.join(words)


def approve(manifest: Manifest, policy: Mapping[str, Any]) -> Path:
    """Records that a person approved the labels of this plan and policy; any others need a new approval."""
    path = manifest.work_dir / APPROVAL_NAME
    write_json(path, _approved(manifest, policy))
    return path


def is_approved(manifest: Manifest, policy: Mapping[str, Any]) -> bool:
    """Whether a person approved the labels of this plan and policy."""
    path = manifest.work_dir / APPROVAL_NAME
    if not path.is_file():
        return False
    return load_json(path, "remove it and approve again") == _approved(manifest, policy)


def _approved(manifest: Manifest, policy: Mapping[str, Any]) -> dict[str, Any]:
    return {"plan": manifest.key, "policy": json.loads(json.dumps(policy, default=str))}
