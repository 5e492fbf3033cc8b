"""`groundhog detect`: detects objects in images, draws the boxes, and writes them as JSON."""

from __future__ import annotations

import glob
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isnan, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from browse.draw import draw_record
from browse.images.pictures import reduced_picture
from flows.detection.download import fetch, is_url
from flows.detection.options import DetectOptions
from flows.labelling.mirrored import shown_as
from formats.images import IMAGE_SUFFIXES, images_of_folder
from formats.io.errors import InputError
from formats.io.files import write_json, write_whole
from formats.io.progress import show_progress
from formats.record import Record
from grounding_model.detector import load_detector
from grounding_model.inputs.image import read_image
from grounding_model.inputs.prompt import Prompt
from grounding_model.students.detector import ClosedSetDetector

JPEG_QUALITY = 92  # the names on a picture are small
DRAWN_PIXELS = 1 << 26  # maximum of a drawing; larger ones would take gigabytes of memory
# The palettes of the reference's command; here each of them means one colour per label, whatever the data set.
PALETTES_OF_REFERENCE = ("none", "coco", "voc", "citys")


class DetectResult(NamedTuple):
    """images: number of labelled ones. boxes: number in them. failures: image -> reason."""

    images: int
    boxes: int
    failures: dict[str, str]


class ListedImage(NamedTuple):
    """One image to label. picture, prediction: its files below OUT/vis and OUT/preds."""

    path: Path
    picture: str
    prediction: str


def detect(sources: Sequence[str], prompt: Prompt | None, options: DetectOptions) -> DetectResult:
    """Labels the images of `sources` (files, folders, patterns); writes out_dir/vis/NAME and out_dir/preds/STEM.json.

    prompt: None for all classes of a small detector with fixed classes; InputError for weights that need a prompt.
    Images of a folder keep their subfolders below out_dir. An unusable image is listed in failures; the others are
    labelled. URLs are an error unless options.fetch is set.
    """
    palette = _known_palette(options.palette)
    with TemporaryDirectory(prefix="groundhog-") as downloads:
        local = list(_downloaded(sources, Path(downloads), options.fetch))
        return _detect(find_images(local), prompt, options, palette)


def _detect(images: Sequence[ListedImage], prompt: Prompt | None, options: DetectOptions, palette: str) -> DetectResult:
    if options.save_vis:
        _refuse_to_draw_over(images, options.out_dir)
    settings = options.settings
    detector = load_detector(settings.weights, settings.text_encoder, options.device, settings.dtype)
    prompt = _all_classes(detector, settings.weights) if prompt is None else prompt
    outcomes = shown_as(settings, detector).predict_each(
        [image.path for image in images],
        prompt,
        **settings.detector_arguments() | {"score_threshold": options.score_threshold},
        batch_size=options.batch_size,
        return_all_scores=options.all_scores,
    )
    boxes, failures = 0, {}
    pairs = zip(outcomes, images, strict=True)
    for outcome, image in show_progress(pairs, total=len(images), unit="image", desc="detect"):
        if not isinstance(outcome, Record):
            failures[str(image.path)] = str(outcome.error)
            continue
        prediction = as_prediction(outcome)
        boxes += len(prediction["bboxes"])
        if options.save_pred:
            if options.all_scores:
                prediction["categories"] = list(prompt.labels)
            path = options.out_dir / "preds" / image.prediction
            write_json(path, prediction, indent=None, ensure_ascii=False)
        if options.save_vis:
            try:
                _draw(image.path, outcome, options.out_dir / "vis" / image.picture, palette)
            except InputError as error:
                failures[str(image.path)] = str(error)
    return DetectResult(len(images) - len(failures), boxes, failures)


def _refuse_to_draw_over(images: Sequence[ListedImage], out_dir: Path) -> None:
    """Raises InputError if a drawing would replace one of the images."""
    sources = {os.path.realpath(image.path) for image in images}
    for image in images:
        target = out_dir / "vis" / image.picture
        if os.path.realpath(target) in sources:
            remedy = "expected another out_dir, or save_vis=False"
            raise InputError(target, "is one of the images, and its drawing would replace it", remedy)


def _all_classes(detector: object, weights: str) -> Prompt:
    if isinstance(detector, ClosedSetDetector):
        return Prompt.categories(detector.names)
    raise InputError(weights, "has no fixed classes", "expected a prompt")


def find_images(sources: Sequence[str]) -> list[ListedImage]:
    """Files, folders and patterns -> every image once, with the names of its outputs.

    The name is that of the image, relative to the folder if one was given. If two images would have the same name, all
    names are relative to the folder that contains all images. If two differ only in the suffix, their predictions keep
    it. Raises InputError for a source that does not exist.
    """
    named: dict[Path, str] = {}
    for path, name in _listed(sources):
        named.setdefault(Path(os.path.abspath(path)), name)
    names = list(named.values())
    if len(set(names)) < len(names):
        root = os.path.commonpath([path.parent for path in named])
        names = [path.relative_to(root).as_posix() for path in named]
    stems = [Path(name).with_suffix("").as_posix() for name in names]
    taken = Counter([*stems, *names])
    return [
        ListedImage(path, _drawable(name), f"{stem if taken[stem] == 1 else name}.json")
        for path, name, stem in zip(named, names, stems)
    ]


def as_prediction(record: Record) -> dict[str, list[Any]]:
    """{"labels", "label_names", "scores", "bboxes"} of a record, best first.

    For a ScoredRecord also "all_scores", a list for each box, with null for labels that were not in its prompt.
    """
    found = [(instance.score, instance.label, instance.category, instance.box) for instance in record.instances or ()]
    for label, region in enumerate(record.regions or ()):
        name = " / ".join(region.phrase)
        found += [(score, label, name, box) for box, score in zip(region.boxes, region.scores)]
    order = sorted(range(len(found)), key=lambda index: -(found[index][0] or 0.0))
    found = [found[index] for index in order]
    prediction: dict[str, list[Any]] = {
        "labels": [label for _, label, _, _ in found],
        "label_names": [name for _, _, name, _ in found],
        "scores": [score for score, _, _, _ in found],
        "bboxes": [list(box) for _, _, _, box in found],
    }
    all_scores = getattr(record, "all_scores", None)
    if all_scores is not None:
        rows = all_scores[order].tolist()
        prediction["all_scores"] = [[None if isnan(score) else score for score in row] for row in rows]
    return prediction


def _downloaded(sources: Sequence[str], folder: Path, allowed: bool) -> Iterator[str]:
    """The sources, with every URL replaced by a local file."""
    for index, source in enumerate(sources):
        if not is_url(source):
            yield source
        elif allowed:
            yield str(fetch(source, folder / str(index)))
        else:
            raise InputError(
                source, "is a URL, and downloads are off", "expected fetch=True, or a file that you have downloaded"
            )


def _listed(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from ((path / name, name) for name in images_of_folder(path))
        elif path.exists():
            yield path, path.name
        else:
            matches = [Path(match) for match in sorted(glob.glob(source, recursive=True))]
            files = [match for match in matches if match.is_file()]
            if not files:
                raise InputError(source, "no such file, folder or pattern", "expected images")
            yield from ((file, file.name) for file in files)


def _known_palette(palette: str) -> str:
    """The palette in browse's terms. Raises InputError, before anything is drawn, for an unknown one."""
    if palette in PALETTES_OF_REFERENCE:
        return "category"
    if palette not in ("category", "random"):
        try:
            ImageColor.getrgb(palette)
        except ValueError:
            known = ", ".join(("category", "random", *PALETTES_OF_REFERENCE))
            raise InputError(
                "palette", f"'{palette}' is not a colour", f"expected {known}, or red, #ff8800 …"
            ) from None
    return palette


def _drawable(name: str) -> str:
    """The name of the drawing: that of the image, with .png appended if its suffix is none of an image format."""
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"


def _draw(path: Path, record: Record, target: Path, palette: str) -> None:
    """Draws the boxes; an image of more than DRAWN_PIXELS is reduced first.

    Raises InputError for a picture that its format cannot store, such as WebP of more than 16,383 pixels a side.
    """
    area = record.width * record.height
    if area > DRAWN_PIXELS:
        pixels = reduced_picture(path, int(max(record.width, record.height) * sqrt(DRAWN_PIXELS / area)))
    else:
        pixels = read_image(path)
    picture = Image.fromarray(np.ascontiguousarray(draw_record(pixels, record, palette)))
    kind = Image.registered_extensions()[target.suffix.lower()]
    encoded = io.BytesIO()  # encoded first, so that a full disk is not reported as a fault of this picture
    try:
        picture.save(encoded, format=kind, quality=JPEG_QUALITY)
    except (OSError, ValueError) as error:
        size = f"{picture.width} x {picture.height}"
        raise InputError(
            target, f"{size} pixels cannot be saved as {kind} ({error})", "save it as PNG, or use save_vis=False"
        ) from error
    with write_whole(target, "wb") as file:
        file.write(encoded.getbuffer())
