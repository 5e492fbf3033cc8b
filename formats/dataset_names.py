"""The file names of a data set: cat_od.json, its label map, the labels of each round, their metadata, corrections.

    NAME_od.json            detection records          NAME_vg.json          captions with phrases
    NAME_od_v2.json         labels made in round 2     NAME_od_v2.meta.json  which model made them, and how
    NAME_label_map.json     its categories             NAME_od_reviewed.json a person's corrections
                                                       NAME_od_reviewed.sqlite drafts and changes of a review
    NAME_od_v2.audit/       a sample of the labels, drawn for review
    NAME_od_v2_suspects.jsonl  images whose labels are probably wrong, in the order of their review

Users may have other names: photos.json has no task, and the _v2 of photos_v2.json is not a version.
Functions that take a path return one in the same folder.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from formats.io.storage import as_path

Task = Literal["od", "vg"]  # detection records, or captions with phrases

# A version is recognised only after a task; elsewhere "_v2" may be part of the user's name.
_STEM = re.compile(r"(?P<data_set>.*?)(?:_(?P<task>od|vg)(?:_v(?P<version>\d+))?)?", re.DOTALL)


@dataclass(frozen=True)
class AnnotationName:
    """The parts of cat_od_v2.json. version: the round that made the labels; None for a file of the user."""

    data_set: str
    task: Task | None = None
    version: int | None = None
    suffix: str = ".json"

    def __str__(self) -> str:
        task = "" if self.task is None else f"_{self.task}"
        version = "" if self.version is None else f"_v{self.version}"
        return f"{self.data_set}{task}{version}{self.suffix}"


def parse_annotation_name(path: str | Path) -> AnnotationName:
    """The parts of the name of an annotation file; of any other name, the whole stem is the data set."""
    path = as_path(path)
    parts = _STEM.fullmatch(path.stem)
    assert parts is not None  # the pattern matches any string
    version = parts["version"]
    return AnnotationName(parts["data_set"], parts["task"], None if version is None else int(version), path.suffix)  # type: ignore[arg-type]


def annotation_path(folder: str | Path, data_set: str, task: Task) -> Path:
    """FOLDER/cat_od.json"""
    return as_path(folder) / str(AnnotationName(data_set, task))


def label_map_path(folder: str | Path, data_set: str) -> Path:
    """FOLDER/cat_label_map.json"""
    return as_path(folder) / f"{data_set}_label_map.json"


def label_map_beside(annotations: str | Path) -> Path:
    """cat_od.json or cat_od_v1.json (labels made from it) -> cat_label_map.json."""
    name = parse_annotation_name(annotations)
    data_set = name.data_set if name.task in ("od", None) else f"{name.data_set}_{name.task}"
    return label_map_path(as_path(annotations).parent, data_set)


def annotations_beside(label_map: str | Path) -> list[Path]:
    """cat_label_map.json -> the files that use it: cat_od.json, and its rounds, parts and corrections."""
    label_map = as_path(label_map)
    data_set = label_map.name.removesuffix("_label_map.json")
    found = label_map.parent.glob(f"{glob.escape(data_set)}_od*.json")
    return sorted(path for path in found if not path.name.endswith(".meta.json"))


def labels_path(source: str | Path, version: int) -> Path:
    """cat_od.json, 2 -> cat_od_v2.json"""
    source = as_path(source)
    return source.with_name(f"{source.stem}_v{version}{source.suffix}")


def metadata_path(labels: str | Path) -> Path:
    """cat_od_v2.json -> cat_od_v2.meta.json"""
    return as_path(labels).with_suffix(".meta.json")


def reviewed_path(annotations: str | Path) -> Path:
    """cat_od.json or cat_od_v1.json (labels made from it) -> cat_od_reviewed.json."""
    annotations = as_path(annotations)
    source = as_path(str(replace(parse_annotation_name(annotations), version=None)))
    return annotations.with_name(f"{source.stem}_reviewed{source.suffix}")


def review_journal_path(corrections: str | Path) -> Path:
    """cat_od_reviewed.json -> cat_od_reviewed.sqlite"""
    return as_path(corrections).with_suffix(".sqlite")


def part_path(annotations: str | Path, part: str) -> Path:
    """cat_od.json, "train" -> cat_train_od.json, whose label map is cat_train_label_map.json."""
    annotations = as_path(annotations)
    name = parse_annotation_name(annotations)
    if name.version is not None:  # a part of a round's labels is a file of the user's own
        return annotations.with_name(f"{annotations.stem}_{part}{annotations.suffix}")
    return annotations.with_name(str(replace(name, data_set=f"{name.data_set}_{part}")))


def audit_folder(labels: str | Path) -> Path:
    """cat_od_v2.json -> cat_od_v2.audit"""
    return as_path(labels).with_suffix(".audit")


def suspects_path(labels: str | Path) -> Path:
    """cat_od_v2.json -> cat_od_v2_suspects.jsonl"""
    labels = as_path(labels)
    return labels.with_name(f"{labels.stem}_suspects.jsonl")


def labels_of_other_round(labels: str | Path, version: int, other: int) -> Path:
    """cat_od_v2.json, 2, 3 -> cat_od_v3.json. version: not parsed, since the _v2 of photos_v2.json is not one."""
    labels = as_path(labels)
    return labels_path(labels.with_name(f"{labels.stem.removesuffix(f'_v{version}')}{labels.suffix}"), other)


def work_dir_name(source: str | Path) -> str:
    """cat_od.json -> cat; for captions and other files the whole stem, so that both can share a folder."""
    name = parse_annotation_name(source)
    return name.data_set if (name.task, name.version) == ("od", None) else as_path(source).stem
