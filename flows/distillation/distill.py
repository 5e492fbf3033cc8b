"""Distillation: trains a small detector on labels, and writes it as a transformers folder and an ONNX file.

WORK_DIR/student/      for AutoModelForObjectDetection; its README.md is the model card
WORK_DIR/student.onnx  for ONNX Runtime, without other packages
WORK_DIR/distill.json  the comparison of teacher and student
WORK_DIR/evaluation/   the evaluations behind it, one folder per model, for `groundhog evaluate compare`

Each is only recomputed if it is missing or its inputs have changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    shared_classes,
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
from grounding_model.students.config import FromStudent
from grounding_model.students.export import check_onnx_installed, export_onnx, onnx_metadata
from grounding_model.students.files import load_student

ONNX_NAME = "student.onnx"
RESULT_NAME = "distill.json"
OUR_LICENCE = "Apache-2.0"  # of the embedded model and of the published weights that need no prefix


class DistillResult(NamedTuple):
    """student: a folder. onnx: a file; None if not requested. rows: of the comparison."""

    student: Path
    onnx: Path | None
    rows: tuple[ModelRow, ...]

    @property
    def table(self) -> str:
        return comparison_table(self.rows)


def distill(config: DistillConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> DistillResult:
    """Trains the student, exports it, and compares it with its teacher. Finished steps are not repeated.

    Raises InputError, before training, for labels without a label map or with captions, for a missing teacher, for
    labelled images without the student's classes, for missing packages, and for errors of training and evaluation.
    """
    label_map = config.label_map or label_map_beside(config.labels)
    if not config.labels.is_file():
        raise InputError(config.labels, "no such file", "expected labels as `groundhog filter` writes them")
    if not label_map.is_file():
        raise InputError(label_map, "no such label map", "expected one beside the labels, or --label-map")
    names = config.start.names or tuple(read_label_map(label_map).values())
    if not names:
        raise InputError(label_map, "has no classes", 'expected at least one, such as {"0": "cat"}')
    first = next(read_odvg(config.labels, on_problem=lambda _: None), None)
    if first is None:
        raise InputError(config.labels, "has no image to train on", "expected labels as `groundhog filter` writes them")
    if first.caption is not None:
        raise InputError(config.labels, "has captions", "expected detections: a student has classes")
    check_comparison(config, names)
    if config.onnx:
        check_onnx_installed()
    folder = train(_training(config, label_map, names), on_progress)
    facts = _facts(config) | {"student_sha256": checkpoint_hash(folder)}
    onnx = _exported(config, folder, facts) if config.onnx else None
    rows = _compared(config, names, folder, onnx, facts)
    write_card(folder / "README.md", load_student(folder), facts, comparison_table(rows))
    return DistillResult(folder, onnx, rows)


def check_student(start: FromStudent, names: Sequence[str], onnx: bool) -> None:
    """Raises InputError if a student for these classes cannot be built, or an ONNX file not be written.

    names: the categories of the labels, of which the student's own classes have to contain some.
    """
    if start.names and not shared_classes(names, start.names):
        remedy = f"expected some of {', '.join(names)}"
        raise InputError("start.names", f"are {', '.join(start.names)}", remedy)
    from grounding_model.students.build import start_student

    start_student(start, start.names or names)
    if onnx:
        check_onnx_installed()


def _exported(config: DistillConfig, folder: Path, facts: Mapping[str, str]) -> Path:
    """The ONNX file of the student; exported again only if its metadata differ from `facts`."""
    onnx = config.work_dir / ONNX_NAME
    if not facts.items() <= onnx_metadata(onnx).items():
        export_onnx(onnx, load_student(folder), facts)
    return onnx


def _compared(
    config: DistillConfig, names: Sequence[str], folder: Path, onnx: Path | None, facts: Mapping[str, str]
) -> tuple[ModelRow, ...]:
    """The rows of the comparison; measured times are kept from an earlier run with the same inputs."""
    path = config.work_dir / RESULT_NAME
    key = comparison_key(config, folder, onnx)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["key"] == key:
            return tuple(ModelRow(**row) for row in result["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or it is incomplete
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
    """The provenance of the student: labels, their quality, teacher."""
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
    """The licence of embedded or published weights, or of a folder whose model card names it; "" if unknown."""
    if teacher in EMBEDDED or teacher in HUB_NAMES:
        return OUR_LICENCE
    card = Path(teacher) / "README.md"
    if teacher and card.is_file():
        found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return found[1] if found else ""
    return ""
