"""Labels that exist before the loop starts: the first model is trained on them, and every round uses them too."""

from __future__ import annotations

import inspect
import json
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from flows.labelling.manifest import read_lines
from flows.training.mixture import count_images
from formats import READERS
from formats.convert import convert, guess_format, read_names
from formats.dataset_names import label_map_beside, label_map_path, part_path
from formats.images import check_images_exist, image_size, list_images, safe_join
from formats.io.errors import InputError, expected_one_of
from formats.io.files import write_whole
from formats.io.plurals import many, verb
from formats.io.ranges import Count, check_ranges
from formats.label_map import read_label_map, write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.odvg_lines import is_quarantined
from formats.record import Record
from formats.yolo import data_yaml_of
from grounding_model.data.sources import OdvgData
from grounding_model.training.config import TrainConfig

logger = logging.getLogger(__name__)

SPLIT_SEED = 0  # the choice of held-back images depends only on this and on the labels


@dataclass(frozen=True)
class KnownLabels:
    """Labels made by a person for some of the images of the loop.

    annotations: an ODVG file with its label map beside it; these images are not labelled again.
    held_back: share of them that no training uses; they evaluate the rounds if the configuration has no evaluation.
    share: share of the images in later epochs that have a person's labels; the others have pseudo-labels.
    steps: steps of the first training, which uses only these labels; None: as many as in the others.
    best_of: number of evaluations on the held-back labels during a training, evenly spread, of which the best weights
    are used. 1 uses the last weights without evaluating.
    """

    annotations: Path
    held_back: float = 0.2
    share: float = 0.5
    steps: int | None = None
    best_of: Count = field(default=1, repr=False)  # not in the repr, so that the keys of older loops stay valid

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("held_back", "share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"labelled.{name}", f"{getattr(self, name)}", "expected a share from 0 to below 1")
        if self.steps is not None and self.steps < 1:
            raise InputError("labelled.steps", f"{self.steps}", "expected 1 or more")
        if self.best_of > 1 and not self.held_back:
            raise InputError("labelled.best_of", f"{self.best_of}, but held_back is 0", "expected a share held back")


class LabelledSplit(NamedTuple):
    """training: the labels that every round trains on. held_back: those that evaluate the rounds, or None.
    best_of: see KnownLabels."""

    training: OdvgData
    held_back: OdvgData | None
    best_of: int = 1

    def watching(self, settings: TrainConfig) -> TrainConfig:
        """The settings of a training, with the evaluations that choose the best weights."""
        if self.held_back is None or self.best_of == 1:
            return settings
        watched = replace(settings, validate=(self.held_back,), validate_scale=None, keep_best=True)
        if settings.steps is not None:
            return replace(watched, validate_every=math.ceil(settings.steps / self.best_of))
        assert settings.epochs is not None
        return replace(watched, validate_every=0, validate_every_epochs=settings.epochs / self.best_of)

    def beside(self, pseudo: OdvgData, share: float) -> OdvgData:
        """The training part, weighted to be this share of an epoch with these pseudo-labels."""
        known, found = count_images(self.training), count_images(pseudo)
        return replace(self.training, weight=share / (1 - share) * found / known)


def import_labels(
    labels: Path, out: Path, images: Path, label_format: str | None, categories: Sequence[str] | None
) -> tuple[str, ...]:
    """Converts labels of any supported format to an ODVG file with a label map beside it; returns the categories.

    label_format: detected when None. categories: the names in the order of the labels, for a format without names; for
    YOLO by default those of data.yaml. An image without a YOLO file counts as not labelled.
    Raises InputError when the format is not detected, a labelled image is not in the folder, or nothing is labelled.
    """
    source_format = label_format or guess_format(labels)
    if source_format not in READERS:
        raise InputError("labels_format", f"'{source_format}'", expected_one_of(READERS, source_format))
    takes = inspect.signature(READERS[source_format]).parameters
    options: dict[str, Any] = {"image_dir": images} if "image_dir" in takes else {}
    if source_format == "yolo":
        options["labelled_only"] = True
    _refuse_other_names(source_format, labels, categories, options)
    summary = convert(source_format, "odvg", labels, out, categories=categories, **options)
    try:
        records = _keep_labelled(labels, out)
        _check_usable(records, labels, images)
        _check_sizes(records, labels, images)
        if not set(list_images(images)) - {record.filename for record in records}:
            raise InputError(labels, "labels every image of the folder", "expected images without labels too")
    except InputError:  # what it wrote would be in the way of the next attempt
        out.unlink()
        label_map_beside(out).unlink(missing_ok=True)
        raise
    _warn_of_scores(labels, records)
    for remark in summary.splitlines()[1:]:  # what was left out, and what looks wrong
        logger.warning("%s", remark)
    return tuple(read_label_map(label_map_beside(out)).values())


def _warn_of_scores(labels: Path, records: Sequence[Record]) -> None:
    """Boxes with a score are a model's, and those held back would not measure how good the next model is."""
    if scored := sum(box.score is not None for record in records for box in record.instances or ()):
        logger.warning(
            "%s: %s a score, so a model made them; expected labels that a person made or checked",
            labels,
            f"{many(scored, 'box')} {verb(scored, 'has', 'have')}",
        )


def _keep_labelled(labels: Path, out: Path) -> list[Record]:
    """Removes lines without labels, whose images are labelled by the model like the others; returns what is left."""
    records = list(read_odvg(out))
    if any(record.caption is not None for record in records):
        raise InputError(labels, "has captions", "expected boxes with categories")
    left = [record for record in records if record.instances is not None]
    if not left:  # reported as labels without boxes
        return records
    if len(left) < len(records):
        count = many(len(records) - len(left), "line")
        logger.warning("%s: %s without labels left out, to be labelled like the others", labels, count)
        write_odvg(out, left)
    return left


def _check_sizes(records: Sequence[Record], labels: Path, images: Path) -> None:
    """Raises InputError if an image has another size than its labels say: training could not use it."""
    for record in records:
        height, width = image_size(safe_join(images, record.filename))
        if (height, width) != (record.height, record.width):
            what = f"says that {record.filename} is {record.width}x{record.height}, but it is {width}x{height}"
            raise InputError(labels, what, "expected the images that were labelled, in the same size")


def check_known_labels(labels: Path, images: Path, categories: Sequence[str], annotations: Path) -> None:
    """Raises InputError if labels cannot teach a model to detect the categories: an image is missing, there is no box,
    or no category is among them. Warns about each category that they do not name.

    annotations: the file that the loop labels. Also raises if it has one of these images, which would be trained on
    twice, although it may be held back.
    """
    records = [each for each in read_odvg(labels, on_problem=lambda problem: None) if each.instances is not None]
    _check_usable(records, labels, images)
    known = {record.filename for record in records}
    if both := sorted(known & {each.filename for each in read_odvg(annotations, on_problem=lambda problem: None)}):
        what = f"lists {many(len(both), 'image')} that {labels.name} labels, such as {both[0]}"
        remedy = "expected the other images only: choose another data.annotations, which is then made from the folder"
        raise InputError(annotations, what, remedy)
    names = read_label_map(label_map_beside(labels)).values()
    unknown = [name for name in categories if name not in names]
    if len(unknown) == len(categories):
        what = f"has {', '.join(names)}, and none of data.categories: {', '.join(categories)}"
        raise InputError(label_map_beside(labels), what, "expected labels of these categories")
    if unknown:
        logger.warning("%s has no category %s, so the first model does not learn it", labels, ", ".join(unknown))


def _check_usable(records: Sequence[Record], labels: Path, images: Path) -> None:
    """Raises InputError if a labelled image is not in the folder, or nothing is labelled."""
    filenames = [record.filename for record in records]
    check_images_exist(images, filenames, labels, "expected file names relative to this folder")
    if twice := [name for name, count in Counter(filenames).items() if count > 1]:
        what = f"lists {many(len(twice), 'image')} more than once, such as {twice[0]}"
        raise InputError(labels, what, "expected one line for each image")
    if not any(not each.ignore for record in records for each in record.instances or ()):
        raise InputError(labels, "contains no boxes", "expected labelled images")


def _refuse_other_names(
    source_format: str, labels: Path, categories: Sequence[str] | None, options: Mapping[str, Any]
) -> None:
    """Raises InputError if the categories differ from the names in the labels, which they would rename."""
    if categories is None or (source_format == "yolo" and data_yaml_of(labels) is None):
        return
    known = read_names(source_format, labels, None, options)
    if set(known) != set(categories):
        what = f"are {', '.join(categories)}, and those of {labels} are {', '.join(known)}"
        raise InputError("categories", what, "leave them out: the labels name the categories")


def split_labels(known: KnownLabels, images: Path, folder: Path) -> LabelledSplit:
    """Writes the two parts into the folder, the same in every run. Raises InputError if nothing is left to train on."""
    lines = usable_lines(known.annotations)
    held = round(known.held_back * len(lines))
    chosen = set(random.Random(SPLIT_SEED).sample(range(len(lines)), held))
    parts: dict[str, list[str]] = {"train": [], "held_back": []}
    for index, line in enumerate(lines):
        parts["held_back" if index in chosen else "train"].append(line)
    if not parts["train"]:
        raise InputError(known.annotations, "no labelled image is left to train on", "expected more, or held_back = 0")
    names = read_label_map(label_map_beside(known.annotations))
    train, held_back = (_write(folder, name, lines, names, images) for name, lines in parts.items())
    return LabelledSplit(train, held_back if held else None, known.best_of if held else 1)


def usable_lines(annotations: Path) -> list[str]:
    """The lines of an ODVG file that have labels, without line breaks."""
    if not annotations.is_file():
        raise InputError(annotations, "no such file", "expected an ODVG file: groundhog convert writes them")
    lines = (line.text for line in read_lines(annotations))
    return [line for line in lines if not is_quarantined(line) and not _is_unlabelled(line)]


def _is_unlabelled(line: str) -> bool:
    try:
        entries = json.loads(line)
    except (ValueError, RecursionError):  # training reports it
        return False
    return isinstance(entries, dict) and entries.get("detection") is None


def _write(folder: Path, part: str, lines: Sequence[str], names: Mapping[int, str], images: Path) -> OdvgData:
    path = part_path(folder / "labelled_od.json", part)
    with write_whole(path) as file:
        file.writelines(f"{line}\n" for line in lines)
    label_map = label_map_path(folder, f"labelled_{part}")
    write_label_map(label_map, names)
    return OdvgData(path, images, label_map)
