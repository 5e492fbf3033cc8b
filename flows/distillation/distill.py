"""Distillation: a small detector taught with labels, written as a folder of transformers and as an ONNX file.

WORK_DIR/student/      what AutoModelForObjectDetection loads; README.md in it is the model card
WORK_DIR/student.onnx  the same for ONNX Runtime alone
WORK_DIR/distill.json  teacher and student compared
WORK_DIR/evaluation/   the evaluations behind their AP, a folder each, for `groundhog evaluate compare`

Each is made anew only where it is missing or something that it was made from has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from flows.distillation.card import write_card
from flows.distillation.comparison import (
    ModelRow,
    as_json,
    check_comparison,
    compare_models,
    comparison_key,
    comparison_table,
)
from flows.distillation.config import DistillConfig
from flows.distillation.trust import write_trusted
from flows.training.train import train
from formats.dataset_names import annotation_path, label_map_beside, metadata_path, parse_annotation_name
from formats.io.errors import InputError
from formats.io.files import load_json, sha256_of, write_json
from formats.io.plurals import many
from formats.label_map import read_label_map
from formats.odvg import read_odvg
from grounding_model.checkpoints.locations import EMBEDDED, HUB_NAMES, checkpoint_hash
from grounding_model.data.sources import OdvgData
from grounding_model.students.export import check_onnx_installed, export_onnx, onnx_metadata
from grounding_model.students.files import load_student

ONNX_NAME = "student.onnx"
RESULT_NAME = "distill.json"
OUR_LICENCE = "Apache-2.0"  # of the embedded model and of the published weights that need no prefix


class DistillResult(NamedTuple):
    """student: a folder. onnx: a file, None where it was not requested. rows: of the table."""

    student: Path
    onnx: Path | None
    rows: tuple[ModelRow, ...]

    @property
    def table(self) -> str:
        return comparison_table(self.rows)


def distill(config: DistillConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> DistillResult:
    """Trains the student, exports it, and compares it with its teacher; what is done is not done again.

    Raises InputError, before the training, for labels without a label map or of captions, for a teacher that is not
    there, a truth without the student's classes, missing packages, and for whatever training and evaluation refuse.
    """
    label_map = config.label_map or label_map_beside(config.labels)
    if not config.labels.is_file():
        raise InputError(config.labels, "no such file", "expected labels as `groundhog filter` writes them")
    if not label_map.is_file():
        raise InputError(label_map, "no label map there", "expected one beside the labels, or --label-map")
    names = config.start.names or tuple(read_label_map(label_map).values())
    if not names:
        raise InputError(label_map, "names no class", 'expected at least one, such as {"0": "cat"}')
    if any(record.caption is not None for record in islice(read_odvg(config.labels, on_problem=lambda _: None), 1)):
        raise InputError(config.labels, "has captions", "expected detections: a student has classes")
    check_comparison(config, names)
    if config.onnx:
        check_onnx_installed()
    folder = train(_training(config, label_map, names), on_progress)
    facts = _facts(config) | {"student_sha256": checkpoint_hash(folder)}
    onnx = _exported(config, folder, facts) if config.onnx else None
    rows = _compared(config, names, folder, onnx, facts)
    write_card(folder / "README.md", names, load_student(folder).image_size, facts, comparison_table(rows))
    return DistillResult(folder, onnx, rows)


def _exported(config: DistillConfig, folder: Path, facts: Mapping[str, str]) -> Path:
    """The ONNX file of the student in the folder."""
    onnx = config.work_dir / ONNX_NAME
    if not facts.items() <= onnx_metadata(onnx).items():
        export_onnx(onnx, load_student(folder), facts)
    return onnx


def _compared(
    config: DistillConfig, names: Sequence[str], folder: Path, onnx: Path | None, facts: Mapping[str, str]
) -> tuple[ModelRow, ...]:
    """The rows of the table; times are those of the run that measured them."""
    path = config.work_dir / RESULT_NAME
    key = comparison_key(config, folder, onnx)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["key"] == key:
            return tuple(ModelRow(**row) for row in result["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or a part of one
    rows = tuple(compare_models(config, names, folder, onnx))
    payload = {"key": key, "facts": dict(facts), "rows": as_json(rows)}
    write_json(path, payload, ensure_ascii=False)
    return rows


def _training(config: DistillConfig, label_map: Path, names: tuple[str, ...]) -> Any:
    folder = config.work_dir / f"labels-{config.trust}"
    trusted = write_trusted(config.labels, annotation_path(folder, _data_set(config.labels), "od"), config.trust)
    labels = OdvgData(trusted, config.images, label_map)
    start = replace(config.start, names=names)
    return replace(config.train, datasets=(labels, *config.train.datasets), start=start)


def _data_set(labels: Path) -> str:
    return parse_annotation_name(labels).data_set or "labels"


def _facts(config: DistillConfig) -> dict[str, str]:
    """Where the student's knowledge is from, as text."""
    facts = {"labels": config.labels.name, "labels_sha256": sha256_of(config.labels), "trust": config.trust}
    meta = metadata_path(config.labels)
    made_by: Mapping[str, Any] = load_json(meta, "expected it as `groundhog filter` wrote it") if meta.is_file() else {}
    facts |= {f"labels_{key}": str(made_by[key]) for key in ("round", "weights", "weights_sha256") if key in made_by}
    audit = made_by.get("audit") or {}
    for kind in ("precision", "recall"):
        if (found := audit.get(kind)) is not None:
            facts[f"labels_{kind}"] = _interval(found["low"], found["high"], audit["reviews"])
    if config.teacher:
        facts["teacher"] = config.teacher
    if licence := config.licence or licence_of(config.teacher):
        facts["teacher_licence"] = licence
    return facts


def _interval(low: float, high: float, reviews: int) -> str:
    return f"{low:.3f} … {high:.3f}, 95 % interval from {many(reviews, 'reviewed image')}"


def licence_of(teacher: str) -> str:
    """What is known of the licence of weights: of ours, and of a folder whose card names it. "" where nothing is."""
    if teacher in EMBEDDED or teacher in HUB_NAMES:
        return OUR_LICENCE
    card = Path(teacher) / "README.md"
    if teacher and card.is_file():
        found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return found[1] if found else ""
    return ""
