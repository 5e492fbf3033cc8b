"""Publishes a data set as a folder: images, labels in three formats, a data card, and a page.

    OUT/README.md               data card; `datasets.load_dataset` reads its header
    OUT/data.yaml               configuration for Ultralytics
    OUT/croissant.json          metadata for search engines of data sets
    OUT/index.html              page with pictures, works offline
    OUT/annotations/SPLIT.json  COCO
    OUT/SPLIT/metadata.jsonl    Hugging Face, one line per image
    OUT/SPLIT/images/…          the images
    OUT/SPLIT/labels/….txt      YOLO

Everything is written to a temporary folder beside OUT and renamed at the end, so OUT is never incomplete.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from flows.curation.croissant import croissant_metadata
from flows.curation.data_card import DataCard, SplitCounts, write_data_card
from flows.curation.label_origin import read_origins
from flows.curation.page import write_data_page
from formats.coco import write_coco
from formats.dataset_names import label_map_beside, parse_annotation_name
from formats.huggingface import has_scores, write_huggingface
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import write_json, write_whole_folder
from formats.io.progress import show_progress
from formats.label_map import read_label_map
from formats.odvg import read_odvg
from formats.record import Record
from formats.yolo import write_yolo

DEFAULT_LICENSE = "other"


@dataclass(frozen=True)
class Publication:
    """What was written. left_out: format -> counts of what it cannot store. renamed: old file name -> new one."""

    folder: Path
    splits: tuple[SplitCounts, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Counter[str]] = field(default_factory=dict)


def publish(
    splits: Mapping[str, str | Path],
    images: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    license: str = DEFAULT_LICENSE,
    citation: str = "",
    link: bool = False,
    progress: bool = True,
) -> Publication:
    """Writes a data set into a new folder.

    splits: name of a split, such as "train" -> its labels, ODVG detection lines with a label map beside them.
    images: the folder that their file names are relative to. license: an SPDX name, for the card. citation: how to cite
    the data set. link: hard-link the images instead of copying them, if the file system supports it.
    If the names of two images differ only in the suffix, one is renamed, since both would share a YOLO label file.
    Raises InputError for labels without a label map or with other categories than the first split's, for a split
    without images, for captions, for a missing image, for an image in two splits, and if `out` exists.
    """
    if not splits:
        raise InputError("splits", "is empty", "expected at least one file of labels")
    first = next(iter(splits.values()))
    categories = _categories(splits.values())
    scored = any(has_scores(read_odvg(labels)) for labels in splits.values())
    counted: list[SplitCounts] = []
    left_out: dict[str, Counter[str]] = {}
    seen: dict[str, str] = {}
    renamed: dict[str, str] = {}
    with write_whole_folder(out) as root:
        for split, labels in splits.items():
            if not (records := list(_labelled(labels, split, seen))):
                raise InputError(labels, "has no images", f"expected labels of some for split {split}")
            names = _own_stems([record.filename for record in records])
            _place_images(names, Path(images), root / split / "images", link, progress)
            records = [replace(record, filename=names[record.filename]) for record in records]
            changed = {old: new for old, new in names.items() if old != new}
            renamed |= changed
            for format_name, omissions in _write_split(root, split, records, categories, scored).items():
                left_out.setdefault(format_name, Counter()).update(omissions)
            counted.append(SplitCounts.of(split, records, read_origins(labels), len(changed)))
        title = name or parse_annotation_name(first).data_set or "data set"
        card = DataCard(title, license, categories, tuple(counted), citation)
        write_data_card(root / "README.md", card)
        (root / "data.yaml").write_text(_data_yaml(splits, categories), encoding="utf-8")
        write_data_page(root, card)
        write_json(root / "croissant.json", croissant_metadata(root, card), ensure_ascii=False)
    return Publication(Path(out), tuple(counted), renamed, left_out)


def _categories(files: Sequence[str | Path] | Any) -> tuple[str, ...]:
    """The category names in the order of the labels; they must be the same in every split."""
    maps = {}
    for labels in files:
        path = label_map_beside(labels)
        if not path.is_file():
            raise InputError(labels, f"has no label map {path.name} beside it", "expected that of these labels")
        maps[path] = read_label_map(path)
    first, *others = maps.items()
    for path, mapping in others:
        if mapping != first[1]:
            raise InputError(path, f"differs from {first[0]}", "expected one label map for all splits")
    if sorted(first[1]) != list(range(len(first[1]))):
        raise InputError(first[0], "its labels have gaps", f"expected 0..{len(first[1]) - 1}")
    return tuple(first[1][label] for label in sorted(first[1]))


def _labelled(labels: str | Path, split: str, seen: dict[str, str]) -> Iterator[Record]:
    """Yields the records of a split. seen: file name -> split, for all splits so far; is updated."""
    for record in read_odvg(labels):
        if record.instances is None:
            what = "is a caption" if record.caption is not None else "has not been labelled"
            raise InputError(f"{labels}: {record.filename}", what, "expected labels, as `groundhog filter` writes them")
        if (other := seen.setdefault(record.filename, split)) != split:
            raise InputError(
                f"{labels}: {record.filename}", f"is in split {other} too", "expected each image in only one split"
            )
        yield record


def _own_stems(filenames: Sequence[str]) -> dict[str, str]:
    """File name -> published name. Names whose stem is taken get the suffix appended to the stem: a.png -> a_png.png.

    Upper and lower case count as equal, as on some file systems.
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    waiting: list[str] = []
    for name in dict.fromkeys(filenames):
        stem = _stem(name)
        if stem in taken:
            waiting.append(name)
        else:
            names[name] = name
            taken.add(stem)
    for name in waiting:
        path = PurePosixPath(name)
        ways = (f"{path.stem}_{path.suffix[1:]}{count or ''}{path.suffix}" for count in itertools.count())
        names[name] = next(new for way in ways if _stem(new := str(path.with_name(way))) not in taken)
        taken.add(_stem(names[name]))
    return names


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _place_images(names: Mapping[str, str], source: Path, target: Path, link: bool, progress: bool) -> None:
    """Copies or links the images. names: file name in the source -> in the target."""
    target.mkdir(parents=True)
    items = names.items()
    for name, new in show_progress(items, desc=f"copy {target.parent.name}", unit="image", hidden=not progress):
        origin, copy = safe_join(source, name), safe_join(target, new)
        if not origin.is_file():
            raise InputError(origin, "does not exist", "expected the folder of the images of these labels")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if link:
            try:
                os.link(origin.resolve(), copy)
                continue
            except OSError:  # another file system
                pass
        shutil.copyfile(origin, copy)


def _write_split(
    root: Path, split: str, records: Sequence[Record], categories: Sequence[str], scored: bool
) -> dict[str, Counter[str]]:
    """Writes the annotations of one split in each format; returns what each left out."""
    (root / "annotations").mkdir(exist_ok=True)
    coco = write_coco(root / "annotations" / f"{split}.json", records, categories)
    yolo_folder = root / split / "yolo"
    yolo = write_yolo(yolo_folder, records, categories)
    (yolo_folder / "labels").rename(root / split / "labels")
    shutil.rmtree(yolo_folder)
    face = write_huggingface(root / split, records, categories, folder="images", scored=scored)
    return {"COCO": coco, "YOLO": yolo, "Hugging Face": face}


def _data_yaml(splits: Mapping[str, Any], categories: Sequence[str]) -> str:
    """The content of data.yaml. Ultralytics requires a val split; without one, it is test or the last split.

    Values are written as JSON strings, which are also valid YAML.
    """
    paths = {name: f"{name}/images" for name in splits}
    paths.setdefault("train", next(iter(paths.values())))
    paths.setdefault("val", paths.get("validation") or paths.get("test") or list(paths.values())[-1])
    lines = [f"{name}: {json.dumps(path)}" for name, path in paths.items()]
    names = [f"  {label}: {json.dumps(name)}" for label, name in enumerate(categories)]
    return "\n".join([*lines, "names:", *names]) + "\n"
